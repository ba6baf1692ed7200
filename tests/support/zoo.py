"""Files of CompressAI's zoo that a test writes itself: small ones, with the right hash."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compressai.zoo import image

from kdbench.zoo import ZooModel

SMALL = {"cheng2020-anchor": (8,), "cheng2020-attn": (16,)}  # N alone; the others N, M


def small_sizes(model: ZooModel) -> tuple[int, ...]:
    """Channels of a model that codes a crop in milliseconds."""
    return SMALL.get(model.name, (8, 16))


def state_of(
    model: ZooModel, sizes: Sequence[int] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """Weights that nobody trained; as small as can be unless told otherwise."""
    torch.manual_seed(seed)
    built = image.model_architectures[model.name](*(sizes or small_sizes(model)))
    weights: dict[str, Any] = built.state_dict()
    return weights


def saved(content: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def put(
    patch: pytest.MonkeyPatch, home: Path, model: ZooModel, data: bytes, *, sha: str | None = None
) -> Path:
    """Makes `data` the file of `model` in the hub of `home`, and `SMALL` its architecture.

    The URL table gets a file name with the right hash, or with `sha`.
    """
    patch.setenv("TORCH_HOME", str(home))
    digits = (sha or hashlib.sha256(data).hexdigest())[:8]
    name = f"{model.name}-{model.quality}-{digits}.pth.tar"
    patch.setitem(image.model_urls[model.name]["mse"], model.quality, f"https://zoo.test/v1/{name}")
    patch.setitem(image.cfgs[model.name], model.quality, small_sizes(model))
    path = home / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_small(
    patch: pytest.MonkeyPatch, home: Path, name: str, quality: int, *, seed: int = 0
) -> ZooModel:
    """A whole small model."""
    model = ZooModel(name, quality)
    put(patch, home, model, saved(state_of(model, seed=seed)))
    return model
