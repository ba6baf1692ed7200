"""Frozen teachers by name, and their outputs on a study's crops, computed once and memory-mapped.

kdbench's own codec files (`Teacher`) satisfy the contract with a variable-rate `Hyperprior`.

A cache folder holds, for n crops and L levels of the teacher (M, H: the teacher's channels):

    y.f16       (n, M, h, w)             latent before the gain: the levels share it
    z.f16       (L, n, H, h/4, w/4)      hyper-latent before rounding, of a teacher that has one
    scales.f16  (L, n, M, h, w)          sigma, of a teacher that predicts it
    means.f16   (L, n, M, h, w)          mu, likewise
    x_hat.u8    (L, n, 3, H, W)          reconstruction, 8 bit
    features.f16                         of a layer, where a term asks for one: (n, C, h', w') of
                                         g_a, which the levels share, (L, n, C, h', w') of g_s

Its name is the hash of teacher file, levels, crops and layer, so nothing stale is ever read.
"""

import difflib
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.cards import BUILTIN, list_teachers, training_of
from kdbench.codecs.hyperprior import Hyperprior, quantised
from kdbench.codecs.weights import file_sha, load_codec, read_card
from kdbench.contract import Teaches
from kdbench.data import CropList
from kdbench.distill import Targets, unit_range
from kdbench.errors import CodecError, StoreError, notice
from kdbench.features import Tap, is_shared, listening
from kdbench.files import read_object, write_json
from kdbench.once import turn_to_build, unfinished
from kdbench.records import AnyArchitecture, Offer, content_hash

