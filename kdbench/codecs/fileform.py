"""The form of a .kdb file: one image, coded by one codec at one level.

    bytes   what
    4       magic "KDB1", or "KDB2" of a file that leaves the process it was written in
    1       level
    2, 2    height, width [px], big-endian, before padding
    4       length of the y string
    4       first bytes of the SHA-256 of coded symbols, scale indexes and the codec's biases
    4       CRC-32 of all other bytes
    KDB2 only:
    2       how far the quality lies above the level, in 1/65536 of the way to the next one
    8       first bytes of the codec's identity (`weights.codec_identity`)
    1       arithmetic of h_s: 0 float, 1 integer (`codecs.integer`)
    1       length of the next item
    ...     machine that wrote it: processor, kernels, threads, versions; UTF-8
    both:
    ...     y string, z string (CompressAI's range coder)

The check tells a decode that went astray (`bitfile`), the CRC a damaged file from such a one before
anything is decoded.

All 21 bytes of a KDB1 header count as bits in an evaluation, as a JPEG's do (0.0004 bpp at
768x512). Evaluations write KDB1, since nobody there asks which codec and which machine it was.
"""

import struct
import zlib
from typing import NamedTuple

from kdbench.errors import CodecError

MAGIC, MAGIC_TRAVELLING = b"KDB1", b"KDB2"
HEADER = struct.Struct(">4sBHHI4sI")
CRC_AT = HEADER.size - 4
TRAVELLING = struct.Struct(">H8sBB")
STEPS = 1 << 16  # between two levels
MACHINE_BYTES = 255
MAX_PX = 1 << 27  # of an image; g_s of a small codec has 8 GiB of activations there


class Header(NamedTuple):
    """What a .kdb file says of itself.

    Attributes:
        level: Between two trained levels, too.
        height, width: Of the image [px].
        check: Of symbols, scale indexes and biases.
        codec: First bytes of its identity; None of a file that does not travel, as the next two.
        is_integer: Whether h_s computed in integers.
        machine: That wrote it.
        strings: Where the y string begins, and where the z string does [bytes].
    """

    level: float
    height: int
    width: int
    check: bytes
    codec: bytes | None
    is_integer: bool | None
    machine: str | None
    strings: tuple[int, int]


def packed(header: Header, strings: bytes) -> bytes:
    """The file of `header` and its y and z string; its `strings` say where the z string begins.

    A header without a machine makes a file that does not travel, and has a whole level.
    """
    below, steps = divmod(round(header.level * STEPS), STEPS)
    y_at, z_at = header.strings
    magic = MAGIC if header.machine is None else MAGIC_TRAVELLING
    if header.machine is not None:
        assert header.codec is not None
        named = header.machine.encode()[:MACHINE_BYTES]
        more = TRAVELLING.pack(steps, header.codec, bool(header.is_integer), len(named))
        strings = more + named + strings
    size = header.height, header.width
    head = HEADER.pack(magic, below, *size, z_at - y_at, header.check, 0)[:CRC_AT]
    return head + struct.pack(">I", zlib.crc32(head + strings)) + strings


def read_header(data: bytes) -> Header:
    """What the .kdb file `data` says of itself.

    Raises:
        CodecError: Not a .kdb file, of a newer kdbench, damaged or cut short.
    """
    if len(data) < HEADER.size or data[:3] != MAGIC[:3]:
        raise CodecError("this is no .kdb file", fix="name a file that `kdbench encode` wrote")
    magic, below, height, width, n_y, check, crc = HEADER.unpack_from(data)
    if magic not in (MAGIC, MAGIC_TRAVELLING):
        raise CodecError(
            f"this is no .kdb file that this kdbench knows: it begins with {magic!r}",
            fix="if a newer kdbench wrote it, use that one: `pip install --upgrade kdbench`",
        )
    if zlib.crc32(data[:CRC_AT] + data[HEADER.size :]) != crc:
        raise CodecError("the .kdb file is damaged or cut short", fix="copy or encode it again")
    at, level = HEADER.size, float(below)
    codec, is_integer, machine = None, None, None
    if magic == MAGIC_TRAVELLING:
        if len(data) < at + TRAVELLING.size:
            raise contradiction("its header ends early")
        steps, codec, arithmetic, n_machine = TRAVELLING.unpack_from(data, at)
        at += TRAVELLING.size
        name = data[at : at + n_machine].decode(errors="replace")
        machine = "".join(c if c.isprintable() else "?" for c in name)  # it goes to a terminal
        at, level, is_integer = at + n_machine, below + steps / STEPS, bool(arithmetic)
    if at + n_y > len(data):
        raise contradiction("its strings are longer than the file")
    if not (height and width):
        raise contradiction("its image has no pixels")
    return Header(level, height, width, check, codec, is_integer, machine, (at, at + n_y))


def header_bytes(data: bytes) -> int:
    """Length of the header of a .kdb file that nobody has damaged."""
    if data[:4] == MAGIC:
        return HEADER.size
    *_, n_machine = TRAVELLING.unpack_from(data, HEADER.size)
    return HEADER.size + TRAVELLING.size + int(n_machine)


def contradiction(what: str) -> CodecError:
    """What to raise for a file with a right checksum and a header that cannot be."""
    return CodecError(f"the .kdb file contradicts itself: {what}", fix="copy or encode it again")


def require_size(height: int, width: int) -> None:
    """Raises CodecError where an image is larger than a file can say, or a decoder takes."""
    if max(height, width) > 65535:
        raise CodecError(
            f"the image is {width}x{height} px; a .kdb file holds at most 65535 px a side",
            fix="cut the image into tiles",
        )
    if height * width > MAX_PX:
        raise CodecError(
            f"the image is {width}x{height} px; {MAX_PX / 1e6:.0f} megapixels are coded at most",
            fix="cut the image into tiles",
        )
