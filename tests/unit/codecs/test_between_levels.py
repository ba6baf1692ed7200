"""Qualities between the trained levels: the rate rises with them, near the curve of the levels."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.codecs.bitfile import Image, decode_image, encode_image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import load_codec
from kdbench.coding import position, rd_lambda_at
from kdbench.data import load_images
from kdbench.errors import CodecError
from kdbench.rd import psnr_db
from kdbench.teacher import teacher_path
from tests.support.codecs import architecture, finished

QUARTERS = [i / 4 for i in range(17)]  # of the way from one level to the next, over five levels
N_PHOTOS = 3


@pytest.fixture(scope="module")
def teacher() -> Hyperprior:
    model, _ = load_codec(teacher_path("teacher:default"))
    assert isinstance(model, Hyperprior)
    return model


@pytest.fixture(scope="module")
def curves(teacher: Hyperprior) -> list[list[tuple[float, float]]]:
    """bpp and PSNR of real files of cuts of real photos, at every quarter of a level."""
    photos = load_images("builtin", "evaluation")
    return [
        [coded(teacher, photos.image(i)[100:356, 100:356], level) for level in QUARTERS]
        for i in range(N_PHOTOS)
    ]


def coded(model: Hyperprior, photo: Image, level: float) -> tuple[float, float]:
    data = encode_image(model, photo, level, machine="here")
    return 8 * len(data) / photo[..., 0].size, psnr_db(photo, decode_image(model, data), peak=255)


def test_the_rate_rises_with_the_quality_on_every_photo(
    curves: list[list[tuple[float, float]]],
) -> None:
    for curve in curves:
        bpp = [point[0] for point in curve]
        assert all(low < high for low, high in itertools.pairwise(bpp))


def test_points_between_the_levels_lie_near_the_curve_of_the_levels(
    curves: list[list[tuple[float, float]]],
) -> None:
    """Against a curve through the trained levels alone, in PSNR over the logarithm of bits."""
    for curve in curves:
        bpp, psnr = np.log([b for b, _ in curve]), np.array([p for _, p in curve])
        between = np.interp(bpp, bpp[::4], psnr[::4])
        assert np.abs(psnr - between).max() < 0.15


def test_gains_between_two_levels_are_their_geometric_mean(teacher: Hyperprior) -> None:
    for gain in (teacher.gain, teacher.inverse_gain):
        low, high, middle = gain(1), gain(2), gain(1.5)
        torch.testing.assert_close(middle, (low * high).sqrt())
        assert torch.equal(gain(2.0), high)
        assert torch.equal(gain(4.0), gain(4))


def test_a_whole_level_writes_the_same_strings_however_it_is_said(teacher: Hyperprior) -> None:
    photo = load_images("builtin", "evaluation").image(0)[:64, :64]
    assert encode_image(teacher, photo, 3.0) == encode_image(teacher, photo, 3)


def test_levels_of_a_batch_may_lie_between(teacher: Hyperprior) -> None:
    levels = torch.tensor([0.0, 1.25, 4.0])
    one_by_one: Tensor = torch.cat([teacher.gain(float(level)) for level in levels])
    torch.testing.assert_close(teacher.gain(levels, 3), one_by_one)


@pytest.mark.parametrize("level", [-0.01, 4.01, float("nan"), float("inf")])
def test_a_level_outside_the_trained_ones_is_an_error(teacher: Hyperprior, level: float) -> None:
    with pytest.raises(CodecError, match="outside the trained levels 0 to 4"):
        teacher.gain(level)


@pytest.mark.parametrize("quality", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_quality_outside_0_to_1_is_an_error(quality: float) -> None:
    with pytest.raises(CodecError, match="outside 0 to 1"):
        position(quality, 5)


def test_qualities_are_spread_over_the_levels() -> None:
    assert [position(quality, 5) for quality in (0, 0.25, 0.6, 1)] == [0, 1, pytest.approx(2.4), 4]
    assert position(0.7, 1) == 0


def test_what_a_quality_would_be_trained_for_lies_between_geometrically() -> None:
    rd_lambdas = (0.001, 0.01, 0.04)
    assert rd_lambda_at(1, rd_lambdas) == pytest.approx(0.01)
    assert rd_lambda_at(1.5, rd_lambdas) == pytest.approx(0.02)
    assert rd_lambda_at(2, rd_lambdas) == pytest.approx(0.04)
    assert rd_lambda_at(0, (0.01,)) == pytest.approx(0.01)
    assert rd_lambda_at(0, ()) is None


def test_a_codec_of_one_level_has_nothing_between() -> None:
    model = copy.deepcopy(finished(architecture(n_levels=1), rd_lambdas=(0.0067,)))
    with pytest.raises(CodecError, match="outside the trained levels 0 to 0"):
        model.gain(0.5)
