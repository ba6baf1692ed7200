"""10,000 mutants of image files: each is a photo or says why not, in bounded memory and time."""

import random
import resource
import struct
import time
import zlib
from pathlib import Path

import pytest

from kdbench.data import UnusableError, load_images, read_rgb
from kdbench.data.pixels import FORMATS
from kdbench.errors import DataError
from tests.support.mutants import bytes_mutant
from tests.unit.data import files

N = 10_000
LONGEST_S = 20.0
MEMORY_BYTES = 700 << 20  # a photo of the largest size that is read, with its copies
NAMES = sorted({*files.USED, *files.UNUSABLE})


def peak_bytes() -> int:
    """Of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_of_an_image_is_a_photo_or_says_why_not(name: str, tmp_path: Path) -> None:
    path, rng, before = tmp_path / name, random.Random(name), peak_bytes()
    write = files.USED.get(name) or files.UNUSABLE[name][0]
    write(path)
    whole, n_refused, lines = path.read_bytes(), 0, 0
    n = -(-N // len(NAMES))
    for _ in range(n):
        path.write_bytes(bytes_mutant(whole, rng))
        began = time.monotonic()
        try:
            pixels = read_rgb(path)
        except UnusableError as why:
            n_refused += 1
            lines += str(why).count("\n")
        else:
            assert pixels.ndim == 3
            assert pixels.nbytes <= MEMORY_BYTES
        assert time.monotonic() - began < LONGEST_S
    assert n_refused > n // 10
    assert lines == 0
    assert peak_bytes() - before < MEMORY_BYTES


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _gif(side: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"


def _tiff(side: int) -> bytes:
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3, 278: side, 279: 100}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(300)


def _bmp(side: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 154, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(100)
    )


def _webp(side: int) -> bytes:
    canvas = (side - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas * 2
    body += b"VP8L" + struct.pack("<I", 8) + b"\x2f" + bytes(7)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


SIDE = 100_000
HUGE = {
    "huge.png": _png(SIDE, SIDE),
    "wide.png": _png(2**31 - 1, 1),
    "empty.png": _png(9000, 9000),
    "zeros.png": _png(SIDE, SIDE, bytes(10_000_000)),
    "huge.gif": _gif(65535),
    "huge.tif": _tiff(SIDE),
    "huge.bmp": _bmp(SIDE),
    "huge.webp": _webp(2**24),
    "huge.ppm": b"P6 100000 100000 255\n" + bytes(100),
    "wider.ppm": b"P6 " + b"9" * 400 + b" 1 255\n",
    "huge.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    + b"\0\0\0\x2djp2h\0\0\0\x16ihdr"
    + struct.pack(">IIHBBBB", SIDE, SIDE, 3, 7, 7, 0, 0)
    + b"\0\0\0\x0fcolr\1\0\0\0\0\0\x10"
    + b"\0\0\0\0jp2c\xff\x4f\xff\x51"
    + bytes(50),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_declares_a_huge_image_is_refused_before_it_is_decoded(
    name: str, tmp_path: Path
) -> None:
    path, before, began = tmp_path / name, peak_bytes(), time.monotonic()
    path.write_bytes(HUGE[name])
    with pytest.raises(UnusableError):
        read_rgb(path)
    assert peak_bytes() - before < MEMORY_BYTES
    assert time.monotonic() - began < LONGEST_S


def test_a_folder_of_huge_images_has_no_usable_photo(tmp_path: Path) -> None:
    for name, data in HUGE.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="no usable photo for train"):
        load_images(tmp_path, "train")


def test_no_format_that_starts_a_program_is_read(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript; a name says nothing of what is in a file."""
    path = tmp_path / "photo.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
        b"%pipe%touch ran\nshowpage\n%%EOF\n"
    )
    with pytest.raises(UnusableError, match="not an image Pillow reads"):
        read_rgb(path)
    assert "EPS" not in FORMATS
