"""The .kdb file: coded and decoded to the same pixels, damage noticed."""

import copy
import struct
import zlib

import numpy as np
import pytest
import torch

from kdbench.codecs import bitfile
from kdbench.codecs.bitfile import (
    Image,
    analyse_image,
    decode_image,
    encode_image,
    expectation,
    payload_bits,
)
from kdbench.codecs.fileform import CRC_AT, HEADER, read_header
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_identity
from kdbench.data import load_images
from kdbench.errors import CodecError
from tests.support.codecs import architecture, finished, trained

SIZE_AT = 5  # of height and width, in the header


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


def forged(file: bytes, form: str, at: int, *values: int) -> bytes:
    """`file` with other values at a place of its header, and the checksum that belongs to them."""
    data = bytearray(file)
    struct.pack_into(form, data, at, *values)
    struct.pack_into(">I", data, CRC_AT, zlib.crc32(bytes(data[:CRC_AT] + data[HEADER.size :])))
    return bytes(data)


def test_a_wrong_size_with_a_right_checksum_still_decodes_to_an_error(
    model: Hyperprior, file: bytes
) -> None:
    with pytest.raises(CodecError, match="not the ones that were encoded"):
        decode_image(model, forged(file, ">HH", SIZE_AT, 65, 128))


@pytest.mark.parametrize(
    ("size", "answer"),
    [
        ((640, 640), "cannot hold what predicts 640x640 px"),
        ((8192, 8192), "cannot hold"),
        ((65535, 65535), "are coded at most"),
        ((0, 63), "no pixels"),
    ],
)
def test_a_size_that_its_bytes_cannot_hold_is_refused_before_anything_is_decoded(
    model: Hyperprior,
    file: bytes,
    size: tuple[int, int],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(model, "decompress", never)
    monkeypatch.setattr(bitfile, "_slack", never)
    with pytest.raises(CodecError, match=answer):
        decode_image(model, forged(file, ">HH", SIZE_AT, *size))


def test_strings_longer_than_the_file_are_refused(model: Hyperprior, file: bytes) -> None:
    with pytest.raises(CodecError, match="longer than the file"):
        decode_image(model, forged(file, ">I", SIZE_AT + 4, len(file)))


def test_what_the_least_likely_photo_needs_is_never_refused() -> None:
    """A flat grey photo is coded in fewer bits than any other, and still in more than the bound."""
    model = trained(architecture(), 40)
    grey = np.full((640, 640, 3), 128, dtype=np.uint8)
    assert decode_image(model, encode_image(model, grey, 0)).shape == grey.shape


# --- files that travel -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def travelling(model: Hyperprior, photo: Image) -> bytes:
    return encode_image(model, photo, 1, machine="a desk in Turin")


def test_a_file_that_travels_has_the_strings_of_one_that_does_not(
    model: Hyperprior, file: bytes, travelling: bytes
) -> None:
    header = read_header(travelling)
    assert travelling[header.strings[0] :] == file[HEADER.size :]
    assert payload_bits(travelling) == payload_bits(file)
    assert len(travelling) - len(file) == 12 + len("a desk in Turin")
    assert header.machine == "a desk in Turin"
    assert header.codec == codec_identity(model)[:8]
    assert (header.level, header.is_integer) == (1, False)
    np.testing.assert_array_equal(decode_image(model, travelling), decode_image(model, file))


def test_a_file_that_travels_names_the_codec_it_was_written_by(
    model: Hyperprior, travelling: bytes
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.g_s.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(CodecError) as refused:
        decode_image(other, travelling)
    for codec in (model, other):
        assert codec_identity(codec)[:8].hex() in refused.value.problem


def test_a_decode_that_disagrees_names_both_machines(
    model: Hyperprior, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode_image(model, photo, 1, machine="a desk in Turin")
    build = model.gaussian_conditional.build_indexes
    monkeypatch.setattr(
        model.gaussian_conditional, "build_indexes", lambda scales: (build(scales) + 1).clamp(0, 63)
    )
    with pytest.raises(
        CodecError, match="encoded on a desk in Turin; decoded on a phone"
    ) as refused:
        decode_image(model, data, machine="a phone")
    assert "--deterministic" in refused.value.fix


def test_a_machine_of_a_long_name_is_cut(model: Hyperprior, photo: Image) -> None:
    data = encode_image(model, photo, 0, machine="Ünit " * 100)
    decode_image(model, data)
    assert str(read_header(data).machine).startswith("Ünit Ünit")


def test_a_machine_s_name_steers_no_terminal(model: Hyperprior, photo: Image) -> None:
    data = encode_image(model, photo, 0, machine="\x1b[31mred\n")
    assert read_header(data).machine == "?[31mred?"


def test_a_header_that_ends_early_is_refused(model: Hyperprior, travelling: bytes) -> None:
    short = travelling[: HEADER.size + 4]
    with pytest.raises(CodecError, match="its header ends early"):
        decode_image(model, forged(short, ">B", 4, 1))


@pytest.mark.parametrize("level", [-0.5, 1.5, 2, float("nan")])
def test_a_level_outside_writes_no_file(model: Hyperprior, photo: Image, level: float) -> None:
    with pytest.raises(CodecError, match="outside the trained levels 0 to 1"):
        encode_image(model, photo, level, machine="here")


def test_a_level_between_two_needs_a_file_that_can_say_so(model: Hyperprior, photo: Image) -> None:
    with pytest.raises(CodecError, match="lies between two"):
        encode_image(model, photo, 0.5)
    data = encode_image(model, photo, 0.3, machine="here")
    assert read_header(data).level == pytest.approx(0.3, abs=1 / 65536)
    np.testing.assert_array_equal(
        decode_image(model, data),
        expectation(model, analyse_image(model, photo), read_header(data).level).reconstruction,
    )


def test_a_file_of_a_newer_form_says_so(model: Hyperprior, file: bytes) -> None:
    with pytest.raises(CodecError, match="begins with b'KDB3'") as refused:
        decode_image(model, b"KDB3" + file[4:])
    assert "pip install --upgrade" in refused.value.fix


def test_a_level_that_was_not_trained_writes_nothing(model: Hyperprior, photo: Image) -> None:
    with pytest.raises(CodecError, match="outside the trained levels"):
        encode_image(model, photo, 2)


def test_an_image_with_a_side_over_65535_px_is_refused(model: Hyperprior) -> None:
    with pytest.raises(CodecError, match="70000x1 px") as refused:
        encode_image(model, np.zeros((1, 70_000, 3), dtype=np.uint8), 0)
    assert "tiles" in refused.value.fix
