"""One model a rate, hybrids, auto-encoders: what a lesson makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import hybrid
from kdbench.codecs.context import Context
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.data import CropList, draw_crops
from kdbench.distill import rate_distortion
from kdbench.errors import CodecError
from kdbench.guides import Faculty, teacher_sha
from kdbench.lesson import _teachers
from kdbench.levels import LevelDistiller
from kdbench.rateless import without_rate
from kdbench.rd import joined
from kdbench.records import Coordinates, Hyper, TrialSpec
from tests.support.codecs import architecture, photos, save_teacher
from tests.support.lessons import opened, spec_of
from tests.support.results import curve
from tests.support.zoo import put_small

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013)
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _zoo(tmp_path: Path, monkeypatch: Patch) -> None:
    for quality in (1, 2, 3):
        put_small(monkeypatch, tmp_path, "mbt2018-mean", quality, seed=quality)
    _teachers.cache_clear()


@pytest.fixture(scope="module")
def crops() -> CropList:
    return draw_crops(photos(), 24, 64, seed=0)


def ours(folder: Path, name: str = "t", **kwargs: Any) -> str:
    plan = architecture(n_levels=len(RD_LAMBDAS), **kwargs)
    return f"file:{save_teacher(folder / f'{name}.safetensors', plan, rd_lambdas=RD_LAMBDAS)}"


def per_lambda(spec: TrialSpec, **changes: Any) -> TrialSpec:
    return replace(spec, training=replace(spec.training, rate="per_lambda", **changes))


# --- one model a rate ------------------------------------------------------------------------


def test_each_rate_has_a_model_and_the_teachers_targets_of_its_level(
    tmp_path: Path, crops: CropList
) -> None:
    given = per_lambda(spec_of(ours(tmp_path), RD_LAMBDAS, latent=0.5))
    whole = opened(
        replace(given, training=replace(given.training, rate="variable")), tmp_path, crops
    )
    lessons = opened(given, tmp_path, crops).each_rate()
    assert [each.spec.training.rd_lambdas for each in lessons] == [(v,) for v in RD_LAMBDAS]
    for level, each in enumerate(lessons):
        assert each.started().architecture.n_levels == 1
        own, theirs = each.batch(0).targets, whole.batch(0)
        assert hasattr(own, "x_hat")
        assert hasattr(theirs.targets, "x_hat")
        rows = theirs.levels == level
        assert torch.equal(own.x_hat[rows], theirs.targets.x_hat[rows])  # type: ignore[union-attr]
        assert torch.equal(own.y[rows], theirs.targets.y[rows])  # type: ignore[union-attr]


def test_models_of_one_rate_guide_the_model_of_their_rate(tmp_path: Path, crops: CropList) -> None:
    given = per_lambda(spec_of("zoo:mbt2018-mean/1-2", RD_LAMBDAS[:2], latent=0.5))
    for each in opened(given, tmp_path, crops).each_rate():
        each.started()
        assert isinstance(each.distiller, LevelDistiller)
        (guided,) = each.batch(0).targets  # type: ignore[misc]
        assert len(guided.rows) == given.training.batch


def test_a_model_that_nobody_would_guide_is_an_error() -> None:
    faculty = Faculty.load("zoo:mbt2018-mean/1-2")
    assert [s.levels for s in faculty.shares(RD_LAMBDAS)] == [(0,), (1,)]
    with pytest.raises(CodecError, match=r"no model of rd_lambda 0\.0067, 0\.013"):
        faculty.shares(RD_LAMBDAS, alone=True)


def test_a_teacher_of_one_rate_may_guide_every_level_as_in_the_paper(
    tmp_path: Path, crops: CropList
) -> None:
    given = spec_of("zoo:mbt2018-mean/3", RD_LAMBDAS, latent=0.5, guides="every")
    lesson = opened(given, tmp_path, crops)
    lesson.started()
    (guided,) = lesson.batch(0).targets  # type: ignore[misc]
    assert len(guided.rows) == given.training.batch
    with pytest.raises(CodecError, match="is for a teacher of one rate"):
        Faculty.load("zoo:mbt2018-mean/1-2").shares(RD_LAMBDAS, guides="every")


def test_curves_of_one_rate_join_by_ascending_bits() -> None:
    low, high = curve(1.0), curve(4.0)
    found = joined([high, low])
    assert [p.bpp for p in found.points] == sorted(p.bpp for p in (*low.points, *high.points))
    assert sorted(p.level for p in found.points) == list(range(6))
    first = next(p for p in found.points if p.level == 0)
    assert first.bpp == high.points[0].bpp
    assert joined([low]) is low


# --- hybrids ---------------------------------------------------------------------------------


def test_each_teacher_of_a_hybrid_serves_its_terms_and_no_other(
    tmp_path: Path, crops: CropList
) -> None:
    one, two = ours(tmp_path, "one", hyper=8), ours(tmp_path, "two", hyper=16)
    name = hybrid.name_of({"latent": one, "hyper_latent": two, "output": one})
    weights: dict[str, Any] = {"latent": 0.5, "hyper_latent": 0.25, "output": 0.125}
    lesson = opened(spec_of(name, RD_LAMBDAS, **weights), tmp_path, crops)
    model = lesson.started()
    distiller, batch = lesson.distiller, lesson.batch(0)
    assert isinstance(distiller, LevelDistiller)
    out = model(batch.x, batch.levels)
    rd_lambda = torch.tensor(RD_LAMBDAS)[batch.levels]
    found = distiller(out, batch.targets, rd_lambda)
    assert found.keys() == weights.keys()
    alone = opened(spec_of(one, RD_LAMBDAS, latent=0.5, output=0.125), tmp_path, crops)
    same = alone.started()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True)
    )
    expected = alone.distiller(out, alone.batch(0).targets, rd_lambda)  # type: ignore[misc]
    assert torch.allclose(found["latent"], expected["latent"])
    assert torch.allclose(found["output"], expected["output"])
    z = distiller.get_submodule("each.1.z_connector")(torch.ones(1, 8, 1, 1))
    assert z.shape == (1, 16, 1, 1)


def test_a_hybrid_is_known_by_all_its_files_and_a_plain_teacher_by_its_own(tmp_path: Path) -> None:
    one, two = ours(tmp_path, "one", hyper=8), ours(tmp_path, "two", hyper=16)
    names = [hybrid.name_of({"latent": a, "hyper_latent": b}) for a, b in ((one, two), (two, one))]
    assert len({teacher_sha(name) for name in (*names, one, two)}) == 4
    assert Faculty.load(names[0]).sha == teacher_sha(names[0])
    assert Faculty.load(one).sha == teacher_sha(one)


def test_coordinates_of_a_hybrid_are_the_latents_teachers() -> None:
    each = {"a": Coordinates(16, "scale"), "b": Coordinates(32, "mean_scale", False)}
    name = "hybrid:latent=a,hyper_latent=b"
    assert hybrid.coordinates(name, each) == Coordinates(16, "scale", False)
    assert hybrid.coordinates("hybrid:output=a", each) == Coordinates(16, None, False)
    assert hybrid.coordinates("a", each) == Coordinates(16, "scale")


# --- hyper-latents of another width ----------------------------------------------------------


def test_z_may_be_wider_than_the_layers_around() -> None:
    plan = replace(architecture(8, hyper=4, latent=16), hyper=Hyper(width=4, channels=12))
    model = Hyperprior(plan).eval()
    out = model(torch.rand(1, 3, 64, 64))
    assert out["z"].shape == (1, 12, 1, 1)
    assert model.h_a[2].out_channels == 4


# --- auto-encoders ---------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["none", "checkerboard"])
@pytest.mark.parametrize("prior", ["scale", "mean_scale"])
def test_without_rate_no_bit_reaches_the_analysis_and_nothing_else_changes(
    prior: Any, context: Any
) -> None:
    torch.manual_seed(0)
    model = Hyperprior(architecture(8, hyper=4, latent=16, prior=prior, context=context)).train()
    if isinstance(model.context, Context):  # one that corrects something
        for layer in (model.context.to_scale, model.context.to_mean):
            torch.nn.init.uniform_(layer.weight, 0.0, 0.1)
    x = torch.rand(2, 3, 64, 64)

    def bits_reach(part: str) -> bool:
        model.zero_grad()
        rate_distortion(model(x), x, torch.ones(2)).bpp.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in getattr(model, part).parameters()]
        return any(grad is not None and bool(grad.any()) for grad in grads)

    before = model(x)["x_hat"]
    assert bits_reach("g_a")
    with without_rate(model):
        assert torch.equal(model(x)["x_hat"], before)
        assert not bits_reach("g_a")
        assert bits_reach("h_s")
        model.zero_grad()
        model(x)["x_hat"].square().mean().backward()
        assert model.g_a[0].weight.grad.any()
    assert bits_reach("g_a")
