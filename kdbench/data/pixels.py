"""One image file as 8-bit RGB, or the reason why it cannot be used.

A file is used only if turning it into 8-bit RGB loses nothing that a reader would miss:

    used       RGB, greyscale, palette, bilevel, YCbCr; an alpha channel that is opaque everywhere
               is dropped; EXIF orientation is applied; the first picture of a phone's MPO file
    refused    CMYK (colours need a print profile), more than 8 bits a sample (the tone curve is
               unknown, half of the data would go), transparent pixels (nothing says what lies
               behind), several frames, truncated, empty, not an image, a decompression bomb

Colour profiles are not applied: the numbers in the file are the pixels.
"""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

_PLAIN_MODES = frozenset({"RGB", "L", "1", "P", "YCbCr"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA"})
_HEADER_BYTES = 1 << 16
# What Pillow's readers raise on damaged files: 53,000 files of 38 kinds with cut and changed bytes
# (Pillow 13, 23 November 2026; test_pixels.py repeats some).
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError),
    *(struct.error, zlib.error),
)


FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("HEIF", "JXL", "JPEGXL"),  # where another package taught Pillow to read them
)


def _formats() -> list[str]:
    """What a photo may be: of all that Pillow opens, some start programs (EPS) or are old."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class UnusableError(Exception):
    """Why one file is not a usable photo, in words that fit behind its name."""


def read_rgb(path: Path) -> Pixels:
    """The photo at `path`, uint8 (H, W, 3) RGB, read-only.

    Raises:
        UnusableError: the file cannot be read or would lose by becoming 8-bit RGB.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as opened:
                _require_still_8_bit(opened, path)
                opened.load()
                image = ImageOps.exif_transpose(opened)
                pixels = np.array(_rgb(image), dtype=np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        limit_mpx = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UnusableError(f"more than {limit_mpx:.3g} megapixels") from problem
    except UnidentifiedImageError as problem:
        empty = path.stat().st_size == 0
        raise UnusableError("empty file" if empty else "not an image Pillow reads") from problem
    except _DAMAGE as problem:
        raise UnusableError(f"cannot be read: {_first_line(problem)}") from problem
    pixels.setflags(write=False)
    return pixels


def _require_still_8_bit(image: Image.Image, path: Path) -> None:
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1 and image.format != "MPO":  # phones store a preview as a second MPO picture
        raise UnusableError(f"animated or of several pages ({n_frames} frames)")
    if image.mode == "CMYK":
        raise UnusableError("CMYK, whose colours need a print profile")
    if image.mode.startswith(("I", "F")) or _is_cut_to_8_bits(image, path):
        raise UnusableError("more than 8 bits a sample")
    if image.mode not in _PLAIN_MODES | _ALPHA_MODES:
        raise UnusableError(f"colour mode {image.mode}")


def _is_cut_to_8_bits(image: Image.Image, path: Path) -> bool:
    """Whether Pillow would silently drop the lower bits: deeper samples, yet an 8-bit mode."""
    if image.format == "AVIF":  # av1C box: high_bitdepth is bit 6 of its third byte
        box = _header_from(path, b"av1C", 7)
        return bool(box) and bool(box[6] & 0x40)
    if image.format == "JPEG2000":  # SIZ: bits - 1 of the first component, above it the sign
        siz = _header_from(path, b"\xff\x4f\xff\x51", 43)
        return bool(siz) and (siz[42] & 0x7F) + 1 > 8
    for _, _, _, arguments in getattr(image, "tile", ()):
        arguments_ = arguments if isinstance(arguments, tuple) else (arguments,)
        if image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in arguments_):
            return True  # its highest sample value
        if any(f"{mode};16" in str(a) for a in arguments_ for mode in ("RGB", "RGBA", "LA")):
            return True  # its raw mode, such as `RGB;16B` in PNG
    return False


def _header_from(path: Path, mark: bytes, n_bytes: int) -> bytes:
    """`n_bytes` from the first `mark` on; empty where the file has none."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    at = header.find(mark)
    found = header[at : at + n_bytes] if at >= 0 else b""
    return found if len(found) == n_bytes else b""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UnusableError("transparent pixels, and nothing says what lies behind")
    return image.convert("RGB")


def _first_line(problem: BaseException) -> str:
    text = (isinstance(problem, OSError) and problem.strerror) or str(problem)
    return (text.splitlines() or [type(problem).__name__])[0]
