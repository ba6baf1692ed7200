"""One student's lesson: the photos and crops of its study, its start, and what each step draws.

All students of a study see the same finite crop list, so that the teacher's outputs on it can be
cached; which crops a step draws depends on the trial's seed and the step alone.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.codecs.align import align, strongest_channels
from kdbench.codecs.building import build, start_family
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.inherit import can_inherit
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.narrow import LEAST_SHARE
from kdbench.codecs.regression import CHUNK, in_chunks
from kdbench.codecs.start import klt_start, scale_start
from kdbench.data import CropList, ImageSet, disjoint, draw_crops, load_images
from kdbench.distill import Distiller, Targets
from kdbench.features import FeatureTerm, tapped
from kdbench.guides import Faculty, Share, open_caches
from kdbench.levels import Guide, Guided, LevelDistiller
from kdbench.metrics import Metric
from kdbench.metrics import find as find_metric
from kdbench.parent import descends, load_parent
from kdbench.records import Bench, Progress, Training, TrialSpec
from kdbench.teacher import Teacher, TeacherCache
from kdbench.train import AnyDistiller, Batch, levels_of_step, step_rng, to_tensor

Pixels = npt.NDArray[np.uint8]
N_START_CROPS = 128
CROP_SEED = 0  # the crop list is the study's, not the trial's: all students see the same crops


@lru_cache(maxsize=2)
def study_photos(
    train_source: str, validation: str, evaluation: str, crop_px: int
) -> dict[str, ImageSet]:
    """The photos of the three roles, checked to share none; kept for the process's next trial."""
    photos = {
        "train": load_images(train_source, "train", crop_px=crop_px),
        "validation": load_images(validation, "validation", crop_px=crop_px),
        "evaluation": load_images(evaluation, "evaluation", crop_px=crop_px),
    }
    disjoint(photos)
    return photos


def study_crops(photos: ImageSet, n: int, crop_px: int) -> CropList:
    """The study's crop list."""
    return draw_crops(photos, n, crop_px, CROP_SEED)


def like_mse(training: Training) -> tuple[float, ...]:
    """The rd_lambdas of the MSE that spend about the bits of those of `training`."""
    per_mse = find_metric(training.distortion).lambdas_per_mse
    return tuple(rd_lambda / per_mse for rd_lambda in training.rd_lambdas)