SOMETIMES = ("z", "scales", "means", "features")  # what not every cache has
COMPLETE = "complete.json"  # written last: SHA-256 of every file beside it
CHUNK = 16  # crops the teacher sees at a time; part of what the cache's values depend on


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen codec with its card.

    Attributes:
        sha: SHA-256 of its file.
        rd_lambdas: One a level, ascending.
    """

    name: str
    path: Path
    sha: str
    model: Hyperprior
    card: dict[str, Any]

    @property
    def rd_lambdas(self) -> tuple[float, ...]:
        """What each of its levels was trained for."""
        return tuple(training_of(self.card)["rd_lambdas"])

    @property
    def offer(self) -> Offer:
        """Everything there is."""
        return self.model.architecture.offer

    def levels_for(self, rd_lambdas: Sequence[float]) -> tuple[int, ...]:
        """Its level for each of `rd_lambdas`.

        Raises:
            CodecError: The teacher has no such level.
        """
        missing = [v for v in rd_lambdas if v not in self.rd_lambdas]
        if missing:
            raise CodecError(
                f"{self.name} has no level for rd_lambda {', '.join(map(str, missing))}; "
                f"it has {', '.join(map(str, self.rd_lambdas))}",
                fix="choose `training.rd_lambdas` of the study among the teacher's",
            )
        return tuple(self.rd_lambdas.index(v) for v in rd_lambdas)

    def gains(self, levels: Sequence[int]) -> Tensor:
        """Learned, one a channel, (L, M, 1, 1)."""
        return torch.cat([self.model.gain(level) for level in levels])

    def rounded_hyper_latent(self, z: Tensor) -> Tensor:
        """See `contract.Teaches`."""
        return self.model.rounded_hyper_latent(z)

    def outputs(
        self, crops: Tensor, levels: Sequence[int], feature_layer: str | None = None
    ) -> dict[str, Tensor]:
        """See `teacher_outputs`."""
        with listening(self.name, self.model, feature_layer) as tap:
            return teacher_outputs(self.model, crops, levels, tap, feature_layer)


def teacher_path(name: str) -> Path:
    """The file of `teacher:NAME` or `file:PATH`.

    Raises:
        CodecError: No such teacher; lists those that are here, nearest first.
    """
    kind, _, rest = name.partition(":")
    if kind == "file" and rest:
        return Path(rest).expanduser()
    known = list_teachers()
    if kind == "teacher" and rest in known:
        if known[rest].parent == BUILTIN:
            _require_builtin(known[rest])
        return known[rest]
    nearest = sorted(known, key=lambda k: -difflib.SequenceMatcher(None, k, rest or name).ratio())
    raise CodecError(
        f"there is no teacher {name!r}",
        fix="use one of "
        + ", ".join(f"teacher:{k}" for k in nearest)
        + " or file:PATH; `kdbench teach NAME` trains another",
    )


@cache
def _require_builtin(path: Path) -> None:
    """Raises CodecError where a file that came with kdbench is not the one that was packed."""
    lines = (BUILTIN / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: sha for sha, name in (line.split() for line in lines)}
    if file_sha(path) != sums.get(path.name):
        raise CodecError(
            f"{path} is damaged: it is not the file that came with kdbench",
            fix="install kdbench again: `pip install --force-reinstall kdbench`",
        )


def load_teacher(name: str) -> Teacher:
    """The teacher called `name`, frozen, in eval mode.

    Raises:
        CodecError: Unknown, damaged, or a codec file without a teacher's card.
    """
    path = teacher_path(name)
    model, card = load_codec(path)
    if not isinstance(model, Hyperprior):
        raise CodecError(
            f"{path} is a codec of the family {model.architecture.codec.family}, and files teach "
            "where they are hyperpriors",
            fix="bring it as plugin:NAME, by an entry point of the group kdbench.teachers",
        )
    if model.has_integer_prior:
        raise CodecError(
            f"{path} has an integer h_s, which is made to code and not to teach",
            fix="name the codec that it was exported from, with its float h_s",
        )
    if "rd_lambdas" not in training_of(card):
        raise CodecError(
            f"{path} has no `training.rd_lambdas` in its card, so its levels cannot be matched",
            fix="name a file that `kdbench teach` or `kdbench search` wrote",
        )
    return Teacher(name=name, path=path, sha=file_sha(path), model=model, card=card)


def teacher_architecture(name: str) -> AnyArchitecture:
    """What `name` is built as; reads the header only."""
    return read_card(teacher_path(name))[0]


# --- outputs on crops ----------------------------------------------------------------------------


@torch.no_grad()
def teacher_outputs(
    model: Hyperprior,
    crops: Tensor,
    levels: Sequence[int],
    tap: Tap | None = None,
    feature_layer: str | None = None,
) -> dict[str, Tensor]:
    """What the cache stores of `crops`, by name and in the types it stores them in.

    Args:
        model: The teacher.
        crops: uint8 (B, 3, H, W).
        levels: The teacher's levels, in the study's order.
        tap: On its `feature_layer`, if there is one.
        feature_layer: Of g_a or g_s.
    """
    x = crops.float() / 255
    y = model.g_a(x)
    by_level: list[dict[str, Tensor]] = []
    for level in levels:
        gained = y * model.gain(level)
        z = model.hyper_latent(gained)
        scales, means = model.coding_gaussians(gained, model.rounded_hyper_latent(z))
        x_hat = model.g_s(quantised(gained, means) * model.inverse_gain(level))
        found = {"z": z}
        if model.architecture.offer.prior is not None:
            found |= {"scales": scales} | ({} if means is None else {"means": means})
        by_level.append({name: values.half() for name, values in found.items()})
        by_level[-1]["x_hat"] = x_hat.clamp(0, 1).mul(255).round().to(torch.uint8)
        by_level[-1]["y"] = y.half()
        if tap is not None:
            by_level[-1]["features"] = tap.features.half()
    return {
        name: values
        if is_shared(name, feature_layer)
        else torch.stack([at[name] for at in by_level])
        for name, values in by_level[0].items()
    }


class TeacherCache:
    """A teacher's outputs on a crop list; `open` builds them once, whoever asks first."""

    def __init__(
        self,
        teacher: Teaches,
        levels: Sequence[int],
        arrays: dict[str, Any],
        feature_layer: str | None = None,
    ) -> None:
        self.levels = tuple(levels)
        self._teacher, self._arrays, self._feature_layer = teacher, arrays, feature_layer
        self._gains = teacher.gains(levels)

    @classmethod
    def open(
        cls,
        teacher: Teaches,
        crops: CropList,
        rd_lambdas: Sequence[float],
        folder: Path,
        *,
        cache_gib: float,
        feature_layer: str | None = None,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
        on_progress: Callable[[int, int], None] = lambda done, n: None,
    ) -> "TeacherCache":
        """The cache of `teacher` on `crops` under `folder`; workers that come later wait for it.

        Args:
            teacher: Whose outputs.
            crops: On which crops.
            rd_lambdas: The levels, by what they are trained for.
            folder: Where caches lie.
            cache_gib: Upper bound of its size [GiB].
            feature_layer: Whose features it holds, too.
            turn: Entered for each chunk of crops: this host's turn to compute (`Lease.shared`).
            on_progress: Told the crops done and their number.

        Raises:
            StoreError: It would be larger than `cache_gib`, or cannot be written.
            TrainingError: The teacher has no `feature_layer`.
        """
        levels = teacher.levels_for(rd_lambdas)
        shapes = _shapes(teacher, crops, len(levels), feature_layer)
        gib = size_gib(teacher, crops, len(levels), feature_layer)
        require_room(gib, crops, cache_gib)
        key = content_hash(
            [teacher.sha, crops.hash, levels, "1", *([feature_layer] if feature_layer else [])]
        )
        target = folder / f"teacher-{key}"
        try:
            with turn_to_build(target) as goes_on:

                def told(done: int, n: int) -> None:
                    goes_on()
                    on_progress(done, n)

                if not _is_whole(target, shapes):
                    if target.exists():
                        notice(f"the teacher cache {target} is not whole; it is built again")
                    _build(
                        teacher,
                        crops,
                        levels,
                        shapes,
                        target,
                        feature_layer=feature_layer,
                        turn=turn,
                        on_progress=told,
                    )
        except OSError as why:
            raise StoreError(
                f"the teacher cache {target} cannot be written: {why.strerror or why}",
                fix=f"make room for {gib:.2f} GiB in a writable --root, or lower data.crops",
            ) from None
        arrays = {
            name: np.memmap(target / _file(name), dtype=dtype, mode="r", shape=shape)
            for name, (shape, dtype) in shapes.items()
        }
        return cls(teacher, levels, arrays, feature_layer)

    def only(self, position: int) -> "TeacherCache":
        """The same outputs at one of its levels alone; nothing is copied."""
        arrays = {
            name: array if is_shared(name, self._feature_layer) else array[position : position + 1]
            for name, array in self._arrays.items()
        }
        levels = [self.levels[position]]
        return TeacherCache(self._teacher, levels, arrays, self._feature_layer)

    def targets(
        self,
        indices: npt.NDArray[np.int64],
        levels: Tensor,
        device: str,
        *,
        with_rounded: bool = False,
    ) -> Targets:
        """The teacher's outputs for crops `indices` (B,) at the study's `levels` (B,).

        `with_rounded` rounds the latents, too, as the teacher would.
        """
        at = levels.cpu().numpy()

        def rows(name: str) -> Tensor:
            array = self._arrays[name]
            shared = is_shared(name, self._feature_layer)
            values = array[indices] if shared else array[at, indices]
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        def maps(name: str) -> Tensor:
            return rows(name).contiguous(memory_format=torch.channels_last).float()

        gains = self._gains[levels.cpu()].to(device)
        targets = Targets(
            y=maps("y").mul_(gains),
            x_hat=unit_range(rows("x_hat")),
            **{name: maps(name) for name in SOMETIMES if name in self._arrays},
        )
        if not with_rounded:
            return targets
        if targets.z is None:
            return targets._replace(y_hat=quantised(targets.y, targets.means))
        z_hat, means = self._teacher.rounded_hyper_latent(targets.z.cpu()), targets.means
        if isinstance(self._teacher, Teacher) and self._teacher.model.has_context:
            with torch.no_grad():
                said = self._teacher.model.coding_gaussians(targets.y.cpu(), z_hat)
            assert said.means is not None
            means = said.means.to(device)
        return targets._replace(y_hat=quantised(targets.y, means), z_hat=z_hat.to(device))

    @torch.no_grad()
    def channel_bits(self, model: Hyperprior, n: int) -> Tensor:
        """Estimated bits of each latent channel (M,), mean over the first `n` crops and all levels.

        What the entropy model of the teacher, `model`, says of its rounded latents.
        """
        y, prior = self.latents(n), model.gaussian_conditional
        bits = torch.zeros(y.shape[1])
        for level in self.levels:
            gained = y * model.gain(level)
            z_hat = model.rounded_hyper_latent(model.hyper_latent(gained))
            _, likelihoods = prior(gained, *model.coding_gaussians(gained, z_hat))
            bits -= likelihoods.log2().sum((2, 3)).mean(0)
        return bits / len(self.levels)

    def latents(self, n: int) -> Tensor:
        """Latents before the gain of the first `n` crops, (n, M, h, w) fp32."""
        return torch.from_numpy(np.array(self._arrays["y"][:n])).float()


