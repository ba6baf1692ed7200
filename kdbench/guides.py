"""Who guides which level of a study: our codecs all of them, models of one rate their own.

And who serves which term: one teacher all of them, those of a hybrid their own (`hybrid`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdbench import hybrid, plugins, zoo
from kdbench.codecs.learned import DOWNSAMPLING
from kdbench.codecs.weights import file_sha
from kdbench.contract import Teaches
from kdbench.data import CropList
from kdbench.errors import CodecError
from kdbench.foreign import from_plugin, one_rate
from kdbench.records import WEIGHTS, Coordinates, Guides, content_hash
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
    """One teacher, the levels of a study that it guides, and the terms of the loss that it serves.

    Attributes:
        several: Whether other teachers serve the same terms at other levels: they were trained
            apart and share no coordinates.
    """

    teacher: Teaches
    levels: tuple[int, ...]
    terms: frozenset[str] = frozenset(WEIGHTS)
    several: bool = False


@dataclass(frozen=True, kw_only=True)
class Faculty:
    """Everybody who teaches where a study says `name`.

    Attributes:
        parts: The teachers behind each name of a hybrid; of any other teacher, behind its own.
    """

    name: str
    parts: Mapping[str, tuple[Teaches, ...]]

    @classmethod
    def load(cls, name: str) -> "Faculty":
        """All of them.

        Raises:
            CodecError: One is unknown, not here, damaged, or nothing that can teach.
        """
        return cls(name=name, parts={part: load_teachers(part) for part in hybrid.duties(name)})

    @property
    def sha(self) -> str:
        """What identifies them."""
        return joined_sha([joined_sha([t.sha for t in found]) for found in self.parts.values()])

    @property
    def coordinates(self) -> Coordinates:
        """What they offer together."""
        return hybrid.coordinates(self.name, {k: coordinates_of(v) for k, v in self.parts.items()})

    def serving(self, term: str) -> tuple[Teaches, ...]:
        """Those who serve a term of the loss."""
        duties = hybrid.duties(self.name)
        return tuple(t for part, found in self.parts.items() if term in duties[part] for t in found)

    def shares(
        self, rd_lambdas: Sequence[float], *, guides: Guides = "matched", alone: bool = False
    ) -> list[Share]:
        """Which levels and terms each of them has; see `shares`.

        Args:
            rd_lambdas: Of the study's levels.
            guides: Which of them a teacher of one rate guides.
            alone: Whether each level is a model of its own, which somebody must guide.

        Raises:
            CodecError: As `shares`; or a model would have no teacher.
        """
        found = []
        for part, terms in hybrid.duties(self.name).items():
            own = shares(part, self.parts[part], rd_lambdas, guides)
            if alone:
                _require_every_level(part, own, rd_lambdas)
            found += [replace(share, terms=terms, several=len(own) > 1) for share in own]
        return found


def _require_every_level(name: str, guiding: Sequence[Share], rd_lambdas: Sequence[float]) -> None:
    guided = {level for share in guiding for level in share.levels}
    left = [f"{v:g}" for i, v in enumerate(rd_lambdas) if i not in guided]
    if left:
        raise CodecError(
            f"{name} guides no model of rd_lambda {', '.join(left)}, and `training.rate` trains a "
            "model for each rate: those would have no teacher",
            fix="take a range of models that has them, zoo:MODEL/FIRST-LAST; or let one guide all "
            "with `distillation.guides: every`; or leave these values out of `training.rd_lambdas`",
        )


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
    if name.startswith(hybrid.KIND):
        return joined_sha([teacher_sha(part) for part in hybrid.duties(name)])
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


def shares(
    name: str,
    teachers: Sequence[Teaches],
    rd_lambdas: Sequence[float],
    guides: Guides = "matched",
) -> list[Share]:
    """Which levels of a study each teacher guides; those that guide none are left out.

    A teacher of many rates must have every level of the study, for all of them start in its
    coordinates. One of a single rate guides the level of its rd_lambda, or with `guides` every one,
    as in the paper; what nobody guides learns from photos alone.

    Raises:
        CodecError: No level has a teacher, or a variable-rate teacher lacks one; or several are to
            guide every level.
    """
    if guides == "every":
        return [_guiding_all(name, teachers, len(rd_lambdas))]
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


def _guiding_all(name: str, teachers: Sequence[Teaches], n_levels: int) -> Share:
    if len(teachers) > 1 or isinstance(teachers[0], Teacher):
        raise CodecError(
            f"{name} has levels of its own, and `distillation.guides: every` is for a teacher of "
            "one rate",
            fix="set `distillation.guides` to matched, or name one model, zoo:MODEL/QUALITY",
        )
    return Share(teacher=teachers[0], levels=tuple(range(n_levels)))


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
    require_caches_fit(guiding, crops, rd_lambdas, cache_gib=cache_gib, feature_layer=feature_layer)

    def opened(i: int, share: Share) -> TeacherCache:
        return TeacherCache.open(
            share.teacher,
            crops,
            _cached(share, rd_lambdas),
            folder,
            cache_gib=cache_gib,
            feature_layer=_layer(share, feature_layer),
            turn=turn,
            on_progress=lambda done, n: on_progress(i * n + done, len(guiding) * n),
        )

    return [opened(i, share) for i, share in enumerate(guiding)]


def require_caches_fit(
    guiding: Sequence[Share],
    crops: CropList,
    rd_lambdas: Sequence[float],
    *,
    cache_gib: float,
    feature_layer: str | None = None,
) -> None:
    """Raises StoreError where the caches of all shares together are larger than `cache_gib`."""
    sizes: dict[tuple[object, ...], float] = {}
    for share in guiding:
        own, layer = _cached(share, rd_lambdas), _layer(share, feature_layer)
        size = size_gib(share.teacher, crops, len(own), layer)
        sizes[(share.teacher.sha, layer, *own)] = size
    require_room(sum(sizes.values()), crops, cache_gib)


def _layer(share: Share, feature_layer: str | None) -> str | None:
    return feature_layer if "features" in share.terms else None


def _cached(share: Share, rd_lambdas: Sequence[float]) -> list[float]:
    """The rd_lambdas of the levels that are cached: a teacher of one rate has one."""
    if isinstance(share.teacher, Teacher):
        return [rd_lambdas[level] for level in share.levels]
    return list(share.teacher.rd_lambdas)
