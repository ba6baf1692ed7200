"""Pillow's codecs keep the promises of `ImageCodec`."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import features

from kdbench.codecs.base import Image
from kdbench.codecs.classical import CLASSICAL, classical
from kdbench.errors import CodecError
from kdbench.rd import psnr_db


def photo(height_px: int = 96, width_px: int = 128) -> Image:
    """Smooth colour with texture and an edge: what codecs are made for."""
    y, x = np.mgrid[0:height_px, 0:width_px] / 32
    waves = [np.sin(x + k) * np.cos(y * (k + 1)) + 0.2 * np.sin(9 * x * y) for k in range(3)]
    pixels = 128 + 70 * np.stack(waves, axis=-1) + 40 * (x > y)[..., None]
    return np.asarray(pixels.clip(0, 255), dtype=np.uint8)


@pytest.fixture(params=sorted(CLASSICAL))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("size_px", [(1, 1), (1, 2), (5, 1), (37, 53), (64, 48)])
def test_what_comes_back_is_8_bit_rgb_of_the_same_size(name: str, size_px: tuple[int, int]) -> None:
    codec = classical(name)
    image = photo(*size_px)
    decoded = codec.decode(codec.encode(image, codec.levels[-1]))
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8


def test_the_best_level_resembles_the_image_and_keeps_its_colours_in_order(name: str) -> None:
    codec = classical(name)
    image = photo()
    image[..., 0] //= 3  # so that swapped channels would cost 20 dB
    assert psnr_db(image, codec.decode(codec.encode(image, codec.levels[-1])), peak=255) > 30


def test_each_level_costs_more_bytes_and_looks_better_than_the_one_before(name: str) -> None:
    codec = classical(name)
    image = photo(256, 256)
    files = [codec.encode(image, level) for level in codec.levels]
    sizes = [len(data) for data in files]
    quality_db = [psnr_db(image, codec.decode(data), peak=255) for data in files]
    assert sizes == sorted(set(sizes))
    assert quality_db == sorted(set(quality_db))


def test_jpeg2000_spends_no_bits_on_colour_where_there_is_none() -> None:
    jpeg2000 = classical("jpeg2000")
    grey = photo(256, 256)[..., :1].repeat(3, axis=-1)
    file = io.BytesIO()  # what Pillow does unasked: each channel coded on its own
    Pillow.fromarray(grey).save(
        file, "JPEG2000", quality_mode="rates", quality_layers=[70], irreversible=True
    )
    apart_db = psnr_db(grey, jpeg2000.decode(file.getvalue()), peak=255)
    assert psnr_db(grey, jpeg2000.decode(jpeg2000.encode(grey, 70)), peak=255) > apart_db + 2


def test_the_same_image_gives_the_same_bytes(name: str) -> None:
    codec = classical(name)
    assert codec.encode(photo(), codec.levels[3]) == codec.encode(photo(), codec.levels[3])


def test_a_level_it_is_not_measured_at_is_refused_with_those_it_has(name: str) -> None:
    codec = classical(name)
    with pytest.raises(CodecError, match=rf"no level 7777(?s:.*)fix: .*{codec.levels[0]}"):
        codec.encode(photo(), 7777)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_only_8_bit_rgb_goes_in(name: str, image: Image) -> None:
    codec = classical(name)
    with pytest.raises(CodecError, match=r"8-bit RGB.*\(8, 8"):
        codec.encode(image, codec.levels[0])


def test_a_truncated_file_is_an_error_and_not_half_an_image(name: str) -> None:
    codec = classical(name)
    data = codec.encode(photo(), codec.levels[-1])
    with pytest.raises(CodecError, match=f"no whole {name} file"):
        codec.decode(data[: len(data) // 2])


def test_a_file_of_another_codec_is_refused(name: str) -> None:
    other = classical("webp" if name != "webp" else "jpeg")
    with pytest.raises(CodecError, match=f"no whole {name} file"):
        classical(name).decode(other.encode(photo(), other.levels[0]))


def test_an_image_too_long_for_webp_is_refused_with_its_size() -> None:
    webp = classical("webp")
    with pytest.raises(CodecError, match=r"webp cannot code an image of 20000x1 px.*16383"):
        webp.encode(photo(1, 20_000), webp.levels[0])


def test_an_unknown_name_is_answered_with_the_known_ones_nearest_first() -> None:
    with pytest.raises(CodecError, match=r"unknown codec 'jpeg200'(?s:.*)use one of jpeg2000, jp"):
        classical("jpeg200")


def test_a_pillow_without_a_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(CodecError, match=r"without avif(?s:.*)fix: install Pillow"):
        classical("avif")
