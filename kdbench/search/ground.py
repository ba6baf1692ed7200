"""What the machine adds to a study: teachers, crops, anchor, meter, device. Found once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import kdbench
from kdbench import config, families, plugins, recipes
from kdbench.config import StudyConfig
from kdbench.errors import MeterError, StoreError
from kdbench.metrics import require_trainable
from kdbench.parameters import NO_TEACHER
from kdbench.records import MEASUREMENT_PROTOCOL, Bench, Coordinates, FamilyArchitecture
from kdbench.store import Store
from kdbench.yamlfile import Place, Recipe

if TYPE_CHECKING:
    from kdbench.data import CropList
    from kdbench.guides import Faculty

THREADS = 1  # of a worker: several workers use the cores better than one with several threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every trial of a study stands on, beside its settings.

    Attributes:
        device: Resolved: `cpu` or `cuda:N`.
        teachers: Hash of each teacher of the space, of its file or files, by its name there.
        teacher_coordinates: Of the latent of each.
        crops: Hash of the training crops.
        codec: What the students' family is and comes from; None of hyperpriors.
        anchor: SHA-256 of the anchor's file, or its name.
        meter: Which meter, and the source of its joules; None without one.
        fingerprint: Of the device, see `device.fingerprint`.
        start: SHA-256 of the file that students are slices of, where the study names one.
        target: What measures in this machine's place: its meter and fingerprint, see
            `search.target`; `meter` is then its. None where the study names none.
    """

    device: str
    teachers: Mapping[str, str]
    teacher_coordinates: Mapping[str, Coordinates]
    crops: str
    anchor: str
    meter: str | None
    fingerprint: Mapping[str, str]
    code: str = kdbench.__version__
    codec: str | None = None
    start: str | None = None
    target: Mapping[str, str] | None = None

    @property
    def fixed(self) -> dict[str, str]:
        """What a resume must find again."""
        return {
            "anchor": self.anchor,
            "crops": self.crops,
            "meter": self.meter or "none",
            "protocol": str(MEASUREMENT_PROTOCOL),
            **({} if self.codec is None else {"codec": self.codec}),
            **({} if self.start is None else {"start": self.start}),
            **self.teachers,
            **{f"device.{key}": value for key, value in self.fingerprint.items()},
            **{f"target.{key}": value for key, value in (self.target or {}).items()},
        }

    def stands_on(self, teacher: str | None) -> dict[str, str]:
        """See `TrialSpec.stands_on`; a student that trains alone stands on no teacher."""
        own = {} if teacher is None else {"teacher": self.teachers[teacher]}
        own |= {} if self.codec is None else {"codec": self.codec}
        own |= {} if self.start is None else {"start": self.start}
        return {"code": self.code, "crops": self.crops, **own}


def bench(cfg: StudyConfig, ground: Ground, store: Store) -> Bench:
    """What the trials of the study share."""
    from kdbench.anchor import at_home

    common = config.bench(cfg, cache=store.cache, device=ground.device, threads=THREADS)
    return at_home(common, store)


def survey(cfg: StudyConfig, store: Store) -> Ground:
    """What `cfg` finds on this machine; loads torch, reads photos, teachers and anchor.

    Raises:
        KdbenchError: What is missing here: device, photos, teacher, anchor, meter; or the teachers'
            outputs do not fit into `data.cache_gib`.
    """
    from kdbench.anchor import anchor_sha, codec_files, located
    from kdbench.codecs.weights import load_codec
    from kdbench.device import fingerprint, resolve
    from kdbench.guides import Faculty, coordinates_of, require_layers
    from kdbench.lesson import study_crops, study_photos
    from kdbench.parent import load_parent, require_shared_coordinates

    device = resolve(cfg.device)
    names = [name for name in cfg.space.distillation.teacher.values if name != NO_TEACHER]
    teachers = {name: Faculty.load(name) for name in names}
    for guides in cfg.space.distillation.guides.values:
        for found in teachers.values():
            found.shares(
                cfg.training.rd_lambdas, guides=guides, alone=cfg.training.rate != "variable"
            )
    located(cfg.anchor, store)  # one file, as a worker must find it
    for anchor in codec_files(cfg.anchor, cache=store.cache, store=store):
        load_codec(anchor)  # a damaged one is better told now than by a worker
    coordinates = {name: found.coordinates for name, found in teachers.items()}
    parts = {k: coordinates_of(v) for found in teachers.values() for k, v in found.parts.items()}
    _require_usable(cfg, parts | coordinates)
    for found in teachers.values():
        require_layers(found.serving("features"), cfg.space.feature_layers)
    _require_builds(cfg)
    data, crop_px = cfg.data, cfg.training.crop_px
    photos = study_photos(data.train, data.validation, data.evaluation, crop_px)
    require_trainable(cfg.training.distortion, crop_px)
    crops = study_crops(photos["train"], data.crops, crop_px)
    _require_caches_fit(cfg, list(teachers.values()), crops)
    family = None if cfg.space.codec is None else cfg.space.codec.family
    start = None
    if cfg.start is not None:
        start = load_parent(located(cfg.start, store))
        start.levels_for(cfg.training.rd_lambdas)
        latents = [each for found in teachers.values() for each in found.serving("latent")]
        require_shared_coordinates(start, latents, crops.crops(store.cache))
    return Ground(
        device=device,
        teachers={name: found.sha for name, found in teachers.items()},
        teacher_coordinates=coordinates,
        crops=crops.hash,
        anchor=anchor_sha(cfg.anchor, cache=store.cache, store=store),
        meter=_meter(cfg, device),
        fingerprint=fingerprint(device, threads=THREADS),
        codec=None if family is None else plugins.identity(family, plugins.CODECS),
        start=None if start is None else start.sha,
    )


