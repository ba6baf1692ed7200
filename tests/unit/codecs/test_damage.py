"""Damaged .kdb files: every cut and thousands of flipped bytes end in an error, and soon."""

import struct
import zlib

import numpy as np
import pytest

from kdbench.codecs.bitfile import Image, decode_image, encode_image
from kdbench.codecs.deterministic import with_integer_prior
from kdbench.codecs.fileform import CRC_AT, HEADER, read_header
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.data import load_images
from kdbench.errors import CodecError
from tests.support.codecs import architecture, trained

N_FLIPS = 10_000
N_FORGED = 400


@pytest.fixture(scope="module")
def photo() -> Image:
    return load_images("builtin", "validation").image(0)[100:164, 200:328]


@pytest.fixture(scope="module", params=["scale", "mean_scale", "context", "integer"])
def model(request: pytest.FixtureRequest, photo: Image) -> Hyperprior:
    if request.param == "mean_scale":
        return trained(architecture(prior="mean_scale"), 20)
    if request.param == "scale":
        return trained(architecture(), 20)
    made = trained(architecture(context="checkerboard"), 20)
    return with_integer_prior(made, [photo]) if request.param == "integer" else made


@pytest.fixture(scope="module")
def file(model: Hyperprior, photo: Image) -> bytes:
    return encode_image(model, photo, 0.5, machine="a desk in Turin")


def test_every_cut_is_an_error(model: Hyperprior, file: bytes) -> None:
    decode_image(model, file)
    for n in range(len(file)):
        with pytest.raises(CodecError):
            decode_image(model, file[:n])


def test_every_one_of_ten_thousand_flipped_bytes_is_an_error(
    model: Hyperprior, file: bytes
) -> None:
    rng = np.random.default_rng(0)
    for at, change in zip(
        rng.integers(len(file), size=N_FLIPS), rng.integers(1, 256, N_FLIPS), strict=True
    ):
        damaged = bytearray(file)
        damaged[at] ^= int(change)
        with pytest.raises(CodecError):
            decode_image(model, bytes(damaged))


def test_flips_with_a_checksum_that_fits_end_in_an_error_or_an_image(
    model: Hyperprior, file: bytes
) -> None:
    """What no accident does: here the range decoder itself reads the damaged strings."""
    rng = np.random.default_rng(1)
    strings_at = len(file) // 2
    refused = 0
    for i in range(N_FORGED):
        damaged = bytearray(file)
        for _ in range(rng.integers(1, 5)):
            low = 0 if i % 2 else strings_at  # half of them in the strings alone
            damaged[rng.integers(low, len(file))] ^= int(rng.integers(1, 256))
        checksum = zlib.crc32(bytes(damaged[:CRC_AT] + damaged[HEADER.size :]))
        struct.pack_into(">I", damaged, CRC_AT, checksum)
        try:
            image = decode_image(model, bytes(damaged))
        except CodecError:
            refused += 1
        else:  # the machine's name, the quality or a size that pads alike was hit
            assert image.dtype == np.uint8
    assert refused > 0.9 * N_FORGED


def test_noise_behind_a_good_header_ends_in_an_error(model: Hyperprior, file: bytes) -> None:
    rng = np.random.default_rng(2)
    head = read_header(file).strings[0]
    for fill in (b"\x00", b"\xff", *(rng.bytes(1) for _ in range(8))):
        data = bytearray(file[:head] + fill * (len(file) - head))
        checksum = zlib.crc32(bytes(data[:CRC_AT] + data[HEADER.size :]))
        struct.pack_into(">I", data, CRC_AT, checksum)
        with pytest.raises(CodecError, match="not the ones that were encoded"):
            decode_image(model, bytes(data))
