"""Who guides which level of a study: our codecs all of them, models of one rate their own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from kdbench import plugins, zoo
from kdbench.codecs.learned import DOWNSAMPLING
from kdbench.codecs.weights import file_sha
from kdbench.contract import Teaches
from kdbench.data import CropList
from kdbench.errors import CodecError
from kdbench.foreign import from_plugin, one_rate
from kdbench.records import Coordinates, content_hash
from kdbench.teacher import (
    Teacher,
    TeacherCache,
    load_teacher,
    require_room,
    size_gib,
    teacher_path,
)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One teacher, and the levels of a study that it guides."""

    teacher: Teaches
    levels: tuple[int, ...]


def load_teachers(name: str) -> tuple[Teaches, ...]:
    """Who teaches where a study says `name`: one teacher, or one for each rate.

    Raises:
        CodecError: Unknown, not here, damaged, or nothing that can teach.
    """
    if name.startswith(plugins.KIND):
        return from_plugin(name)
    if not name.startswith(zoo.KIND):
        return (load_teacher(name),)
    found = []
    for model in zoo.parse(name):
        built, sha = zoo.load(model)
        found.append(one_rate(str(model), built, sha=sha, rd_lambda=model.rd_lambda))
    return tuple(found)


def teacher_sha(name: str) -> str:
    """What identifies the teacher(s) of `name`."""
    if name.startswith(plugins.KIND):
        return joined_sha([teacher.sha for teacher in from_plugin(name)])
    if not name.startswith(zoo.KIND):
        return file_sha(teacher_path(name))
    return joined_sha([zoo.read(model)[1] for model in zoo.parse(name)])


def joined_sha(shas: Sequence[str]) -> str:
    """One hash for several teachers; of one, its own."""
    return shas[0] if len(shas) == 1 else content_hash(list(shas))


def coordinates_of(teachers: Sequence[Teaches]) -> Coordinates:
    """Of their latents; teachers of several rates share none, see docs/method.md."""
    first = teachers[0].offer.coordinates
    if len(teachers) == 1:
        return first
    every = all(teacher.offer.hyper_width is not None for teacher in teachers)
    return Coordinates(first.channels, None, every)


def shares(name: str, teachers: Sequence[Teaches], rd_lambdas: Sequence[float]) -> list[Share]:
    """Which levels of a study each teacher guides; those that guide none are left out.

    A teacher of many rates must have every level of the study, for all of them start in its
    coordinates. One of a single rate guides the level of its rd_lambda; what nobody guides learns
    from photos alone.

    Raises:
        CodecError: No level has a teacher, or a variable-rate teacher lacks one.
    """
    if len(teachers) == 1 and isinstance(teachers[0], Teacher):
        teachers[0].levels_for(rd_lambdas)
        return [Share(teacher=teachers[0], levels=tuple(range(len(rd_lambdas))))]
    found = []
    for teacher in teachers:
        own = tuple(i for i, v in enumerate(rd_lambdas) if v in teacher.rd_lambdas)
        if own:
            found.append(Share(teacher=teacher, levels=own))
    if not found:
        theirs = ", ".join(f"{v:g}" for teacher in teachers for v in teacher.rd_lambdas)
        raise CodecError(
            f"{name} was trained for rd_lambda {theirs}, and the study has no such level, only "
            f"{', '.join(f'{v:g}' for v in rd_lambdas)}",
            fix="put that value into `training.rd_lambdas` of the study, or take a teacher of "
            "another quality",
        )
    return found


def require_layers(teachers: Sequence[Teaches], layers: Sequence[str]) -> None:
    """Raises TrainingError where one of `teachers` lacks one of `layers`; lists those it has."""
    grey = torch.full((1, 3, DOWNSAMPLING, DOWNSAMPLING), 128, dtype=torch.uint8)
    for teacher in teachers:
        for layer in layers:
            teacher.outputs(grey, [0], layer)


def open_caches(
    guiding: Sequence[Share],
    crops: CropList,
    rd_lambdas: Sequence[float],
    folder: Path,
    *,
    cache_gib: float,
    feature_layer: str | None = None,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> list[TeacherCache]:
    """The cache of each share, as `TeacherCache.open`; `cache_gib` bounds all of them together."""
    sizes = [size_gib(share.teacher, crops, len(share.levels), feature_layer) for share in guiding]
    require_room(sum(sizes), crops, cache_gib)

    def opened(i: int, share: Share) -> TeacherCache:
        return TeacherCache.open(
            share.teacher,
            crops,
            [rd_lambdas[level] for level in share.levels],
            folder,
            cache_gib=cache_gib,
            feature_layer=feature_layer,
            turn=turn,
            on_progress=lambda done, n: on_progress(i * n + done, len(guiding) * n),
        )

    return [opened(i, share) for i, share in enumerate(guiding)]