class Lesson:
    """What a student starts from and what a step draws; with teachers, their cached targets."""

    def __init__(
        self,
        spec: TrialSpec,
        device: str,
        pixels: Pixels,
        shares: Sequence[Share] = (),
        caches: Sequence[TeacherCache] = (),
        *,
        start: str | None = None,
    ) -> None:
        self._spec, self._device, self._pixels = spec, device, pixels
        self._shares, self._caches, self._start = shares, caches, start
        self.distiller: AnyDistiller | None = None

    @classmethod
    def open(
        cls,
        spec: TrialSpec,
        bench: Bench,
        crops: CropList,
        on_progress: Callable[[Progress], None],
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> "Lesson":
        """Builds the teachers' caches first, if nobody has; `turn` as in `TeacherCache.open`."""
        folder, name = Path(bench.cache), spec.distillation.teacher
        if name is None:
            return cls(spec, bench.device, crops.crops(folder), start=bench.start)
        guiding = _teachers(name).shares(
            spec.training.rd_lambdas,
            guides=spec.distillation.guides,
            alone=spec.training.rate != "variable",
        )
        caches = open_caches(
            guiding,
            crops,
            spec.training.rd_lambdas,
            folder,
            cache_gib=bench.data.cache_gib,
            feature_layer=spec.distillation.asked_layer,
            turn=turn,
            on_progress=lambda i, n: on_progress(Progress(stage="cache", step=i, n_steps=n)),
        )
        return cls(spec, bench.device, crops.crops(folder), guiding, caches, start=bench.start)

    @property
    def spec(self) -> TrialSpec:
        """What is taught here."""
        return self._spec

    def each_rate(self) -> list["Lesson"]:
        """One lesson a model: this one, or one for each rd_lambda where each has its own model."""
        training = self._spec.training
        if training.rate == "variable":
            return [self]
        return [self._at(level) for level in range(len(training.rd_lambdas))]

    def _at(self, level: int) -> "Lesson":
        """Of the model of one rate."""
        training = self._spec.training
        alone = replace(training, rd_lambdas=(training.rd_lambdas[level],))
        found = [
            (replace(share, levels=(0,), several=False), _at_level(share, cache, level))
            for share, cache in zip(self._shares, self._caches, strict=True)
            if level in share.levels
        ]
        guiding, caches = [share for share, _ in found], [cache for _, cache in found]
        spec = replace(self._spec, training=alone)
        return Lesson(spec, self._device, self._pixels, guiding, caches, start=self._start)

    @property
    def _home(self) -> int | None:
        """Which teacher is a codec of ours in whose latent coordinates the student starts."""
        ours = (
            i
            for i, share in enumerate(self._shares)
            if isinstance(share.teacher, Teacher) and "latent" in share.terms
        )
        return next(ours, None)

    @property
    def _own(self) -> Teacher | None:
        """That codec."""
        teacher = None if self._home is None else self._shares[self._home].teacher
        return teacher if isinstance(teacher, Teacher) else None

    @property
    def _is_one_of_ours(self) -> bool:
        """Whether one codec of ours teaches everything."""
        return self._own is not None and len(self._shares) == 1

    def started(self, least_share: float = LEAST_SHARE) -> LearnedCodec:
        """The student before its first step; sets up `distiller` too.

        In the coordinates of the study's `start` if it can be a slice of that, else in the
        teacher's if that is a codec of ours with latents enough, else a plain KLT; a student of
        another family as that family starts. `least_share` as in `align`.
        """
        spec = self._spec
        torch.manual_seed(spec.seed)
        model = build(spec.architecture)
        model.eval()
        first = torch.from_numpy(np.array(self._pixels[:N_START_CROPS])).float() / 255
        if not isinstance(model, Hyperprior):
            start_family(model, first, like_mse(spec.training))
            self.distiller = self._distiller(None, apart=True)
            self._solve_feature_terms(model)
            return model
        features = klt_start(model, first, like_mse(spec.training))
        source, channels = self._source(model, first), None
        if source is not None:
            channels = self._align(model, source, first, features, least_share)
        if source is None or not can_inherit(spec.hyper, source.model.architecture.hyper):
            scale_start(model, first)
        self.distiller = self._distiller(channels)
        self._solve_feature_terms(model)
        return model

    def _distiller(self, channels: list[int] | None, *, apart: bool = False) -> AnyDistiller | None:
        """The terms, whoever teaches; None where nobody does.

        `channels` are the teacher's that the student's are aligned with; a student that starts
        `apart`, in coordinates of its own, has a connector for every latent.
        """
        plan, own = self._spec.distillation, self._spec.architecture
        if self._is_one_of_ours:
            offer, bits = self._shares[0].teacher.offer, self._channel_bits()
            return Distiller(plan, own, offer, channels, bits, connect=apart)
        if not self._shares:
            return None
        guides = [self._guide(i, channels, apart=apart) for i in range(len(self._shares))]
        return LevelDistiller(plan, own, guides, metric=self._metric)

    def _guide(self, i: int, channels: list[int] | None, *, apart: bool) -> Guide:
        """Teacher `i` of several; see `_distiller`."""
        share, is_home = self._shares[i], i == self._home
        return Guide(
            offer=share.teacher.offer,
            terms=share.terms,
            several=share.several,
            connect=apart or share.several or (self._home is not None and not is_home),
            channels=channels if is_home else None,
            channel_bits=self._channel_bits() if is_home else None,
        )

    @torch.no_grad()
    def _solve_feature_terms(self, model: LearnedCodec) -> None:
        """Each teacher's feature term, on the first crops at the levels it guides, in turn."""
        layer, n = self._spec.distillation.asked_layer, min(N_START_CROPS, len(self._pixels))
        if layer is None or self.distiller is None:
            return
        x = to_tensor(self._pixels[:n], "cpu")
        for i, (share, cache) in enumerate(zip(self._shares, self._caches, strict=True)):
            if "features" not in share.terms:
                continue
            turns = torch.arange(n) % len(share.levels)
            theirs = cache.targets(np.arange(n), _cached_level(share, turns), "cpu").features
            levels = torch.tensor(share.levels)[turns]
            own = []
            with tapped("the student", model, layer) as tap:
                for first in range(0, n, CHUNK):
                    model(x[first : first + CHUNK], levels[first : first + CHUNK])
                    own.append(tap.features)
            if theirs is not None:
                self.distiller.set_feature_term(i, FeatureTerm(torch.cat(own), theirs))

    @property
    def _metric(self) -> Metric:
        return find_metric(self._spec.training.distortion)

    def _channel_bits(self) -> Tensor | None:
        """The teacher's bits in each of its latent channels, where the spec asks for them."""
        home = self._home
        if home is None or self._own is None:
            return None
        if self._spec.distillation.channel_weights == "equal":
            return None
        return self._caches[home].channel_bits(self._own.model, N_START_CROPS)

    @torch.no_grad()
    def _source(self, model: Hyperprior, crops: Tensor) -> "_Source | None":
        """Whose latent coordinates the student starts in; None where nobody's will do."""
        if self._start is not None and descends(model, parent := load_parent(self._start)):
            levels = parent.levels_for(self._spec.training.rd_lambdas)
            return _Source(parent.model, levels, in_chunks(parent.model.g_a, crops))
        home = self._home
        if home is None or self._own is None:
            return None
        if self._spec.latent.channels > self._own.offer.channels:
            return None
        cache = self._caches[home]
        return _Source(self._own.model, cache.levels, cache.latents(len(crops)))

    def _align(
        self,
        model: Hyperprior,
        source: "_Source",
        crops: Tensor,
        features: Tensor,
        least_share: float,
    ) -> list[int]:
        """The latent channel of `source`, and so of the teacher, of each of the student's."""
        n, levels = self._spec.latent.channels, source.levels
        taken = strongest_channels(source.model, source.y, levels[-1], n)
        align(
            model,
            source.model,
            crops=crops,
            y=source.y,
            features=features,
            levels=levels,
            channels=taken,
            least_share=least_share,
        )
        return list(map(int, taken))

    def batch(self, step: int) -> Batch:
        """The batch of `step`; a function of the seed and the step alone."""
        training = self._spec.training
        rng = step_rng(self._spec.seed, step)
        indices = np.sort(rng.choice(len(self._pixels), training.batch, replace=False))
        levels = levels_of_step(rng, training.batch, len(training.rd_lambdas))
        x = to_tensor(self._pixels[indices], self._device)
        targets: Targets | list[Guided] | None = None
        if self._spec.distillation.is_off:
            pass  # a twin starts under a teacher and reads no targets
        elif self._is_one_of_ours:
            targets = self._targets(self._caches[0], indices, levels)
        elif self._shares:
            pairs = zip(self._shares, self._caches, strict=True)
            targets = [self._guided(share, cache, indices, levels) for share, cache in pairs]
        return Batch(x, levels.to(self._device), targets)

    def _guided(
        self, share: Share, cache: TeacherCache, indices: npt.NDArray[np.int64], levels: Tensor
    ) -> Guided:
        """What the teacher of `share` gives for the samples at its levels."""
        own = torch.tensor(share.levels)
        rows, level = (levels[:, None] == own).nonzero(as_tuple=True)
        at = _cached_level(share, level)
        return Guided(rows.to(self._device), self._targets(cache, indices[rows.numpy()], at))

    def _targets(
        self, cache: TeacherCache, indices: npt.NDArray[np.int64], levels: Tensor
    ) -> Targets:
        rounded = self._spec.distillation.paper_compat
        return cache.targets(indices, levels, self._device, with_rounded=rounded)


class _Source(NamedTuple):
    """A codec in whose coordinates a student starts.

    Attributes:
        levels: Its level for each of the student's.
        y: Its latents of the first crops, before the gain.
    """

    model: Hyperprior
    levels: Sequence[int]
    y: Tensor


@lru_cache(maxsize=4)
def _teachers(name: str) -> Faculty:
    return Faculty.load(name)


def _at_level(share: Share, cache: TeacherCache, level: int) -> TeacherCache:
    """The cache of `share` at one of the study's levels; a teacher of one rate has no other."""
    if not isinstance(share.teacher, Teacher):
        return cache
    return cache.only(share.levels.index(level))


def _cached_level(share: Share, positions: Tensor) -> Tensor:
    """Where the cache has the levels at `positions` of the share: one of one rate has its own."""
    return positions if isinstance(share.teacher, Teacher) else torch.zeros_like(positions)
