"""MS-SSIM: pytorch_msssim's figures, from less work."""

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim

from kdbench.codecs.base import Image
from kdbench.data import load_images
from kdbench.similarity import Similarity


def photo(height: int, width: int) -> Image:
    image: Image = load_images("builtin", "validation").image(0)[:height, :width]
    assert image.shape == (height, width, 3)
    return image


def noisy(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def theirs(image: Image, decoded: Image) -> float:
    a, b = (torch.from_numpy(i.copy()).permute(2, 0, 1)[None].float() for i in (image, decoded))
    return float(ms_ssim(a, b, data_range=255))


@pytest.mark.parametrize("size", [(161, 161), (162, 161), (255, 301), (400, 512)])
def test_the_figures_are_those_of_pytorch_msssim(size: tuple[int, int]) -> None:
    image = photo(*size)
    similarity = Similarity(image)
    inverse = np.invert(image)
    decoded = [noisy(image, deviation) for deviation in (1, 8, 60)] + [inverse]
    for each in decoded:
        assert similarity.to(each) == pytest.approx(theirs(image, each), abs=1e-6)
    flat = np.full_like(image, 128)
    assert Similarity(flat).to(image) == pytest.approx(theirs(flat, image), abs=1e-6)


def test_it_is_one_of_equal_images_and_falls_with_noise() -> None:
    image = photo(200, 200)
    similarity = Similarity(image)
    assert similarity.to(image) == pytest.approx(1)
    found = [similarity.to(noisy(image, deviation)) for deviation in (4, 16, 64)]
    assert 1 > found[0] > found[1] > found[2] > 0


def test_asking_again_gives_the_same_figure() -> None:
    """What is kept of the photo is not spoilt by a comparison."""
    image = photo(170, 200)
    similarity, decoded = Similarity(image), noisy(image, 20)
    first = similarity.to(decoded)
    similarity.to(noisy(image, 90))
    assert similarity.to(decoded) == first
