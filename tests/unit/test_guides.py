"""Which teacher guides which level, and what a lesson under teachers of one rate gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdbench.data import CropList, draw_crops
from kdbench.errors import CodecError, StoreError
from kdbench.foreign import OneRate
from kdbench.guides import (
    coordinates_of,
    load_teachers,
    open_caches,
    require_caches_fit,
    shares,
    teacher_sha,
)
from kdbench.lesson import _teachers
from kdbench.levels import Guided, LevelDistiller
from kdbench.records import Coordinates, TrialSpec
from tests.support.codecs import architecture, photos, save_teacher
from tests.support.lessons import BATCH, opened, spec_of
from tests.support.zoo import put_small

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013)
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _zoo(tmp_path: Path, monkeypatch: Patch) -> None:
    for quality in range(1, 6):
        put_small(monkeypatch, tmp_path, "mbt2018-mean", quality, seed=quality)
    _teachers.cache_clear()


@pytest.fixture(scope="module")
def crops() -> CropList:
    return draw_crops(photos(), 24, 64, seed=0)


def spec(name: str, **more: Any) -> TrialSpec:
    return spec_of(name, RD_LAMBDAS, **more)


# --- levels --------------------------------------------------------------------------------------


def test_each_model_of_one_rate_guides_the_level_of_its_rd_lambda() -> None:
    teachers = load_teachers("zoo:mbt2018-mean/2-5")
    found = shares("zoo:mbt2018-mean/2-5", teachers, RD_LAMBDAS)
    assert [(s.teacher.name, s.levels) for s in found] == [
        ("zoo:mbt2018-mean/2", (1,)),
        ("zoo:mbt2018-mean/3", (2,)),
        ("zoo:mbt2018-mean/4", (3,)),
    ]


def test_a_codec_of_ours_guides_every_level(tmp_path: Path) -> None:
    path = save_teacher(tmp_path / "t.safetensors", architecture(n_levels=4), rd_lambdas=RD_LAMBDAS)
    name = f"file:{path}"
    (share,) = shares(name, load_teachers(name), RD_LAMBDAS)
    assert share.levels == (0, 1, 2, 3)
    assert teacher_sha(name) == share.teacher.sha
    with pytest.raises(CodecError, match=r"no level for rd_lambda 0\.5"):
        shares(name, load_teachers(name), (0.0018, 0.5))


def test_a_teacher_of_no_level_of_the_study_is_an_error_with_both_sides() -> None:
    name = "zoo:mbt2018-mean/5"
    with pytest.raises(CodecError, match=r"for rd_lambda 0\.025, and the study has no such") as no:
        shares(name, load_teachers(name), RD_LAMBDAS)
    assert "0.0018, 0.0035, 0.0067, 0.013" in no.value.problem


def test_several_models_share_no_gaussians_and_are_known_by_all_their_files() -> None:
    one, several = (load_teachers(f"zoo:mbt2018-mean/{q}") for q in ("3", "1-3"))
    assert coordinates_of(one) == Coordinates(16, "mean_scale")
    assert coordinates_of(several) == Coordinates(16, None)
    shas = {teacher_sha(f"zoo:mbt2018-mean/{q}") for q in ("3", "1-3", "1-4")}
    assert len(shas) == 3
    assert one[0].sha in shas


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_holds_each_teachers_targets_for_the_samples_of_its_level(
    tmp_path: Path, crops: CropList
) -> None:
    lesson = opened(spec("zoo:mbt2018-mean/1-3", latent=0.1), tmp_path, crops)
    teachers = load_teachers("zoo:mbt2018-mean/1-3")
    for step in range(3):
        batch = lesson.batch(step)
        guided = batch.targets
        assert isinstance(guided, list)
        for level, (teacher, (rows, targets)) in enumerate(zip(teachers, guided, strict=True)):
            assert rows.tolist() == [i for i in range(BATCH) if batch.levels[i] == level]
            pixels = (batch.x[rows] * 255).round().to(torch.uint8)
            expected = teacher.outputs(pixels, (0,))
            torch.testing.assert_close(targets.y, expected["y"].float(), rtol=1e-2, atol=1e-2)
            assert targets.means is not None
            assert targets.x_hat.shape == pixels.shape


def test_samples_that_nobody_guides_have_no_terms_and_the_others_weigh_as_ever(
    tmp_path: Path, crops: CropList
) -> None:
    given = spec("zoo:mbt2018-mean/3", latent=0.5, hyper_latent=0.5, output=0.5)
    lesson = opened(given, tmp_path, crops)
    model = lesson.started()
    distiller, batch = lesson.distiller, lesson.batch(0)
    assert isinstance(distiller, LevelDistiller)
    assert isinstance(batch.targets, list)
    ((rows, targets),) = batch.targets
    assert 0 < len(rows) < BATCH
    rd_lambda = torch.tensor(RD_LAMBDAS)[batch.levels]
    out = model(batch.x, batch.levels)
    found = distiller(out, batch.targets, rd_lambda)
    own = {k: out[k][rows] for k in ("y", "z", "scales", "x_hat")}
    alone = distiller.each[0](own, targets, rd_lambda[rows])
    assert found.keys() == {"latent", "hyper_latent", "output"}
    for name, term in found.items():
        assert term.item() == pytest.approx(alone[name].item() * len(rows) / BATCH)
    (gradient,) = torch.autograd.grad(sum(found.values()), out["x_hat"])
    silent = [i for i in range(BATCH) if i not in rows]
    assert not gradient[silent].any()
    assert gradient[rows].flatten(1).any(1).all()


def test_a_batch_without_a_guided_sample_has_no_terms(tmp_path: Path, crops: CropList) -> None:
    lesson = opened(spec("zoo:mbt2018-mean/3", latent=0.5), tmp_path, crops)
    lesson.started()
    batch = lesson.batch(0)
    assert isinstance(batch.targets, list)
    nobody = [Guided(torch.tensor([], dtype=torch.int64), g.targets) for g in batch.targets]
    assert lesson.distiller is not None
    assert lesson.distiller({}, nobody, torch.ones(BATCH)) == {}


def test_models_of_several_rates_are_met_through_connectors_of_their_own(
    tmp_path: Path, crops: CropList
) -> None:
    """Trained apart, they share no coordinates; one alone is met as it is at equal widths."""
    for quality, n_connectors in (("3", 0), ("1-3", 3)):
        given = spec(f"zoo:mbt2018-mean/{quality}", latent=0.5, hyper_latent=0.5)
        lesson = opened(given, tmp_path, crops)
        lesson.started()
        assert lesson.distiller is not None
        names = [n for n, _ in lesson.distiller.named_parameters() if n.endswith("weight")]
        assert len(names) == 2 * n_connectors
    wide = spec("zoo:mbt2018-mean/3", channels=24, latent=0.5)
    lesson = opened(wide, tmp_path, crops)
    lesson.started()
    assert isinstance(lesson.distiller, LevelDistiller)
    y = lesson.distiller.get_submodule("each.0.y_connector")(torch.ones(1, 24, 4, 4))
    assert y.shape == (1, 16, 4, 4)


def test_the_start_is_that_of_a_student_without_a_teacher(tmp_path: Path, crops: CropList) -> None:
    taught = opened(spec("zoo:mbt2018-mean/3", latent=0.5), tmp_path, crops).started()
    alone = opened(spec(None), tmp_path, crops).started()  # type: ignore[arg-type]
    expected = alone.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in taught.state_dict().items())


def test_the_bound_of_the_cache_counts_all_teachers_together(
    tmp_path: Path, crops: CropList
) -> None:
    teachers = shares("it", load_teachers("zoo:mbt2018-mean/1-4"), RD_LAMBDAS)
    bound = 6e-4  # GiB; each of the four takes some 4e-4
    open_caches(teachers[:1], crops, RD_LAMBDAS, tmp_path / "one", cache_gib=bound)
    with pytest.raises(StoreError, match=r"outputs on 24 crops need 0\.00 GiB, more than"):
        open_caches(teachers, crops, RD_LAMBDAS, tmp_path / "all", cache_gib=bound)
    assert not (tmp_path / "all").exists()
    require_caches_fit(teachers[:1], crops, RD_LAMBDAS, cache_gib=bound)
    with pytest.raises(StoreError, match=r"more than `data\.cache_gib`"):
        require_caches_fit(teachers, crops, RD_LAMBDAS, cache_gib=bound)


def test_a_model_alone_and_in_a_range_has_one_cache(tmp_path: Path, crops: CropList) -> None:
    told: list[tuple[int, int]] = []
    for name in ("zoo:mbt2018-mean/3", "zoo:mbt2018-mean/2-3"):
        open_caches(
            shares(name, load_teachers(name), RD_LAMBDAS),
            crops,
            RD_LAMBDAS,
            tmp_path / "cache",
            cache_gib=1.0,
            on_progress=lambda done, n: told.append((done, n)),
        )
    assert told == [(16, 24), (24, 24), (16, 48), (24, 48)]  # 3; of 2 and 3, only 2
    assert len([p for p in (tmp_path / "cache").glob("teacher-*") if p.is_dir()]) == 2


def test_teachers_are_those_of_the_contract() -> None:
    (teacher,) = load_teachers("zoo:mbt2018-mean/3")
    assert isinstance(teacher, OneRate)
    crops = torch.from_numpy(np.zeros((2, 3, 64, 64), np.uint8))
    assert {*teacher.outputs(crops, (0,))} == {"y", "z", "scales", "means", "x_hat"}
    assert teacher.gains((0,)).tolist() == [[[[1.0]]]]