def _require_caches_fit(cfg: StudyConfig, teachers: Sequence["Faculty"], crops: "CropList") -> None:
    """Raises StoreError where what a trial may cache does not fit, before any trial asks for it."""
    from kdbench.guides import require_caches_fit

    rd_lambdas, layers = cfg.training.rd_lambdas, cfg.space.feature_layers or (None,)
    for teacher, guides, layer in product(teachers, cfg.space.distillation.guides.values, layers):
        require_caches_fit(
            teacher.shares(rd_lambdas, guides=guides),
            crops,
            rd_lambdas,
            cache_gib=cfg.data.cache_gib,
            feature_layer=layer,
        )


def _require_builds(cfg: StudyConfig) -> None:
    """Builds a student of a family that another package brings, the one in the middle.

    Raises:
        CodecError: The family cannot build it.
        TrainingError: It lacks a layer that the feature term names; lists those it has.
    """
    from kdbench.codecs.building import build
    from kdbench.features import tapped

    if cfg.space.codec is None:
        return
    name = cfg.space.codec.family
    middle = {axis: parameter.middle for axis, parameter in cfg.space.codec.axes.items()}
    codec = families.find(name).codec(name, middle)
    architecture = FamilyArchitecture(codec=codec, n_levels=cfg.training.n_levels)
    model = build(architecture)
    for layer in cfg.space.feature_layers:
        with tapped(f"codec family {name}", model, layer):
            pass


def _meter(cfg: StudyConfig, device: str) -> str | None:
    """The meter as a resume must find it.

    Raises:
        MeterError: Something that the study minimises or limits cannot be measured.
    """
    if cfg.target is not None:
        return None  # the target says which it has
    from kdbench.energy import pick

    meter = pick(cfg.energy, device)
    if meter is not None:
        return f"{meter.name} ({meter.source})"
    needs = [name for name in (*cfg.objectives, *cfg.constraints.limits) if "_j_per_mpx" in name]
    if needs:
        raise MeterError(
            f"{needs[0]} needs an energy meter, and `energy.meter` is {cfg.energy.meter}",
            fix="set `energy.meter: auto`, or leave energy out of objectives and constraints",
        )
    return None


def _require_usable(cfg: StudyConfig, teacher_coordinates: Mapping[str, Coordinates]) -> None:
    """Raises ConfigError for what no trial of the space could use."""
    recipe = Recipe({}, {(): Place(f"study {cfg.name}")})
    for key, rule in cfg.space.unusable(teacher_coordinates):
        recipe.report(("space", *key.split(".")), rule)
    if recipe.problems:
        recipes.fail(recipe.problems)


def require_same_device(cfg: StudyConfig, ground: Ground) -> None:
    """For a worker, whose machine may be another one than that on which the study began.

    Raises:
        StoreError: The study compares what depends on the device, and this is another device.
    """
    from kdbench.device import fingerprint

    compared = (*cfg.objectives, *cfg.constraints.limits)
    needs = [name for name in compared if name.endswith(("j_per_mpx", "s_per_mpx"))]
    if not needs:
        return
    then, now = ground.fingerprint, fingerprint(ground.device, threads=THREADS)
    differ = [
        f"{key}: there {then.get(key, 'none')}, here {now.get(key, 'none')}"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    ]
    if differ:
        raise StoreError(
            f"study {cfg.name!r} compares {needs[0]}, and this machine is not the one where it "
            "began:\n  " + "\n  ".join(differ),
            fix="run its workers on machines and versions that are alike, or leave energy and time "
            "out of its objectives and constraints",
        )


def measure_anchor(cfg: StudyConfig, ground: Ground, store: Store) -> None:
    """Keep the figures of the study's anchor beside it, once.

    Raises:
        CodecError: Its bitstreams do not decode.
    """
    from kdbench.bench import keep_anchor

    keep_anchor(store, cfg.name, bench(cfg, ground, store))
