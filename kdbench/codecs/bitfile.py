"""The .kdb file: one image, coded by one codec at one level.

    bytes   what
    4       magic "KDB1"
    1       level
    2, 2    height, width [px], big-endian, before padding
    4       length of the y string
    4       first bytes of the SHA-256 of coded symbols, scale indexes and the codec's biases
    4       CRC-32 of all other bytes
    ...     y string, z string (CompressAI's range coder)

The check matters because a float h_s gives other scale indexes on another CPU, thread count or
runtime; the range decoder then reads garbage without noticing. A decode that disagrees is an error.
So is one by another codec, even where both took their entropy model from one teacher.
The CRC tells a damaged file from such a one before anything is decoded: a wrong size could ask for
any amount of memory. Its 21 bytes of header count as bits, as a JPEG's do (0.0004 bpp at 768x512).
"""

import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdbench.codecs.learned import DOWNSAMPLING, LearnedCodec
from kdbench.errors import CodecError

MAGIC = b"KDB1"
PRECISION_BITS = 16  # of CompressAI's range coder
HEADER = struct.Struct(">4sBHHI4sI")
CRC_AT = HEADER.size - 4

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB


class Analysed(NamedTuple):
    """An image after g_a, which all levels share.

    Attributes:
        latent: Before the gain, (1, M, H'/16, W'/16).
        height, width: Of the image [px].
    """

    latent: Tensor
    height: int
    width: int


class Expectation(NamedTuple):
    """What coding an image must come to.

    Attributes:
        estimated_bits: -log2 of the model's likelihoods of the latents, within the range coder's
            precision [bit].
        reconstruction: What the decoder must give, exactly.
    """

    estimated_bits: float
    reconstruction: Image


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H', W') in [0, 1], edges repeated to multiples of 64 px."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    return functional.pad(
        x, (0, -width % DOWNSAMPLING, 0, -height % DOWNSAMPLING), mode="replicate"
    )


def to_image(x_hat: Tensor, height: int, width: int) -> Image:
    """(1, 3, H', W') in [0, 1] -> (height, width, 3) uint8, padding removed, rounded to 8 bit."""
    pixels = x_hat[0, :, :height, :width].clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def lay_out(model: LearnedCodec) -> LearnedCodec:
    """`model`, whose g_s is laid out channels last: 0.6 to 0.75 of the seconds on a CPU.

    Transposed convolutions gave the same bits for N of 16 to 64 (28 November 2026); those of g_a do
    not, and stay. Who compares pixels lays out both sides.
    """
    model.g_s.to(memory_format=torch.channels_last)
    return model


def _check(model: LearnedCodec, symbols: Tensor, indexes: Tensor) -> bytes:
    digest = hashlib.sha256(symbols.cpu().to(torch.int32).contiguous().numpy().tobytes())
    digest.update(indexes.cpu().to(torch.int32).contiguous().numpy().tobytes())
    for parameter in model.g_s.parameters():
        if parameter.ndim == 1:  # few, and no two trainings end with the same
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return bytes(digest.digest()[:4])


@torch.no_grad()
def analyse_image(model: LearnedCodec, image: Image) -> Analysed:
    """The part of encoding that does not depend on the level.

    Raises:
        CodecError: The image is larger than a .kdb file can say.
    """
    height, width = image.shape[:2]
    if max(height, width) > 65535:
        raise CodecError(
            f"the image is {width}x{height} px; a .kdb file holds at most 65535 px a side",
            fix="cut the image into tiles",
        )
    return Analysed(model.g_a(to_tensor(image).to(_device(model))), height, width)


def encode_image(model: LearnedCodec, image: Image, level: int) -> bytes:
    """The .kdb file of `image`; what a camera would run, and what encode energy is measured on."""
    return encode_analysed(model, analyse_image(model, image), level)


