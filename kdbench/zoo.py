"""CompressAI's model zoo by name, and its files in torch.hub's folder.

    zoo:MODEL/QUALITY      one model, trained for one rate
    zoo:MODEL/FIRST-LAST   one model for each rate

Names need no torch, so that `check` can ask. Nothing is downloaded, for workers may have no network
and must not fetch a file each; nothing is unpickled but tensors.
"""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdbench.errors import CodecError
from kdbench.names import nearest_first
from kdbench.records import Coordinates, Prior

if TYPE_CHECKING:
    from torch import Tensor, nn

KIND = "zoo:"
RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)
"""What qualities 1 to 8 were trained for, with MSE."""
CHANNELS: Mapping[str, tuple[int, ...]] = {
    "bmshj2018-factorized": 5 * (192,) + 3 * (320,),
    "bmshj2018-hyperprior": 5 * (192,) + 3 * (320,),
    "mbt2018-mean": 4 * (192,) + 4 * (320,),
    "mbt2018": 4 * (192,) + 4 * (320,),
    "cheng2020-anchor": 3 * (128,) + 3 * (192,),
    "cheng2020-attn": 3 * (128,) + 3 * (192,),
}
"""Latent channels of each quality: CompressAI's tables, which cannot be read without torch."""
PRIORS: Mapping[str, Prior | None] = {
    **dict.fromkeys(CHANNELS, "mean_scale"),
    "bmshj2018-factorized": None,
    "bmshj2018-hyperprior": "scale",
}
OWN = "bmshj2018-hyperprior"
"""The one that is a codec of ours with one level: it codes files here, the others only teach."""
_QUALITIES = re.compile(r"([0-9]{1,3})(?:-([0-9]{1,3}))?")
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError),
    *(ValueError, KeyError, IndexError, AttributeError, TypeError),
)


class ZooFile(NamedTuple):
    """One file of the zoo: where it must lie and where it comes from."""

    path: Path
    url: str

    @property
    def sha_prefix(self) -> str:
        """First digits of its SHA-256; the zoo writes them into the name."""
        return self.path.name.rpartition("-")[2].partition(".")[0]

    @property
    def fetch(self) -> str:
        """The command that puts it there."""
        return f"`curl --create-dirs -o {self.path} {self.url}`"


class ZooModel(NamedTuple):
    """One model of one quality."""

    name: str
    quality: int

    def __str__(self) -> str:
        return f"{KIND}{self.name}/{self.quality}"

    @property
    def rd_lambda(self) -> float:
        """What it was trained for."""
        return RD_LAMBDAS[self.quality - 1]


def parse(name: str) -> tuple[ZooModel, ...]:
    """The models that `zoo:...` means, by ascending quality.

    Raises:
        CodecError: No such model (known ones nearest first) or quality.
    """
    model, _, wanted = name.removeprefix(KIND).partition("/")
    if model not in CHANNELS:
        raise CodecError(
            f"there is no zoo model {model!r}",
            fix=f"known, nearest first: {', '.join(nearest_first(model, list(CHANNELS)))}",
        )
    n, found = len(CHANNELS[model]), _QUALITIES.fullmatch(wanted)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= n:
        raise CodecError(
            f"{model} has the qualities 1 to {n}, not {wanted!r}",
            fix=f"write {KIND}{model}/3 for one of them, {KIND}{model}/1-{n} for a range",
        )
    return tuple(ZooModel(model, quality) for quality in range(first, last + 1))


def coordinates(name: str) -> Coordinates:
    """Of the latents of `zoo:...`; models of several rates share none.

    Raises:
        CodecError: As `parse`.
    """
    models = parse(name)
    model, prior = models[0], PRIORS[models[0].name]
    channels = CHANNELS[model.name][model.quality - 1]
    return Coordinates(channels, prior if len(models) == 1 else None, prior is not None)


# --- files ---------------------------------------------------------------------------------------


def zoo_file(model: ZooModel) -> ZooFile:
    """The file of one model; whether it is there is another question."""
    import torch
    from compressai.zoo.image import model_urls

    url: str = model_urls[model.name]["mse"][model.quality]
    return ZooFile(Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url)


def files_here() -> dict[ZooModel, ZooFile]:
    """Every file of the zoo in torch.hub's folder, whole or not."""
    models = [ZooModel(name, q + 1) for name, qs in CHANNELS.items() for q in range(len(qs))]
    found = {model: zoo_file(model) for model in models}
    return {model: file for model, file in found.items() if file.path.is_file()}


def read(model: ZooModel) -> tuple[bytes, str]:
    """The model's file, checked against the hash in its name, and its whole SHA-256.

    Raises:
        CodecError: It is not there, cannot be read, or is damaged.
    """
    file = zoo_file(model)
    if not file.path.is_file():
        raise CodecError(
            f"{model} needs the file {file.path.name}, which is not in {file.path.parent}",
            fix=f"put it there where there is a network: {file.fetch}; TORCH_HOME names another "
            "folder; kdbench never downloads",
        )
    try:
        data = file.path.read_bytes()
    except OSError as why:
        raise CodecError(
            f"{file.path} cannot be read: {why.strerror or why}", fix="let this user read it"
        ) from None
    sha = hashlib.sha256(data).hexdigest()
    if not sha.startswith(file.sha_prefix):
        raise CodecError(
            f"{file.path} is damaged or another file: its SHA-256 begins with "
            f"{sha[: len(file.sha_prefix)]}, its name says {file.sha_prefix}",
            fix=f"take it again: {file.fetch}",
        )
    return data, sha


def load(model: ZooModel) -> tuple["nn.Module", str]:
    """The model as CompressAI builds it, with the weights of its file, and the file's SHA-256.

    Raises:
        CodecError: As `read`; or no weights in it, or those of another architecture.
    """
    from compressai.zoo.image import cfgs, model_architectures
    from compressai.zoo.pretrained import load_pretrained

    data, sha = read(model)
    state = _tensors(data, zoo_file(model))
    built: nn.Module = model_architectures[model.name](*cfgs[model.name][model.quality])
    try:
        built.load_state_dict(load_pretrained(state))
    except _DAMAGE as why:
        lines = str(why).splitlines() or [repr(why)]
        raise CodecError(
            f"{zoo_file(model).path}: its weights are not those of {model}: "
            f"{lines[min(1, len(lines) - 1)].strip()}",
            fix=f"take it again: {zoo_file(model).fetch}",
        ) from None
    return built, sha


def _tensors(data: bytes, file: ZooFile) -> "dict[str, Tensor]":
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by other programs; the answer is below
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _DAMAGE:
        state = None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CodecError(
            f"{file.path} holds no weights, or more than weights: only tensors are read",
            fix=f"take it again: {file.fetch}",
        )
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise CodecError(
            f"{file.path} holds weights that are no numbers (NaN or infinity)",
            fix=f"take it again: {file.fetch}",
        )
    return state
