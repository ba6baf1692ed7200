"""The .kdb file: one image, coded by one codec at one level.

    bytes   what
    4       magic "KDB1"
    1       level
    2, 2    height, width [px], big-endian, before padding
    4       length of the y string
    4       first bytes of the SHA-256 of integer latents and scale indexes
    ...     y string, z string (CompressAI's range coder)

The check matters because a float h_s gives other scale indexes on another CPU, thread count or
runtime; the range decoder then reads garbage without noticing. A decode that disagrees is an error.
Seventeen bytes of header count as bits, as a JPEG's do (0.0003 bpp at 768x512).
"""

import hashlib
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdbench.codecs.hyperprior import DOWNSAMPLING, Hyperprior, images_bits
from kdbench.errors import CodecError

MAGIC = b"KDB1"
HEADER = struct.Struct(">4sBHHI4s")

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB


class Expectation(NamedTuple):
    """What coding an image must come to.

    Attributes:
        estimated_bits: -log2 of the model's likelihoods of the latents [bit].
        reconstruction: What the decoder must give, exactly.
    """

    estimated_bits: float
    reconstruction: Image


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H', W') in [0, 1], edges repeated to multiples of 64 px."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    return functional.pad(
        x, (0, -width % DOWNSAMPLING, 0, -height % DOWNSAMPLING), mode="replicate"
    )


def to_image(x_hat: Tensor, height: int, width: int) -> Image:
    """(1, 3, H', W') in [0, 1] -> (height, width, 3) uint8, padding removed, rounded to 8 bit."""
    pixels = x_hat[0, :, :height, :width].clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def _check(y_hat: Tensor, indexes: Tensor) -> bytes:
    digest = hashlib.sha256(y_hat.cpu().to(torch.int32).contiguous().numpy().tobytes())
    digest.update(indexes.cpu().to(torch.int32).contiguous().numpy().tobytes())
    return digest.digest()[:4]


@torch.no_grad()
def encode_image(model: Hyperprior, image: Image, level: int) -> bytes:
    """The .kdb file of `image`; what a camera would run, and what encode energy is measured on."""
    height, width = image.shape[:2]
    if max(height, width) > 65535:
        raise CodecError(
            f"the image is {width}x{height} px; a .kdb file holds at most 65535 px a side",
            fix="cut the image into tiles",
        )
    out = model.compress(to_tensor(image).to(_device(model)), level)
    y_string, z_string = out["strings"][0][0], out["strings"][1][0]  # type: ignore[index]
    check = _check(out["y_hat"], out["indexes"])  # type: ignore[arg-type]
    return HEADER.pack(MAGIC, level, height, width, len(y_string), check) + y_string + z_string


@torch.no_grad()
def decode_image(model: Hyperprior, data: bytes) -> Image:
    """The image in a .kdb file.

    Raises:
        CodecError: Not a .kdb file, cut short, of another codec, or decoded to other latents.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise CodecError("this is no .kdb file", fix="name a file that this codec wrote")
    _, level, height, width, n_y, check = HEADER.unpack_from(data)
    y_string, z_string = data[HEADER.size : HEADER.size + n_y], data[HEADER.size + n_y :]
    if len(y_string) < n_y or not z_string:
        raise CodecError("the .kdb file is cut short", fix="copy or encode it again")
    shape = (-(-height // DOWNSAMPLING), -(-width // DOWNSAMPLING))
    out = model.decompress([[y_string], [z_string]], shape, level)
    if _check(out["y_hat"], out["indexes"]) != check:
        raise CodecError(
            "the decoded latents are not the ones that were encoded",
            fix="decode with the same codec file, on the same kind of machine and thread count: "
            "another float unit computes other scale indexes",
        )
    return to_image(out["x_hat"], height, width)


@torch.no_grad()
def expectation(model: Hyperprior, image: Image, level: int) -> Expectation:
    """Estimated bits and reconstruction of `image`, without a bitstream."""
    out = model(to_tensor(image).to(_device(model)), level)
    bits = float(images_bits(out["likelihoods"]).sum())
    return Expectation(bits, to_image(out["x_hat"], *image.shape[:2]))


def payload_bits(data: bytes) -> int:
    """Bits of the two strings of a .kdb file, its header not counted."""
    return (len(data) - HEADER.size) * 8


def _device(model: Hyperprior) -> torch.device:
    return next(model.parameters()).device
