"""Teachers of one rate that are not ours: what is heard of them, and who cannot teach."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdbench import zoo
from kdbench.data import CropList, draw_crops
from kdbench.errors import CodecError
from kdbench.foreign import OneRate, heard, one_rate
from kdbench.guides import load_teachers, teacher_sha
from kdbench.records import Offer
from kdbench.teacher import TeacherCache
from tests.support.codecs import as_tensor, crops, photos
from tests.support.zoo import put_small

Patch = pytest.MonkeyPatch
OFFERS = {
    "bmshj2018-factorized": Offer(channels=16, hyper_width=None, prior=None),
    "bmshj2018-hyperprior": Offer(channels=16, hyper_width=8, prior="scale"),
    "mbt2018-mean": Offer(channels=16, hyper_width=8, prior="mean_scale"),
    "mbt2018": Offer(channels=16, hyper_width=8, prior="mean_scale"),
    "cheng2020-anchor": Offer(channels=8, hyper_width=8, prior="mean_scale"),
    "cheng2020-attn": Offer(channels=16, hyper_width=16, prior="mean_scale"),
}


def teacher_of(patch: Patch, home: Path, name: str) -> OneRate:
    put_small(patch, home, name, 3)
    (found,) = load_teachers(f"zoo:{name}/3")
    assert isinstance(found, OneRate)
    return found


@pytest.mark.parametrize("name", OFFERS)
def test_what_a_model_of_the_zoo_offers_is_what_its_forward_pass_uses(
    name: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    teacher = teacher_of(monkeypatch, tmp_path, name)
    assert teacher.offer == OFFERS[name]
    by_name = zoo.coordinates(f"zoo:{name}/3")
    assert teacher.offer.coordinates[1:] == by_name[1:]
    assert (teacher.rd_lambdas, teacher.name) == ((0.0067,), f"zoo:{name}/3")
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.sha == teacher_sha(f"zoo:{name}/3")


@torch.no_grad()
def test_means_scales_and_latents_are_those_of_the_models_equations(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    model: Any = teacher_of(monkeypatch, tmp_path, "mbt2018-mean").model
    x = as_tensor(crops(2))
    found = heard("it", model, x)
    y = model.g_a(x)
    z = model.h_a(y)
    scales, means = model.h_s(model.entropy_bottleneck(z)[0]).chunk(2, 1)
    x_hat = model.g_s((y - means).round() + means)
    for name, expected in {"y": y, "z": z, "scales": scales, "means": means}.items():
        assert torch.equal(found[name], expected), name
    torch.testing.assert_close(found["x_hat"], x_hat)


@pytest.fixture(scope="module")
def crop_list() -> CropList:
    return draw_crops(photos(), 20, 64, seed=0)


@pytest.mark.parametrize("name", OFFERS)
def test_its_cache_gives_what_the_live_teacher_gives(
    name: str, tmp_path: Path, monkeypatch: Patch, crop_list: CropList
) -> None:
    teacher = teacher_of(monkeypatch, tmp_path, name)
    cache = TeacherCache.open(teacher, crop_list, (0.0067,), tmp_path / "cache", cache_gib=1.0)
    found = cache.targets(np.array([1, 5]), torch.zeros(2, dtype=torch.int64), "cpu")
    pixels = torch.from_numpy(np.array(crop_list.crops(tmp_path / "cache")[:16]))
    live = heard("it", teacher.model, pixels.float() / 255)
    for what in ("y", "z", "scales", "means"):
        cached: Tensor | None = getattr(found, what)
        assert (cached is None) is (what not in live), what
        if cached is not None:
            assert torch.equal(cached, live[what][[1, 5]].half().float()), what
    expected = live["x_hat"][[1, 5]].clamp(0, 1).mul(255).round() / 255
    assert torch.equal(found.x_hat, expected)


def test_a_level_that_is_not_its_own_is_an_error(tmp_path: Path, monkeypatch: Patch) -> None:
    teacher = teacher_of(monkeypatch, tmp_path, "mbt2018-mean")
    assert teacher.levels_for((0.0067,)) == (0,)
    with pytest.raises(CodecError, match=r"was trained for rd_lambda 0\.0067 alone"):
        teacher.levels_for((0.0067, 0.013))


# --- who cannot teach ----------------------------------------------------------------------------


class Odd(nn.Module):
    """A codec with one thing wrong."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        stride = 8 if fault == "stride" else 16
        self.g_a = nn.Conv2d(3, 4, stride, stride)
        self.g_s = nn.ConvTranspose2d(4, 3, stride, stride)
        self.fault = fault

    def forward(self, x: Tensor) -> Any:
        if self.fault == "deaf":
            return {"x_hat": x}
        x_hat = self.g_s(self.g_a(x))
        if self.fault == "raises":
            raise RuntimeError("its tables hold 14x14 patches\nand more")
        if self.fault == "bare":
            return x_hat
        return {"x_hat": x_hat[..., :-1] if self.fault == "cut" else x_hat}


def test_a_model_without_a_hyperprior_offers_its_latent_alone() -> None:
    found = one_rate("plugin:odd", Odd(), sha="ab", rd_lambda=0.01)
    assert found.offer == Offer(channels=4, hyper_width=None, prior=None)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("stride", r"y of a 64x64 px image has the shape \(1, 4, 8, 8\); .* \(1, any, 4, 4\)"),
        ("deaf", r"has no latent: its forward calls no module g_a"),
        ("raises", r"cannot code images of 64x64 px: RuntimeError: its tables hold 14x14 patches$"),
        ("bare", r"cannot code images of 64x64 px: IndexError"),
        ("cut", r"x_hat of a 64x64 px image has the shape \(1, 3, 64, 63\)"),
    ],
)
def test_a_model_that_cannot_teach_says_why(fault: str, problem: str) -> None:
    with pytest.raises(CodecError) as wrong:
        one_rate("plugin:odd", Odd(fault), sha="ab", rd_lambda=0.01)
    assert re.search(problem, wrong.value.problem)
