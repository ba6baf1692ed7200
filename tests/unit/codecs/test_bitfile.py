"""The .kdb file: coded and decoded to the same pixels, damage noticed."""

import copy
import struct
import zlib

import numpy as np
import pytest
import torch

from kdbench.codecs.bitfile import (
    CRC_AT,
    HEADER,
    Image,
    analyse_image,
    decode_image,
    encode_image,
    expectation,
    payload_bits,
)
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.data import load_images
from kdbench.errors import CodecError
from tests.support.codecs import architecture, finished, trained


@pytest.fixture(scope="module")
def model() -> Hyperprior:
    return finished(architecture())


def _photo(height: int, width: int) -> Image:
    return load_images("builtin", "validation").image(0)[100 : 100 + height, 200 : 200 + width]


@pytest.fixture(scope="module")
def photo() -> Image:
    return _photo(63, 65)


@pytest.fixture(scope="module")
def file(model: Hyperprior, photo: Image) -> bytes:
    return encode_image(model, photo, 1)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 200), (63, 65), (64, 64), (65, 63), (200, 100)]
)
@pytest.mark.parametrize("level", [0, 1])
def test_an_image_of_any_size_decodes_to_what_was_expected(
    model: Hyperprior, height: int, width: int, level: int
) -> None:
    image = _photo(height, width)
    decoded = decode_image(model, encode_image(model, image, level))
    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(
        decoded, expectation(model, analyse_image(model, image), level).reconstruction
    )


def test_a_file_decodes_at_the_level_it_was_written_at(model: Hyperprior, photo: Image) -> None:
    low, high = (decode_image(model, encode_image(model, photo, level)) for level in (0, 1))
    error_low, error_high = (
        np.square(d.astype(float) - photo.astype(float)).mean() for d in (low, high)
    )
    assert error_high < error_low / 2


def test_a_header_of_21_bytes_is_all_that_is_not_payload(file: bytes) -> None:
    assert payload_bits(file) == 8 * (len(file) - 21)


def test_a_damaged_file_is_an_error_whichever_byte_it_hits(model: Hyperprior, file: bytes) -> None:
    for at in (*range(HEADER.size), *range(HEADER.size, len(file), 97), len(file) - 1):
        damaged = bytearray(file)
        damaged[at] ^= 0x40
        with pytest.raises(CodecError):
            decode_image(model, bytes(damaged))


def test_a_file_cut_anywhere_is_an_error(model: Hyperprior, file: bytes) -> None:
    for length in (0, 3, HEADER.size - 1, HEADER.size, len(file) // 2, len(file) - 1):
        with pytest.raises(CodecError):
            decode_image(model, file[:length])


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"KDB0" + bytes(100)])
def test_a_foreign_file_is_an_error(model: Hyperprior, data: bytes) -> None:
    with pytest.raises(CodecError, match=r"no \.kdb file"):
        decode_image(model, data)


def test_a_file_of_another_codec_is_an_error(file: bytes) -> None:
    """Its tables and widths are others, so the range decoder runs past the end of the file."""
    for plan in (architecture(hyper=16), architecture(latent=32), architecture(12)):
        with pytest.raises(CodecError, match="not the ones that were encoded"):
            decode_image(trained(plan, 3), file)


def test_a_file_of_a_codec_with_the_same_entropy_model_is_an_error_too(
    model: Hyperprior, file: bytes
) -> None:
    """Its latents are the right ones; its photo would not be."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.g_s[6].bias.add_(0.1)  # type: ignore[operator]
    with pytest.raises(CodecError, match="same codec file"):
        decode_image(twin, file)


def test_scale_indexes_that_came_out_differently_are_an_error(
    model: Hyperprior, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another float unit does: one index more or less, where a scale lies on a border."""
    data = encode_image(model, photo, 1)
    build = model.gaussian_conditional.build_indexes

    def off_by_one(scales: torch.Tensor) -> torch.Tensor:
        indexes: torch.Tensor = build(scales)
        indexes[0, -1, -1, -1] += 1  # the last symbol: all others decode as they should
        return indexes

    monkeypatch.setattr(model.gaussian_conditional, "build_indexes", off_by_one)
    with pytest.raises(CodecError, match="same kind of machine and thread count"):
        decode_image(model, data)


def test_a_wrong_size_with_a_right_checksum_still_decodes_to_an_error(
    model: Hyperprior, file: bytes
) -> None:
    forged = bytearray(file)
    struct.pack_into(">HH", forged, 5, 640, 640)  # a hundred times the symbols that are there
    checksum = zlib.crc32(bytes(forged[:CRC_AT] + forged[HEADER.size :]))
    struct.pack_into(">I", forged, CRC_AT, checksum)
    with pytest.raises(CodecError, match="not the ones that were encoded"):
        decode_image(model, bytes(forged))


def test_a_level_that_was_not_trained_writes_nothing(model: Hyperprior, photo: Image) -> None:
    with pytest.raises(CodecError, match="outside the trained levels"):
        encode_image(model, photo, 2)


def test_an_image_with_a_side_over_65535_px_is_refused(model: Hyperprior) -> None:
    with pytest.raises(CodecError, match="70000x1 px") as refused:
        encode_image(model, np.zeros((1, 70_000, 3), dtype=np.uint8), 0)
    assert "tiles" in refused.value.fix
