"""Codec files: safetensors with the architecture and a card in the header, CDF tables included.

Tables are stored, never rebuilt elsewhere: another machine's rounding would give another table and
undecodable files. Nothing is ever unpickled.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdbench.codecs.building import build
from kdbench.codecs.integer import IntegerContext, IntegerSynthesis
from kdbench.codecs.learned import LearnedCodec
from kdbench.errors import CodecError
from kdbench.records import AnyArchitecture, Architecture, FamilyArchitecture, canonical_json

FORMAT = "kdbench-codec-1"
LENGTH = struct.Struct("<Q")  # of the JSON header that follows [bytes]
SUM = "sha256"  # in the header's metadata
ZIP, PICKLE = b"PK", b"\x80"  # how files of torch.save begin, new and old
KERNEL_NDIM = 4  # of convolution weights, the only tensors stored in fp16


def codec_bytes(
    model: LearnedCodec, card: Mapping[str, Any], *, half: bool = False, summed: bool = False
) -> bytes:
    """The file of `model` as bytes; the same model and card always give the same bytes.

    Args:
        model: A finalised codec (its tables are part of the file).
        card: What a reader should know of it; plain JSON values.
        half: Stores convolution kernels in fp16; bounds such as 1e-9 would become 0 there.
        summed: Whether its header holds a checksum of all of it: for files that no result or card
            beside them names by their hash.
    """
    tensors = {
        name: value.detach().half() if half and value.ndim == KERNEL_NDIM else value.detach()
        for name, value in model.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "architecture": canonical_json(model.architecture),
        "card": canonical_json(card),
    }
    stored = {k: v.contiguous().cpu() for k, v in tensors.items()}
    if summed:
        metadata[SUM] = _sum(metadata, stored)
    return _ordered(save(stored, metadata))


def codec_identity(model: LearnedCodec) -> bytes:
    """SHA-256 of what `model` computes with: architecture, weights and tables, whatever its card.

    A student and the package that it was exported to have the same.
    """
    digest = hashlib.sha256(canonical_json(model.architecture).encode())
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _sum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what a file says and holds, hexadecimal."""
    said = {key: value for key, value in metadata.items() if key != SUM}
    digest = hashlib.sha256(canonical_json(said).encode())
    for name, value in sorted(tensors.items()):
        array = value.contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _ordered(file: bytes) -> bytes:
    """`file` with its header sorted: safetensors writes metadata in random order (0.8, 2026)."""
    (length,) = LENGTH.unpack_from(file)
    header = json.loads(file[LENGTH.size : LENGTH.size + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH.size)  # tensors begin at multiples of 8 bytes
    return LENGTH.pack(len(text)) + text + file[LENGTH.size + length :]


@torch.no_grad()
def round_kernels(model: LearnedCodec) -> None:
    """Rounds the kernels to fp16 values in place, so that tables are built on what is stored."""
    for parameter in model.parameters():
        if parameter.ndim == KERNEL_NDIM:
            parameter.copy_(parameter.half().float())


def load_codec(path: Path) -> tuple[LearnedCodec, dict[str, Any]]:
    """The codec in `path`, in eval mode and fp32, and its card.

    Raises:
        CodecError: No such file, not a kdbench codec (a pickle, say), damaged, weights of another
            architecture than its header says, or of a family that no package here brings.
    """
    architecture, card, tensors = _read(path)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        model = build(architecture)
        model.load_state_dict(floats)
    except (RuntimeError, KeyError, ValueError, IndexError, ZeroDivisionError) as why:
        first = str(why).splitlines()
        raise CodecError(
            f"{path}: its weights do not fit the architecture its header names: "
            f"{first[1].strip() if len(first) > 1 else first[0]}",
            fix="take the original file again; header and weights must come from one save",
        ) from None
    for part in model.modules():
        if isinstance(part, IntegerSynthesis | IntegerContext):
            part.require_exact()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, card


def read_card(path: Path) -> tuple[AnyArchitecture, dict[str, Any]]:
    """Architecture and card of the codec in `path`, without building it."""
    architecture, card, _ = _read(path)
    return architecture, card


def file_sha(path: Path) -> str:
    """SHA-256 of the file, hexadecimal.

    Raises:
        CodecError: No such file.
    """
    _require_file(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CodecError(
            f"there is no codec file {path}",
            fix="`kdbench doctor` lists the teachers; `kdbench teach` trains one",
        )


def _read(path: Path) -> tuple[AnyArchitecture, dict[str, Any], dict[str, Tensor]]:
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as why:
        if _is_pickle(path):
            raise CodecError(
                f"{path} is a Python pickle (torch.save), which may run code when it is read",
                fix="convert it to safetensors where you trust it; kdbench never unpickles",
            ) from None
        raise CodecError(
            f"{path} is damaged or no safetensors file: {why}",
            fix="take the original file again, or train it anew with `kdbench teach`",
        ) from None
    if metadata.get("format") != FORMAT:
        raise CodecError(
            f"{path} is a safetensors file, but not of a kdbench codec "
            f"(format {metadata.get('format')!r}, expected {FORMAT!r})",
            fix="name a file that `kdbench teach` or `kdbench search` wrote",
        )
    if SUM in metadata and metadata[SUM] != _sum(metadata, tensors):
        raise CodecError(
            f"{path} is damaged: its content is not what its checksum says",
            fix="take the original file again, or train it anew with `kdbench teach`",
        )
    try:
        architecture = _architecture(metadata["architecture"])
        card = json.loads(metadata["card"])
    except (KeyError, ValueError) as why:
        raise CodecError(
            f"{path}: its header cannot be read: {_first_problem(why)}",
            fix="take the original file again",
        ) from None
    if any(v.is_floating_point() and not bool(torch.isfinite(v).all()) for v in tensors.values()):
        raise CodecError(
            f"{path} holds weights that are no numbers (NaN or infinity)",
            fix="take the original file again, or train it anew with `kdbench teach`",
        )
    return architecture, card, tensors


def _architecture(text: str) -> AnyArchitecture:
    tree = json.loads(text)
    if isinstance(tree, dict) and "codec" in tree:
        return TypeAdapter(FamilyArchitecture).validate_json(text)
    return TypeAdapter(Architecture).validate_json(text)


def _first_problem(why: KeyError | ValueError) -> str:
    """One line; pydantic writes three for each field."""
    if isinstance(why, ValidationError):
        first = why.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return str(why)


def _is_pickle(path: Path) -> bool:
    """Whether the file begins like one of torch.save; a safetensors header begins at byte 8."""
    try:
        with path.open("rb") as file:
            begin = file.read(LENGTH.size + 1)
    except OSError:
        return False
    is_safetensors = begin[LENGTH.size :] == b"{"
    return begin.startswith(ZIP) or (begin.startswith(PICKLE) and not is_safetensors)