@torch.no_grad()
def encode_analysed(model: LearnedCodec, image: Analysed, level: int) -> bytes:
    """The .kdb file of an image whose latent is known."""
    out = model.compress_latent(image.latent, level)
    y_string, z_string = out["strings"][0][0], out["strings"][1][0]  # type: ignore[index]
    check = _check(model, out["symbols"], out["indexes"])  # type: ignore[arg-type]
    size = image.height, image.width
    header = HEADER.pack(MAGIC, level, *size, len(y_string), check, 0)[:CRC_AT]
    strings: bytes = y_string + z_string
    return header + struct.pack(">I", zlib.crc32(header + strings)) + strings


@torch.no_grad()
def decode_image(model: LearnedCodec, data: bytes) -> Image:
    """The image in a .kdb file.

    Raises:
        CodecError: Not a .kdb file, cut short, of another codec, or decoded to other latents.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise CodecError("this is no .kdb file", fix="name a file that this codec wrote")
    _, level, height, width, n_y, check, crc = HEADER.unpack_from(data)
    if zlib.crc32(data[:CRC_AT] + data[HEADER.size :]) != crc:
        raise CodecError("the .kdb file is damaged or cut short", fix="copy or encode it again")
    y_string, z_string = data[HEADER.size : HEADER.size + n_y], data[HEADER.size + n_y :]
    shape = (-(-height // DOWNSAMPLING), -(-width // DOWNSAMPLING))
    y_string, z_string = (string + _slack(model, shape) for string in (y_string, z_string))
    out = model.decompress([[y_string], [z_string]], shape, level)
    if _check(model, out["symbols"], out["indexes"]) != check:
        raise CodecError(
            "the decoded latents are not the ones that were encoded",
            fix="decode with the same codec file, on the same kind of machine and thread count: "
            "another float unit computes other scale indexes",
        )
    return to_image(out["x_hat"], height, width)


def _slack(model: LearnedCodec, shape: tuple[int, int]) -> bytes:
    """Zeros after a string: CompressAI's decoder does not look where a string ends.

    With the tables of another codec it would read on into foreign memory, at most four bytes a
    symbol and a few more where it finds an escape. What lies after a string changes no symbol.
    """
    offer = model.architecture.offer
    per_place = 16 * offer.channels + (offer.hyper_width or 0)
    return bytes(4 * 2 * per_place * shape[0] * shape[1])


@torch.no_grad()
def expectation(model: LearnedCodec, image: Analysed, level: int) -> Expectation:
    """Estimated bits and reconstruction of an image, without a bitstream."""
    out = model.forward_latent(image.latent, level)
    x_hat: Tensor = out["x_hat"]  # type: ignore[assignment]
    return Expectation(_coder_bits(model, out), to_image(x_hat, image.height, image.width))


def _coder_bits(model: LearnedCodec, out: dict[str, Any]) -> float:
    """Bits of the latents by the model's likelihoods, as far as a 16-bit range coder follows them.

    Its frequencies have 16 bits, so no symbol of a table costs more, however unlikely. A latent
    beyond its table (6.1 sigma) costs the escape symbol and its distance in groups of four bits.
    Both are rare in a trained codec, and several percent of the bits in a hardly trained one. The
    tables themselves are not looked at but for their ends, so wrong ones still show. A codec that
    has no tables yet, or tables of another kind, has no escapes.
    """
    bits = sum(_within_precision(p).sum() for p in out["likelihoods"].values())
    if "scales" not in out or not model.gaussian_conditional._offset.numel():
        return float(bits)
    prior = model.gaussian_conditional
    ends = -prior._offset[prior.build_indexes(out["scales"]).long()]
    symbols = (out["y"] - out["means"] if "means" in out else out["y"]).round()
    beyond = symbols.abs() - ends
    raw = (2 * beyond - 1).clamp_min(1)
    escape = 4 + 4 * torch.ceil((raw.log2().floor() + 1) / 4)
    return float(bits + escape[beyond > 0].sum())


def _within_precision(p: Tensor) -> Tensor:
    return -p.clamp_min(2.0**-PRECISION_BITS).log2()


def payload_bits(data: bytes) -> int:
    """Bits of the two strings of a .kdb file, its header not counted."""
    return (len(data) - HEADER.size) * 8


def _device(model: LearnedCodec) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
