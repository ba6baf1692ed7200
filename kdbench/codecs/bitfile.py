"""Images to .kdb files and back, by any learned codec; `fileform` has what stands where.

The strings are CompressAI's range coder's. A float h_s gives other scale indexes on another CPU,
thread count or runtime; the range decoder then reads garbage without noticing, so a decode whose
symbols and indexes have another hash than the header says is an error. So is one by another codec,
even where both took their entropy model from one teacher.
What a header declares is held against the length of its strings before any memory is asked for:
no symbol can cost less than the most likely one of its table.
"""

import hashlib
import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdbench.codecs.fileform import (
    STEPS,
    Header,
    contradiction,
    header_bytes,
    packed,
    read_header,
    require_size,
)
from kdbench.codecs.learned import DOWNSAMPLING, LearnedCodec
from kdbench.codecs.weights import codec_identity
from kdbench.errors import CodecError

PRECISION_BITS = 16  # of CompressAI's range coder

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
        CodecError: The image is larger than a .kdb file can say, or than a decoder takes.
    """
    height, width = image.shape[:2]
    require_size(height, width)
    return Analysed(model.g_a(to_tensor(image).to(_device(model))), height, width)


def encode_image(
    model: LearnedCodec, image: Image, level: float, *, machine: str | None = None
) -> bytes:
    """The .kdb file of `image`; what a camera would run, and what encode energy is measured on."""
    return encode_analysed(model, analyse_image(model, image), level, machine=machine)


@torch.no_grad()
def encode_analysed(
    model: LearnedCodec, image: Analysed, level: float, *, machine: str | None = None
) -> bytes:
    """The .kdb file of an image whose latent is known.

    Args:
        model: Finalised.
        image: From `analyse_image`.
        level: A trained one; or where `machine` is given between two, in steps of 1/65536.
        machine: The one that encodes, for a file that travels; its first 255 bytes are kept.
    """
    model.checked_levels(level, 1)
    kept = round(level * STEPS) / STEPS
    if machine is None and not kept.is_integer():
        raise CodecError(
            f"level {level:g} lies between two, which a KDB1 file cannot say",
            fix="name the machine that encodes, and a KDB2 file is written",
        )
    out = model.compress_latent(image.latent, int(kept) if kept.is_integer() else kept)
    y_string, z_string = out["strings"][0][0], out["strings"][1][0]  # type: ignore[index]
    check = _check(model, out["symbols"], out["indexes"])  # type: ignore[arg-type]
    travels = machine is not None
    header = Header(
        level=kept,
        height=image.height,
        width=image.width,
        check=check,
        codec=codec_identity(model)[:8] if travels else None,
        is_integer=model.has_integer_prior if travels else None,
        machine=machine,
        strings=(0, len(y_string)),
    )
    return packed(header, y_string + z_string)


@torch.no_grad()
def decode_image(model: LearnedCodec, data: bytes, *, machine: str = "this machine") -> Image:
    """The image in a .kdb file.

    Args:
        model: The codec that encoded it.
        data: The whole file.
        machine: The one that decodes, for the error that names both.

    Raises:
        CodecError: Not a .kdb file, cut short, of another codec, larger than its strings can
            hold, or decoded to other latents.
    """
    header = read_header(data)
    _require_codec(model, header)
    y_at, z_at = header.strings
    y_string, z_string = data[y_at:z_at], data[z_at:]
    require_size(header.height, header.width)
    shape = (-(-header.height // DOWNSAMPLING), -(-header.width // DOWNSAMPLING))
    _require_bits(model, shape, len(z_string))
    y_string, z_string = (string + _slack(model, shape) for string in (y_string, z_string))
    level = int(header.level) if header.level.is_integer() else header.level
    out = model.decompress([[y_string], [z_string]], shape, level)
    if _check(model, out["symbols"], out["indexes"]) != header.check:
        raise _other_latents(header, machine)
    return to_image(out["x_hat"], header.height, header.width)


def _require_codec(model: LearnedCodec, header: Header) -> None:
    """Raises CodecError where a file that names its codec was written by another one."""
    if header.codec is None or header.codec == codec_identity(model)[:8]:
        return
    ours = "an integer" if model.has_integer_prior else "a float"
    theirs = "an integer" if header.is_integer else "a float"
    kinds = f"; that one has {theirs} h_s, this one {ours} one" if ours != theirs else ""
    raise CodecError(
        f"the file was written by codec {header.codec.hex()}, and this is codec "
        f"{codec_identity(model)[:8].hex()}{kinds}",
        fix="decode with the package, teacher or trial that encoded it",
    )


def _other_latents(header: Header, machine: str) -> CodecError:
    problem = "the decoded latents are not the ones that were encoded"
    if header.machine is not None:
        problem += f": encoded on {header.machine}; decoded on {machine}"
    return CodecError(
        problem,
        fix="decode with the same codec file, on the same kind of machine and thread count: "
        "another float unit computes other scale indexes; a package of `kdbench export "
        "--deterministic` computes them in integers, the same everywhere",
    )


def _require_bits(model: LearnedCodec, shape: tuple[int, int], n_z_bytes: int) -> None:
    """Raises CodecError where the z string is too short for an image of `shape`.

    No symbol of a channel of z costs less than the most likely one of its table. The range coder
    writes whole words of 32 bits and ends with two of them.
    """
    least = _least_bits(model) * shape[0] * shape[1]
    if 8 * n_z_bytes + 64 < least:
        raise contradiction(
            f"{n_z_bytes} bytes cannot hold what predicts {shape[1] * DOWNSAMPLING}x"
            f"{shape[0] * DOWNSAMPLING} px with this codec, at least {math.ceil(least / 8)} bytes"
        )


def _least_bits(model: LearnedCodec) -> float:
    """Bits of the cheapest hyper-latent at one place, all channels; 0 of a codec that has none."""
    if model.architecture.offer.hyper_width is None or not hasattr(model, "entropy_bottleneck"):
        return 0.0
    tables, lengths = (
        model.entropy_bottleneck._quantized_cdf.cpu(),
        model.entropy_bottleneck._cdf_length.cpu(),
    )
    bits = 0.0
    for row, n in zip(tables.tolist(), lengths.tolist(), strict=True):
        most = max(b - a for a, b in pairwise(row[:n]))
        bits += PRECISION_BITS - math.log2(most)
    return bits


def _slack(model: LearnedCodec, shape: tuple[int, int]) -> bytes:
    """Zeros after a string: CompressAI's decoder does not look where a string ends.

    With the tables of another codec it would read on into foreign memory, at most four bytes a
    symbol and a few more where it finds an escape. What lies after a string changes no symbol.
    """
    offer = model.architecture.offer
    per_place = 16 * offer.channels + (offer.hyper_width or 0)
    return bytes(4 * 2 * per_place * shape[0] * shape[1])


@torch.no_grad()
def expectation(model: LearnedCodec, image: Analysed, level: float) -> Expectation:
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
    return (len(data) - header_bytes(data)) * 8


def _device(model: LearnedCodec) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