def size_gib(
    teacher: Teaches, crops: CropList, n_levels: int, feature_layer: str | None = None
) -> float:
    """What the outputs of `teacher` at so many levels take [GiB]."""
    shapes = _shapes(teacher, crops, n_levels, feature_layer)
    return sum(math.prod(s) * np.dtype(t).itemsize for s, t in shapes.values()) / 2**30


def require_room(gib: float, crops: CropList, cache_gib: float) -> None:
    """Raises StoreError where `gib` of outputs are more than `cache_gib`."""
    if gib > cache_gib:
        raise StoreError(
            f"the teacher's outputs on {crops.n} crops need {gib:.2f} GiB, more than "
            f"`data.cache_gib` = {cache_gib:g}",
            fix="lower `data.crops` or raise `data.cache_gib`",
        )


def _shapes(
    teacher: Teaches, crops: CropList, n_levels: int, feature_layer: str | None
) -> dict[str, tuple[tuple[int, ...], str]]:
    offer, n, px = teacher.offer, crops.n, crops.crop_px
    latents = (n, offer.channels, px // 16, px // 16)
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "y": (latents, "<f2"),
        "x_hat": ((n_levels, n, 3, px, px), "|u1"),
    }
    if offer.hyper_width is not None:
        shapes["z"] = ((n_levels, n, offer.hyper_width, px // 64, px // 64), "<f2")
    if offer.prior is not None:
        shapes["scales"] = ((n_levels, *latents), "<f2")
    if offer.prior == "mean_scale":
        shapes["means"] = ((n_levels, *latents), "<f2")
    if feature_layer is not None:
        grey = torch.full((1, 3, px, px), 128, dtype=torch.uint8)
        tried = teacher.outputs(grey, [0], feature_layer)["features"]
        maps = (n, *tried.shape[-3:])
        shared = is_shared("features", feature_layer)
        shapes["features"] = (maps if shared else (n_levels, *maps), "<f2")
    return shapes


def _build(
    teacher: Teaches,
    crops: CropList,
    levels: Sequence[int],
    shapes: dict[str, tuple[tuple[int, ...], str]],
    target: Path,
    *,
    feature_layer: str | None,
    turn: Callable[[], AbstractContextManager[object]],
    on_progress: Callable[[int, int], None],
) -> None:
    temporary = unfinished(target)
    shutil.rmtree(temporary, ignore_errors=True)
    pixels = crops.crops(target.parent)
    try:
        temporary.mkdir()
        arrays = {
            name: _writable(temporary / _file(name), shape, dtype)
            for name, (shape, dtype) in shapes.items()
        }
        for first in range(0, crops.n, CHUNK):
            chunk = slice(first, min(first + CHUNK, crops.n))
            with turn():
                crop = torch.from_numpy(np.array(pixels[chunk]))
                out = teacher.outputs(crop, levels, feature_layer)
            for name, values in out.items():
                shared = is_shared(name, feature_layer)
                at = chunk if shared else (slice(None), chunk)
                arrays[name][at] = values.numpy()
            on_progress(chunk.stop, crops.n)
        for array in arrays.values():
            array.flush()
        sums = {_file(name): _file_sum(temporary / _file(name)) for name in shapes}
        write_json(temporary / COMPLETE, {"crops": crops.hash, "sha256": sums})
        if not _is_whole(target, shapes):  # else another machine was faster, and some read it
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _writable(path: Path, shape: tuple[int, ...], dtype: str) -> "np.memmap[Any, np.dtype[Any]]":
    """A map of a new file whose room on the disk is taken: a full one would kill with SIGBUS."""
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _is_whole(target: Path, shapes: dict[str, tuple[tuple[int, ...], str]]) -> bool:
    """Whether every file is there and is what was written; one without checksums is not."""
    if not (target / COMPLETE).is_file():
        return False
    try:
        sums: Mapping[str, str] = dict(read_object(target / COMPLETE)["sha256"])
    except (StoreError, KeyError, TypeError, ValueError):
        return False
    sizes = {_file(name): math.prod(s) * np.dtype(t).itemsize for name, (s, t) in shapes.items()}
    for name, size in sizes.items():
        path = target / name
        if not path.is_file() or (stat := path.stat()).st_size != size:
            return False
        if _known_sum(path, stat.st_ino, stat.st_mtime_ns) != sums.get(name):
            return False
    return True


@lru_cache(maxsize=64)
def _known_sum(path: Path, inode: int, changed_ns: int) -> str:
    """`_file_sum`, once a process: a worker opens the same cache for every trial."""
    return _file_sum(path)


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(name: str) -> str:
    return f"{name}.u8" if name == "x_hat" else f"{name}.f16"
