"""The feature term: zero where a 1x1 convolution makes the teacher's features, cached, in bits."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.data import CropList, draw_crops
from kdbench.distill import Distiller, Targets
from kdbench.errors import TrainingError
from kdbench.features import BITS_PER_VARIANCE, FeatureTerm, tapped
from kdbench.lesson import Lesson
from kdbench.levels import LevelDistiller
from kdbench.records import Training
from kdbench.train import train
from tests.support.codecs import architecture, as_tensor, crops, finished, photos, save_teacher
from tests.support.lessons import opened, spec_of
from tests.support.zoo import put_small

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013)
PIXELS = 64 * 64


@pytest.fixture(scope="module")
def crop_list() -> CropList:
    return draw_crops(photos(), 24, 64, seed=0)


# --- the term ------------------------------------------------------------------------------------


def _maps(channels: int, seed: int) -> Tensor:
    return torch.randn(8, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_it_is_next_to_nothing_where_a_1x1_convolution_makes_the_teachers_features() -> None:
    own = _maps(5, 0)
    mixed = nn.Conv2d(5, 9, 1)(own).detach()
    term = FeatureTerm(own, mixed)
    with torch.no_grad():
        assert float(term(own, mixed, PIXELS)) < 1e-4 * float(term(0 * own, mixed, PIXELS))


def test_an_error_of_one_variance_in_one_channel_costs_half_a_nat_each_place() -> None:
    theirs = _maps(3, 1) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    term = FeatureTerm(_maps(3, 2), theirs)
    nn.init.zeros_(term.connector.weight)
    nn.init.zeros_(term.connector.bias)  # type: ignore[arg-type]
    error = torch.zeros(2, 3, 6, 6)
    error[:, 1] = theirs[:, 1].std()
    assert pytest.approx(1 / (2 * math.log(2))) == BITS_PER_VARIANCE
    found = term(torch.zeros(2, 3, 6, 6), error, PIXELS).item()
    assert found == pytest.approx(BITS_PER_VARIANCE * 36 / PIXELS, rel=1e-4)


def test_a_channel_that_never_varies_counts_no_more_than_a_hundred_times_the_mean() -> None:
    theirs = _maps(2, 1)
    theirs[:, 0] = 3.0
    term = FeatureTerm(_maps(2, 2), theirs)
    assert float(term.variance[0]) == pytest.approx(
        0.01 * float(theirs.transpose(0, 1).flatten(1).var(1).mean())
    )


def test_maps_of_two_sizes_cannot_be_connected() -> None:
    with pytest.raises(TrainingError, match="is 6x6 in the student and 3x3 in its teacher"):
        FeatureTerm(_maps(2, 0), _maps(2, 1)[..., :3, :3])


# --- the tap -------------------------------------------------------------------------------------


def test_a_tap_hears_the_named_layer_and_only_inside() -> None:
    model, x = finished(architecture()), as_tensor(crops(2))
    with tapped("it", model, "g_a.3") as tap:
        model(x)
    assert torch.equal(tap.features, model.g_a[:4](x))
    heard = tap.features
    model(1 - x)
    assert torch.equal(tap.features, heard)


def test_a_layer_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with (
        pytest.raises(TrainingError, match=r"the teacher has no layer g_a\.9") as unknown,
        tapped("the teacher", finished(architecture()), "g_a.9"),
    ):
        pass
    assert "one of g_a.0, g_a.1" in unknown.value.fix
    assert "g_s.6" in unknown.value.fix


# --- in a lesson ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["g_a.5", "g_s.1"])
def test_a_student_learns_features_of_a_layer_before_and_after_the_gains(
    layer: str, tmp_path: Path, crop_list: CropList
) -> None:
    """The cached features are those the teacher has at the samples' levels."""
    plan = architecture(12, n_levels=4)
    path = save_teacher(tmp_path / "t.safetensors", plan, rd_lambdas=RD_LAMBDAS)
    lesson = opened(
        spec_of(f"file:{path}", RD_LAMBDAS, features=0.5, feature_layer=layer), tmp_path, crop_list
    )
    student = lesson.started()
    batch = lesson.batch(0)
    teacher = finished(plan, rd_lambdas=RD_LAMBDAS)
    with torch.no_grad(), tapped("the teacher", teacher, layer) as tap:
        teacher(batch.x, batch.levels)
    assert isinstance(batch.targets, Targets)
    assert batch.targets.features is not None
    torch.testing.assert_close(batch.targets.features, tap.features, rtol=5e-3, atol=5e-2)
    rows = _trained(student, lesson)
    assert all(row["loss"] == pytest.approx(row["rd_loss"] + row["features"]) for row in rows)
    assert min(row["features"] for row in rows) > 0
    assert not student.g_a[5]._forward_hooks  # nothing listens any more


def test_it_moves_what_comes_before_the_layer_and_its_connector(
    tmp_path: Path, crop_list: CropList
) -> None:
    path = save_teacher(
        tmp_path / "t.safetensors", architecture(12, n_levels=4), rd_lambdas=RD_LAMBDAS
    )
    lesson = opened(spec_of(f"file:{path}", RD_LAMBDAS, features=0.5), tmp_path, crop_list)
    student, batch = lesson.started(), lesson.batch(0)
    assert isinstance(lesson.distiller, Distiller)
    with tapped("the student", student, "g_a.5") as tap:
        out = student(batch.x, batch.levels) | {"features": tap.features}
    rd_lambda = torch.tensor(RD_LAMBDAS)[batch.levels]
    lesson.distiller(out, batch.targets, rd_lambda)["features"].backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.rsplit(".", 1)[0] for name in moved} == {f"g_a.{i}" for i in range(6)}
    assert lesson.distiller.feature_term is not None
    assert lesson.distiller.feature_term.connector.weight.grad is not None


def test_teachers_of_one_rate_each_have_a_feature_term_of_their_own(
    tmp_path: Path, crop_list: CropList, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quality in (1, 2):
        put_small(monkeypatch, tmp_path, "mbt2018-mean", quality, seed=quality)
    given = spec_of("zoo:mbt2018-mean/1-2", RD_LAMBDAS, features=0.5)
    lesson = opened(given, tmp_path, crop_list)
    student = lesson.started()
    assert isinstance(lesson.distiller, LevelDistiller)
    terms = [each.feature_term for each in lesson.distiller.each]
    assert all(isinstance(term, FeatureTerm) for term in terms)
    assert terms[0] is not terms[1]
    assert any("features" in row for row in _trained(student, lesson))


def _trained(student: Hyperprior, lesson: Lesson) -> list[dict[str, float]]:
    training = Training(steps=4, batch=6, crop_px=64, rd_lambdas=RD_LAMBDAS, learning_rate=1e-3)
    log = train(
        student,
        lesson.batch,
        training,
        distiller=lesson.distiller,
        seed=0,
        device="cpu",
        precision="fp32",
        log_every=1,
    )
    return log.rows
