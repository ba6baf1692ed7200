"""JPEG, WebP, JPEG 2000 and AVIF by Pillow, at the settings behind published Kodak curves.

The whole file counts, headers and all (623 bytes of tables in a JPEG). Measured on the 24 Kodak
photos with Pillow 13.0, November 2026, beside the curves published with CompressAI:

    jpeg      same bytes to 0.2 %, +0.07 to +0.13 dB (a newer libjpeg-turbo decodes better)
    webp      equal to 4 digits
    jpeg2000  +0.6 dB at 0.24 bpp, +1.5 dB at 1.2 bpp: those were coded by way of 8-bit YCbCr
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from PIL import Image as Pillow
from PIL import features

from kdbench.codecs.base import Image, ImageCodec
from kdbench.errors import CodecError


@dataclass(frozen=True, slots=True, kw_only=True)
class PillowCodec:
    """One of Pillow's lossy formats.

    Attributes:
        name: What kdbench calls it.
        levels: Settings by ascending bits; each is given to Pillow as `setting`.
        pillow_format: What Pillow calls it.
        feature: Pillow's name for the library behind it.
        setting: Pillow's keyword that takes the level.
        options: Pillow's other keywords.
    """

    name: str
    levels: tuple[int, ...]
    pillow_format: str
    feature: str
    setting: str = "quality"
    options: Mapping[str, object]

    def encode(self, image: Image, level: int) -> bytes:
        """See `ImageCodec.encode`."""
        if level not in self.levels:
            raise CodecError(
                f"{self.name} has no level {level}",
                fix=f"use one of {', '.join(map(str, self.levels))}",
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise CodecError(
                f"{self.name} codes 8-bit RGB, (H, W, 3) uint8; "
                f"this is {image.shape} {image.dtype}",
                fix="convert the image to RGB with 8 bits a channel",
            )
        # `quality_layers` takes a list, one entry a layer; the `quality` of the others a number
        value = [level] if self.setting == "quality_layers" else level
        file = io.BytesIO()
        try:
            Pillow.fromarray(image).save(
                file, self.pillow_format, **{self.setting: value}, **self.options
            )
        except (OSError, ValueError) as why:
            height_px, width_px, _ = image.shape
            raise CodecError(
                f"{self.name} cannot code an image of {width_px}x{height_px} px: {why}",
                fix="leave this image out, or measure it with another codec",
            ) from None
        return file.getvalue()

    def decode(self, data: bytes) -> Image:
        """See `ImageCodec.decode`."""
        try:
            with Pillow.open(io.BytesIO(data), formats=[self.pillow_format]) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as why:  # Pillow's three words for damage
            raise CodecError(
                f"these {len(data)} bytes are no whole {self.name} file: {why}",
                fix="encode the image again",
            ) from None


_CODECS = (
    # Pillow's defaults, as in the published curve: chroma 4:2:0, the standard Huffman tables.
    PillowCodec(
        name="jpeg",
        levels=(5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        pillow_format="JPEG",
        feature="jpg",
        options={"subsampling": "4:2:0"},
    ),
    # Pillow's defaults: chroma 4:2:0 (lossy WebP has no other), method 4.
    PillowCodec(
        name="webp",
        levels=(1, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        pillow_format="WEBP",
        feature="webp",
        options={"method": 4},
    ),
    # The level is the compression ratio: 24 bpp / level. The 9/7 wavelet is lossy; without the
    # colour transform (mct), which Pillow leaves out, it loses 2.3 dB at 0.24 bpp.
    PillowCodec(
        name="jpeg2000",
        levels=(240, 160, 100, 70, 50, 35, 25, 18, 12),
        pillow_format="JPEG2000",
        feature="jpg_2000",
        setting="quality_layers",
        options={"quality_mode": "rates", "irreversible": True, "mct": 1},
    ),
    # Pillow's defaults on one thread: chroma 4:2:0, speed 6. Speed 4 gives 0.4 dB for 5 to 10
    # times the seconds; 4:4:4 and tuning for PSNR change little.
    PillowCodec(
        name="avif",
        levels=(10, 20, 30, 40, 50, 60, 70, 80),
        pillow_format="AVIF",
        feature="avif",
        options={"subsampling": "4:2:0", "speed": 6, "max_threads": 1},
    ),
)
CLASSICAL: Mapping[str, ImageCodec] = {codec.name: codec for codec in _CODECS}


def classical(name: str) -> ImageCodec:
    """The codec of that name.

    Raises:
        CodecError: There is none, or this Pillow was built without it.
    """
    codec = next((codec for codec in _CODECS if codec.name == name), None)
    if codec is None:
        near = get_close_matches(name, CLASSICAL, n=len(CLASSICAL), cutoff=0.0)
        raise CodecError(f"unknown codec {name!r}", fix=f"use one of {', '.join(near)}")
    if not features.check(codec.feature):
        raise CodecError(
            f"this Pillow was built without {name}",
            fix="install Pillow 11.3 or later from PyPI: pip install --upgrade pillow",
        )
    return codec
