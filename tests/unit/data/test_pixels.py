"""One image file as 8-bit RGB, whatever is in it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import UnusableError, read_rgb
from tests.unit.data import files


@pytest.mark.parametrize("name", files.USED)
def test_a_usable_file_becomes_8_bit_rgb(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    files.USED[name](path)
    pixels = read_rgb(path)
    assert pixels.dtype == np.uint8
    assert sorted(pixels.shape) == [3, 32, 40]
    assert not pixels.flags.writeable


@pytest.mark.parametrize("name", files.UNUSABLE)
def test_an_unusable_file_says_why(name: str, tmp_path: Path) -> None:
    write, why = files.UNUSABLE[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(UnusableError) as caught:
        read_rgb(path)
    assert str(caught.value).startswith(why)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["rgb.png", "opaque.png", "photo.bmp", "photo.tif", "photo.ppm", "phone.jpg"]
)
def test_the_pixels_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    files.USED[name](tmp_path / name)
    tolerance = 6 if name == "phone.jpg" else 0
    error = np.abs(read_rgb(tmp_path / name).astype(int) - files.picture())
    assert error.mean() <= tolerance


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    files.USED["grey.png"](tmp_path / "grey.png")
    pixels = read_rgb(tmp_path / "grey.png")
    grey = np.asarray(Image.fromarray(files.picture()).convert("L"))
    assert np.array_equal(pixels, np.stack([grey] * 3, axis=2))


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    files.USED["turned.png"](tmp_path / "turned.png")
    assert np.array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(files.picture(), -1))


@pytest.mark.parametrize("limit_px", [1279, 600], ids=["warned of", "refused"])
def test_a_decompression_bomb_is_refused_with_its_limit(
    limit_px: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.save(tmp_path / "bomb.png", files.picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_px)
    with pytest.raises(UnusableError, match=r"more than 0\.00\d+ megapixels"):
        read_rgb(path)


def test_no_warning_of_pillow_leaks_nor_is_the_callers_filter_changed(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    image = Image.fromarray(files.picture()).quantize(16)
    image.save(path, "PNG", transparency=b"\xff" * 16)  # Pillow warns when this is converted
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        assert read_rgb(path).shape == (32, 40, 3)
        assert warnings.filters == filters
    assert seen == []


@pytest.mark.parametrize("name", files.USED)
def test_damage_anywhere_is_read_or_named_but_never_raises_anything_else(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    files.USED[name](path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for i in range(80):
        data = bytearray(whole)
        if i % 2:
            data = data[: rng.integers(1, len(data))]
        for at in rng.integers(0, min(len(data), 400), 1 + i // 20):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_rgb(path)
        except UnusableError:
            n_refused += 1
    assert n_refused > 0
