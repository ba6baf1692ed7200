"""Image files of every kind that a user's folder may hold, made on the spot."""

import base64
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Writer = Callable[[Path], None]


def picture(width: int = 40, height: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A smooth RGB picture (height, width, 3) that no flip or rotation maps to itself."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + 2 * y + seed) % 256]
    pixels: npt.NDArray[np.uint8] = np.stack(channels, axis=2).astype(np.uint8)
    return pixels


def noise(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture full of detail."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Writes `pixels` losslessly as PNG, whatever the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def as_mode(mode: str, format_: str = "PNG") -> Writer:
    return lambda path: Image.fromarray(picture()).convert(mode).save(path, format_)


def sized(width: int, height: int) -> Writer:
    return lambda path: Image.fromarray(picture(width, height)).save(path, "PNG")


def content(data: bytes) -> Writer:
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None:
    """Drops a result."""


def transparent(path: Path) -> None:
    image = Image.fromarray(picture()).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 254))
    image.save(path, "PNG")


def palette_with_transparency(path: Path) -> None:
    image = Image.fromarray(picture()).quantize(16)
    image.save(path, "PNG", transparency=bytes(range(16)))


def rotated_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.fromarray(picture()).save(path, "PNG", exif=exif)


def several(format_: str) -> Writer:
    first, second = (Image.fromarray(picture(seed=seed)) for seed in (0, 9))
    return lambda path: first.save(path, format_, save_all=True, append_images=[second])


def cut(format_: str) -> Writer:
    def write(path: Path) -> None:
        Image.fromarray(picture()).save(path, format_)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def rgb_png_of_16_bits(path: Path) -> None:
    samples = picture().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def rgb_tiff_of_16_bits(path: Path) -> None:
    samples = picture().astype("<u2") * 257
    tags = {256: samples.shape[1], 257: samples.shape[0], 258: 150, 259: 1, 262: 2}
    tags |= {273: 160, 277: 3, 278: samples.shape[0], 279: samples.nbytes, 284: 1}
    entries = [struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, v) for tag, v in tags.items()]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    path.write_bytes(
        head.ljust(150, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(4) + samples.tobytes()
    )


def rgb_ppm_of_16_bits(path: Path) -> None:
    samples = picture().astype(">u2") * 257
    path.write_bytes(b"P6 40 32 65535\n" + samples.tobytes())


def jp2_of_16_bits(path: Path) -> None:
    """The header promises 16 bits; Pillow reads such files as RGB of 8."""
    Image.fromarray(picture()).save(path, "JPEG2000")
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\x4f\xff\x51") + 42] = 16 - 1
    path.write_bytes(data)


# 64x64 grey, encoded by SVT-AV1 from yuv420p10 (Pillow cannot write it, and reads it as 8 bits).
AVIF_OF_10_BITS = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAAD5bWV0YQAAAAAAAAAvaGRscgAAAAAAAAAAcGljdAAAAAAA"
    "AAAAAAAAAFBpY3R1cmVIYW5kbGVyAAAAAA5waXRtAAAAAAABAAAAHmlsb2MAAAAARAAAAQABAAAAAQAAASEAAAAdAAAA"
    "KGlpbmYAAAAAAAEAAAAaaW5mZQIAAAAAAQAAYXYwMUNvbG9yAAAAAGppcHJwAAAAS2lwY28AAAAUaXNwZQAAAAAAAABA"
    "AAAAQAAAABBwaXhpAAAAAAMKCgoAAAAMYXYxQ4EATAAAAAATY29scm5jbHgAAgACAAIAAAAAF2lwbWEAAAAAAAAAAQAB"
    "BAECgwQAAAAlbWRhdAoKAAAAAq//jV84CDIPEADwAj/+ecMAAAgBi1VA"
)

USED: Mapping[str, Writer] = {
    "rgb.png": as_mode("RGB"),
    "grey.png": as_mode("L"),
    "bilevel.png": as_mode("1"),
    "palette.png": as_mode("P"),
    "opaque.png": as_mode("RGBA"),
    "grey_opaque.png": as_mode("LA"),
    "UPPER.JPG": as_mode("RGB", "JPEG"),
    "grey.jpeg": as_mode("L", "JPEG"),
    "phone.jpg": several("MPO"),
    "still.webp": as_mode("RGB", "WEBP"),
    "still.gif": as_mode("P", "GIF"),
    "photo.bmp": as_mode("RGB", "BMP"),
    "photo.tif": as_mode("RGB", "TIFF"),
    "photo.ppm": as_mode("RGB", "PPM"),
    "photo.avif": as_mode("RGB", "AVIF"),
    "photo.jp2": as_mode("RGB", "JPEG2000"),
    "turned.png": rotated_by_exif,
}

DEEP = "more than 8 bits a sample"
UNUSABLE: Mapping[str, tuple[Writer, str]] = {
    "empty.png": (content(b""), "empty file"),
    "text.png": (content(b"not an image"), "not an image Pillow reads"),
    "photo.heic": (content(b"\0\0\0\x18ftypheic"), "not an image Pillow reads"),
    "cut.png": (cut("PNG"), "cannot be read: image file is truncated"),
    "cut.jpg": (cut("JPEG"), "cannot be read: "),
    "cut.webp": (cut("WEBP"), "cannot be read: "),
    "moving.gif": (several("GIF"), "animated or of several pages (2 frames)"),
    "moving.webp": (several("WEBP"), "animated or of several pages (2 frames)"),
    "moving.png": (several("PNG"), "animated or of several pages (2 frames)"),
    "pages.tif": (several("TIFF"), "animated or of several pages (2 frames)"),
    "print.jpg": (as_mode("CMYK", "JPEG"), "CMYK, whose colours need a print profile"),
    "grey16.png": (as_mode("I;16"), DEEP),
    "rgb16.png": (rgb_png_of_16_bits, DEEP),
    "rgb16.tif": (rgb_tiff_of_16_bits, DEEP),
    "rgb16.ppm": (rgb_ppm_of_16_bits, DEEP),
    "float.tif": (as_mode("F", "TIFF"), DEEP),
    "rgb10.avif": (content(AVIF_OF_10_BITS), DEEP),
    "rgb16.jp2": (jp2_of_16_bits, DEEP),
    "lab.tif": (as_mode("LAB", "TIFF"), "colour mode LAB"),
    "seen_through.png": (transparent, "transparent pixels, and nothing says what lies behind"),
    "palette_alpha.png": (
        palette_with_transparency,
        "transparent pixels, and nothing says what lies behind",
    ),
}
