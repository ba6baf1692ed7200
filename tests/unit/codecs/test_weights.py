"""Codec files: read back exactly, refused if damaged, never unpickled."""

import copy
import dataclasses
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import (
    KERNEL_NDIM,
    codec_bytes,
    file_sha,
    load_codec,
    read_card,
    round_kernels,
)
from kdbench.errors import CodecError
from kdbench.records import Latent
from tests.support.codecs import architecture, crops, finished

CARD = {"name": "tiny", "licence": "CC0-1.0", "training": {"rd_lambdas": [0.0018, 0.025]}}


@pytest.fixture(scope="module")
def model() -> Hyperprior:
    return finished(architecture())


@pytest.fixture
def path(model: Hyperprior, tmp_path: Path) -> Path:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(model, CARD))
    return path


def _body(data: bytes) -> bytes:
    return data[8 + int.from_bytes(data[:8], "little") :]


def _metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _rewrite(path: Path, **changes: str) -> None:
    """The same tensors under another header."""
    save_file(load_file(path), path, metadata=_metadata(path) | changes)


def test_a_codec_is_always_saved_to_the_same_bytes(model: Hyperprior) -> None:
    """safetensors itself writes metadata in random order; `rerun` compares hashes of files."""
    assert len({codec_bytes(model, CARD) for _ in range(20)}) == 1


def test_another_process_saves_a_codec_to_the_same_bytes(path: Path) -> None:
    again = (
        "import sys; from pathlib import Path; from kdbench.codecs.weights import *;"
        "path = Path(sys.argv[1]); model, card = load_codec(path);"
        "path.with_suffix('.again').write_bytes(codec_bytes(model, card))"
    )
    subprocess.run([sys.executable, "-c", again, str(path)], check=True)
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()


def test_a_codec_comes_back_as_it_was(model: Hyperprior, path: Path) -> None:
    loaded, card = load_codec(path)
    assert card == CARD
    assert loaded.architecture == model.architecture
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_tables_come_from_the_file_and_are_not_built_again(path: Path) -> None:
    marked = finished(architecture())
    marked.gaussian_conditional._quantized_cdf[0, 1] += 1
    path.write_bytes(codec_bytes(marked, CARD))
    table = load_codec(path)[0].gaussian_conditional._quantized_cdf
    assert torch.equal(table, marked.gaussian_conditional._quantized_cdf)


def test_a_header_is_read_without_its_weights(path: Path) -> None:
    assert read_card(path) == (architecture(), CARD)


def test_a_file_begins_its_tensors_at_a_multiple_of_eight_bytes(path: Path) -> None:
    """The format asks for it, so that a memory map is aligned."""
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_half_storage_keeps_everything_but_kernels_exact(model: Hyperprior, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(codec_bytes(model, CARD, half=True))
    n_kernel_values = sum(p.numel() for p in model.parameters() if p.ndim == KERNEL_NDIM)
    saved_bytes = len(_body(codec_bytes(model, CARD))) - len(_body(half.read_bytes()))
    assert saved_bytes == 2 * n_kernel_values > 0
    for name, value in load_codec(half)[0].state_dict().items():
        before = model.state_dict()[name]
        expected = before.half().float() if before.ndim == KERNEL_NDIM else before
        assert torch.equal(value, expected), name


def test_a_codec_with_rounded_kernels_is_stored_in_half_without_loss(tmp_path: Path) -> None:
    rounded = finished(architecture())
    round_kernels(rounded)
    rounded.finalise()
    path = tmp_path / "half.safetensors"
    path.write_bytes(codec_bytes(rounded, CARD, half=True))
    loaded, _ = load_codec(path)
    image = crops(1)[0].transpose(1, 2, 0)
    data = encode_image(rounded, image, 1)
    assert encode_image(loaded, image, 1) == data
    assert (decode_image(loaded, data) == decode_image(rounded, data)).all()


def test_the_hash_of_a_file_changes_with_its_content(path: Path) -> None:
    before = file_sha(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert file_sha(path) != before


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _unzipped(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return pickle.loads(file.read(next(n for n in file.namelist() if "data.pkl" in n)))


def _after_legacy_header(data: bytes) -> Any:
    stream = io.BytesIO(data)
    return [pickle.load(stream) for _ in range(4)][-1]  # magic, version, machine, the object


@pytest.mark.parametrize("kind", ["zip", "legacy", *range(2, 6)])
def test_a_pickle_is_named_and_never_unpickled(kind: str | int, tmp_path: Path) -> None:
    path, sprung = tmp_path / "codec.safetensors", tmp_path / "sprung"
    trap = {"x": _Trap(sprung)}
    if isinstance(kind, int):
        path.write_bytes(pickle.dumps(trap, protocol=kind))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CodecError, match="is a Python pickle"):
        load_codec(path)
    assert not sprung.exists()
    unpickle = {"zip": _unzipped, "legacy": _after_legacy_header}.get(str(kind), pickle.loads)
    unpickle(path.read_bytes())
    assert sprung.exists()  # the trap does work


def test_a_safetensors_file_that_begins_like_a_pickle_is_read(
    model: Hyperprior, path: Path
) -> None:
    """Its first bytes are a length, and some lengths look like protocol 2."""
    length = int.from_bytes(path.read_bytes()[:8], "little")
    card = CARD | {"note": "x" * ((0x0280 - length) % 0x10000 - len(',\\"note\\":\\"\\"'))}
    path.write_bytes(codec_bytes(model, card))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load_codec(path)[1] == card


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"there is no codec file .*gone\.safetensors"):
        load_codec(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1000, -1])
def test_a_file_cut_anywhere_is_an_error(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CodecError, match="damaged or no safetensors file"):
        load_codec(path)


def test_a_file_of_noise_is_an_error(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(CodecError, match="damaged or no safetensors file"):
        load_codec(path)


def test_a_safetensors_file_of_somebody_else_is_an_error(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(CodecError, match="not of a kdbench codec"):
        load_codec(path)


def test_weights_of_another_architecture_than_the_header_says_are_an_error(
    model: Hyperprior, path: Path
) -> None:
    other = copy.deepcopy(model)
    other.architecture = dataclasses.replace(model.architecture, latent=Latent(channels=24))
    path.write_bytes(codec_bytes(other, CARD))
    with pytest.raises(CodecError, match="do not fit the architecture") as refused:
        load_codec(path)
    assert "torch.Size([2, 16])" in refused.value.problem


@pytest.mark.parametrize(
    "architecture_json", ["{}", "no json", '{"encoder": 1}', '{"latent": {"channels": "many"}}']
)
def test_a_header_that_cannot_be_read_is_an_error(path: Path, architecture_json: str) -> None:
    _rewrite(path, architecture=architecture_json)
    with pytest.raises(CodecError, match="its header cannot be read"):
        load_codec(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_an_error(path: Path, value: float) -> None:
    broken = finished(architecture())
    with torch.no_grad():
        broken.g_a[0].bias[3] = value  # type: ignore[operator]
    path.write_bytes(codec_bytes(broken, CARD))
    with pytest.raises(CodecError, match="no numbers"):
        load_codec(path)
