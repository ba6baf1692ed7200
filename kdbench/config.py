"""What a study is told: studies/*.yaml -> StudyConfig; reports every problem of a file at once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from kdbench import hybrid, metrics, plugins, recipes, zoo
from kdbench.errors import CodecError, ConfigError
from kdbench.names import nearest_first
from kdbench.parameters import NO_TEACHER, FloatRange
from kdbench.recipes import above_zero, at_least
from kdbench.records import Bench, Data, EnergyPlan, content_hash
from kdbench.space import OFF, SearchSpace, TrainingPlan, incomplete, read_space
from kdbench.store import STUDY_NAME
from kdbench.yamlfile import Key, Place, Recipe, read, show

Objective = Literal[
    "bd_rate_pct",
    "kmac_per_px",
    "decoder_kmac_per_px",
    "energy_j_per_mpx",
    "encode_j_per_mpx",
    "decode_j_per_mpx",
    "decode_s_per_mpx",
    "params",
    "validation_loss",
]
SamplerName = Literal["tpe", "gp", "nsga2", "nsga3", "random", "qmc", "grid", "listed"]
N_LEVELS = 5  # fewer points move a BD-rate by several percent, whatever the spline
ANCHORS = ("jpeg", "webp", "jpeg2000", "avif")
SLURM_OWN = (
    *(
        "--array",
        "--batch",
        "--chdir",
        "--error",
        "--export",
        "--job-name",
        "--ntasks",
        "--open-mode",
    ),
    *("--output", "--parsable", "--signal", "--wrap", "--partition", "--account", "--qos"),
    *("--constraint", "--time", "--mem", "--cpus-per-task", "--gres", "--requeue", "--no-requeue"),
)
METERS = ("auto", "none", "nvml", "powercap", "ina3221", "pi5", "apple", "codecarbon", "replay")
FREE_ON_RESUME = (  # what may change on the way
    *("trials", "timeout_s", "workers", "twins", "launcher", "target_timeout_s"),
)
_DATA, _ENERGY = Data(), EnergyPlan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Who suggests the next trial.

    Attributes:
        name: `qmc` draws from a scrambled Sobol sequence, `grid` tries every combination of a
            space of choices, in order. `listed` samples nothing: it tries `points` and nothing
            else, each once.
        enqueue: `diagonal` tries the uniform-width students of the space first.
        points: What `listed` tries, in this order: values of every free parameter of the space, by
            its dotted name.
    """

    name: SamplerName = "tpe"
    enqueue: Literal["diagonal", "none"] = "diagonal"
    points: tuple[Mapping[str, int | float | str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Where a trial must be among the best to go on (see `search.ladder`).

    Attributes:
        rungs: Shares of `training.steps`, ascending, between 0 and 1.
        eta: One of so many goes on.
        stop: False asks and remembers, and stops nobody: shows how a ladder would have decided.
    """

    rungs: tuple[float, ...]
    eta: int = 3
    stop: bool = True

    def steps(self, n_steps: int) -> tuple[int, ...]:
        """The rungs of a training of `n_steps`, in steps."""
        return tuple(round(share * n_steps) for share in self.rungs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Who starts the workers: how a study is run, not what it is; it may change on the way.

    Attributes:
        name: `local` starts processes here, `slurm` an array of jobs; all else is of `slurm`.
        partition: None: the cluster's default; `account`, `qos` and `constraint` likewise.
        time_min: Minutes a worker gets at a time; it goes back into the queue with its checkpoint
            when they are over. None: the partition's.
        mem_gib: Memory of a worker; None: the partition's.
        cpus_per_worker: A worker computes on one thread; more help a GPU's at most.
        gpus_per_worker: None: one if the study's `device` is cuda, else none.
        extra: Other options of `sbatch`, each as one text: `--reservation=mine`.
    """

    name: Literal["local", "slurm"] = "local"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_min: int | None = None
    mem_gib: float | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: int | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Upper bounds on cost; a spec above one is infeasible and is not trained. None: no bound."""

    params_max: float | None = None
    kmac_per_px_max: float | None = None
    encoder_kmac_per_px_max: float | None = None
    decoder_kmac_per_px_max: float | None = None
    energy_j_per_mpx_max: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Every bound that is set, by the name of its cost."""
        bounds = {f.name.removesuffix("_max"): getattr(self, f.name) for f in fields(self)}
        return {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """One study, fully resolved: its space is part of it.

    Attributes:
        objectives: What is minimised, in this order.
        anchor: Codec that BD-rate is measured against: `teacher:NAME`, `file:PATH`,
            `trial:STUDY/N`, `zoo:MODEL/QUALITY` (or FIRST-LAST), or a classical one.
        trials: Complete trials at which the study ends.
        timeout_s: Seconds after which no trial begins.
        workers: Processes; None: as many as cores; 0: none here, others join.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        twins: Seeds that student and twin of each distilled member of the front are trained from
            when the search ends; 0 trains none.
        ladder: Stops trials on their way; None trains all of them to the end.
        cost_first: Whether a candidate whose costs leave it no hope of the front is refused before
            it is trained (see `search.prospects`).
        start: A trained codec that students start as slices of where they can (see `lesson`):
            `teacher:NAME`, `file:PATH` or `trial:STUDY/N`; None: their teacher alone.
        launcher: Who starts the workers.
        target: Name of another device whose energy and coding time count, in the place of this
            one's; `energy` is then its plan. None: where it trains.
        target_timeout_s: How long a trainer waits for that device's answer.
    """

    name: str
    space: SearchSpace
    objectives: tuple[Objective, ...]
    anchor: str = "teacher:default"
    trials: int
    timeout_s: float | None = None
    workers: int | None = None
    sampler: Sampler = Sampler()
    constraints: Constraints = Constraints()
    data: Data = _DATA
    training: TrainingPlan
    energy: EnergyPlan = _ENERGY
    device: str = "auto"
    seed: int = 0
    twins: int = 0
    ladder: Ladder | None = None
    cost_first: bool = False
    start: str | None = None
    launcher: Launcher = Launcher()
    target: str | None = None
    target_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecList:
    """A study that searches nothing: codecs to measure on the same photos.

    Attributes:
        codecs: Their names, as `kdbench bench` takes them.
        anchor: What they are compared with, likewise.
        data: Only the evaluation photos are used.
    """

    name: str
    codecs: tuple[str, ...]
    anchor: str = "teacher:default"
    data: Data = _DATA
    energy: EnergyPlan = _ENERGY
    device: str = "auto"


# --- value rules -----------------------------------------------------------------------------


def _name(value: str) -> str | None:
    rule = "must be letters, digits, `-`, `_` and `.`, 100 at most, and not be `cache`"
    return None if STUDY_NAME.fullmatch(value) else rule


def _objectives(values: Sequence[str]) -> str | None:
    if not values:
        return "needs at least one objective"
    twice = [value for value in values if values.count(value) > 1]
    return f"{twice[0]} is there twice" if twice else None


def _anchor(value: str) -> str | None:
    kind, _, rest = value.partition(":")
    number = rest.rpartition("/")[2]
    if value in ANCHORS or (kind in {"teacher", "file"} and rest):
        return None
    if kind == "zoo" and rest:
        return _zoo_codec(value)
    if kind == "trial" and "/" in rest and number.isdecimal():
        return None
    return (
        "must be teacher:NAME, file:PATH, trial:STUDY/N, zoo:MODEL/QUALITY or one of "
        f"{', '.join(ANCHORS)}"
    )


def _start(value: str) -> str | None:
    kind, _, rest = value.partition(":")
    if kind in {"teacher", "file"} and rest:
        return None
    if kind == "trial" and "/" in rest and rest.rpartition("/")[2].isdecimal():
        return None
    return "must be teacher:NAME, file:PATH or trial:STUDY/N"


def _zoo_codec(name: str) -> str | None:
    try:
        (model, *_) = zoo.parse(name)
    except CodecError as why:
        return f"{why.problem}; {why.fix}"
    return None if model.name == zoo.OWN else f"of the zoo only {zoo.OWN} codes; the others teach"


def _target(value: str) -> str | None:
    rule = "must be letters, digits, `-`, `_` and `.`"
    return None if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", value) else rule


def _codecs(values: Sequence[str]) -> str | None:
    if not values:
        return "needs at least one codec"
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        return f"{twice[0]} is there twice"
    wrong = next((value for value in values if _anchor(value)), None)
    return None if wrong is None else f"{wrong}: {_anchor(wrong)}"


def _rd_lambdas(values: Sequence[float]) -> str | None:
    if not values:
        return "needs at least one value"
    if any(above_zero(value) for value in values):
        return "every value must be above 0"
    return _ascending(values)


def _rungs(values: Sequence[float]) -> str | None:
    if not values:
        return "needs at least one value"
    if not all(0 < value < 1 for value in values):
        return "every value must lie between 0 and 1: shares of training.steps"
    return _ascending(values)


def _ascending(values: Sequence[float]) -> str | None:
    ascending = all(low < high for low, high in pairwise(values))
    return None if ascending else "must ascend, each value once"


def _device(value: str) -> str | None:
    kind, colon, index = value.partition(":")
    known = value in {"auto", "cpu", "cuda"} or (kind == "cuda" and colon and index.isdecimal())
    return None if known else "must be auto, cpu, cuda or cuda:N"


def _crop_px(value: int) -> str | None:
    return None if value >= 64 and value % 64 == 0 else "must be a multiple of 64"


def _meter(value: str) -> str | None:
    try:
        if EnergyPlan(meter=value).command is not None:
            return None
    except ValueError:
        return "must be command:watts PROGRAM or command:joules PROGRAM"
    near = ", ".join(nearest_first(value, METERS))
    known = f"must be one of: {near}; or command:watts PROGRAM (command:joules)"
    return None if value in METERS else known


def _slurm_name(value: str) -> str | None:
    fine = value and value.isprintable() and not value.startswith("-") and " " not in value
    return None if fine else "must be a word, as Slurm knows it"


def _slurm_options(values: Sequence[str]) -> str | None:
    for value in values:
        if not (value.startswith("--") and value.isprintable()):
            return f"{show(value)} must begin with `--`: one option a text, as --reservation=mine"
        if value.partition("=")[0] in SLURM_OWN:
            return f"{value.partition('=')[0]} is set by kdbench"
    return None


def _distortion(value: str) -> str | None:
    try:
        metrics.find(value)
    except CodecError as why:
        return f"{why.problem}; {why.fix}"
    return None


RULES: Mapping[str, recipes.Rule] = {
    "name": _name,
    "objectives": _objectives,
    "anchor": _anchor,
    "start": _start,
    "trials": at_least(1),
    "timeout_s": above_zero,
    "workers": at_least(0),
    "seed": at_least(0),
    "twins": at_least(0),
    "target": _target,
    "target_timeout_s": above_zero,
    "device": _device,
    **{f"constraints.{f.name}": above_zero for f in fields(Constraints)},
    "data.crops": at_least(1),
    "data.cache_gib": above_zero,
    "training.steps": at_least(1),
    "training.batch": at_least(1),
    "training.crop_px": _crop_px,
    "training.rd_lambdas": _rd_lambdas,
    "training.distortion": _distortion,
    "energy.meter": _meter,
    "energy.window_s": above_zero,
    "energy.windows": at_least(1),
    "ladder.rungs": _rungs,
    "ladder.eta": at_least(2),
    **{f"launcher.{key}": _slurm_name for key in ("partition", "account", "qos", "constraint")},
    "launcher.time_min": at_least(2),
    "launcher.mem_gib": above_zero,
    "launcher.cpus_per_worker": at_least(1),
    "launcher.gpus_per_worker": at_least(0),
    "launcher.extra": _slurm_options,
}


CODEC_RULES: Mapping[str, recipes.Rule] = {
    "codecs": _codecs,
    **{
        key: rule
        for key, rule in RULES.items()
        if key in ("name", "anchor", "device") or key.startswith("energy.")
    },
}


def _agree(study: StudyConfig, recipe: Recipe) -> None:
    """Report keys that are right alone and wrong together."""
    if study.data.crops < study.training.batch:
        recipe.report(
            ("data", "crops"),
            f"must be at least training.batch, {study.training.batch}",
            value=study.data.crops,
        )
    _agree_on_rates(study, recipe)
    _agree_on_points(study, recipe)
    if study.sampler.name == "grid":
        _require_listed_values(study, recipe)
    needs_energy: list[str] = [name for name in study.objectives if "_j_per_mpx" in name]
    needs_energy += [f"{name}_max" for name in study.constraints.limits if "_j_per_mpx" in name]
    if study.energy.meter == "none" and needs_energy:
        recipe.report(("energy", "meter"), f"{needs_energy[0]} needs a meter", value="none")
    elif study.energy.meter == "none" and study.target is not None:
        recipe.report(("energy", "meter"), "target needs a meter, there", value="none")
    if study.training.distortion != "mse":
        _agree_with_distortion(study, recipe)
    if study.cost_first:
        _agree_with_cost_first(study, recipe)
    if study.ladder is not None:
        _agree_with_ladder(study, study.ladder, recipe)
    _agree_with_launcher(study, recipe)


def _agree_with_launcher(study: StudyConfig, recipe: Recipe) -> None:
    """What is of Slurm is told to Slurm, and who asks for CUDA gets a GPU."""
    launcher = study.launcher
    if launcher.name == "local":
        for f in fields(Launcher):
            if f.name != "name" and getattr(launcher, f.name) != f.default:
                rule = "is of `launcher.name: slurm`, and the launcher is local"
                recipe.report(("launcher", f.name), rule, value=getattr(launcher, f.name))
    elif study.device.startswith("cuda") and launcher.gpus_per_worker == 0:
        rule = f"must be at least 1 with device: {study.device}"
        recipe.report(("launcher", "gpus_per_worker"), rule, value=0)


def _agree_with_cost_first(study: StudyConfig, recipe: Recipe) -> None:
    """There is a quality to guess, and costs that are known before it."""
    names = set(study.objectives)
    qualities = {"bd_rate_pct", "validation_loss"}
    rule = None
    if not names & qualities:
        rule = "needs bd_rate_pct or validation_loss among the objectives, to guess from costs"
    elif "decode_s_per_mpx" in names:
        rule = "has no use of decode_s_per_mpx as objective; it is known once all is trained"
    elif not names - qualities:
        rule = "needs a cost among the objectives"
    if rule:
        recipe.report(("cost_first",), rule, value=True)


def _agree_with_ladder(study: StudyConfig, ladder: Ladder, recipe: Recipe) -> None:
    """Every rung is a step of its own, of one training, and says something of an objective."""
    n_steps, steps = study.training.steps, ladder.steps(study.training.steps)
    if len({0, *steps, n_steps}) < len(steps) + 2:
        rule = (
            f"lie at the steps {', '.join(map(str, steps))} of {n_steps}; each must be a step of "
            "its own, before the last: take fewer rungs, or more training.steps"
        )
        recipe.report(("ladder", "rungs"), rule, value=list(ladder.rungs))
    if study.training.rate == "per_lambda" and len(study.training.rd_lambdas) > 1:
        rule = "needs rate: variable; with one model a rate there is no training to stop early"
        recipe.report(("ladder",), rule)
    if not {"bd_rate_pct", "validation_loss"} & set(study.objectives):
        rule = "needs bd_rate_pct or validation_loss among the objectives: costs do not change"
        recipe.report(("ladder",), rule)


def _agree_with_distortion(study: StudyConfig, recipe: Recipe) -> None:
    """Report crops and teachers that a distortion other than the MSE has no use for."""
    name, crop_px = study.training.distortion, study.training.crop_px
    needed = metrics.find(name).min_px
    if crop_px < needed:
        rule = (
            f"must be at least {-(-needed // 64) * 64} with training.distortion {name}, which "
            f"needs {needed} px a side"
        )
        recipe.report(("training", "crop_px"), rule, value=crop_px)
    named = study.space.distillation.teacher.values
    for teacher in dict.fromkeys(part for name in named for part in hybrid.duties(name)):
        if teacher != NO_TEACHER and not teacher.startswith(plugins.KIND):
            rule = (
                f"{teacher} was trained for mse, and the study trains for {name}; take none, or a "
                "plugin:NAME that was trained for it"
            )
            recipe.report(("space", "distillation", "teacher"), rule)


def _agree_on_rates(study: StudyConfig, recipe: Recipe) -> None:
    """How many rates there are, and what can be said and minimised of so many."""
    rate, values = study.training.rate, list(study.training.rd_lambdas)
    key = ("training", "rd_lambdas")
    if rate == "variable" and len(values) < N_LEVELS:
        rule = f"needs at least {N_LEVELS} values: BD-rate compares curves"
        recipe.report(key, rule, value=values)
    elif rate == "per_lambda" and 1 < len(values) < N_LEVELS:
        rule = f"needs at least {N_LEVELS} values, for a curve, or one alone with rate: per_lambda"
        recipe.report(key, rule, value=values)
    elif rate == "none" and len(values) > 1:
        rule = "needs one value with rate: none; without bits there is no trade to make a curve of"
        recipe.report(key, rule, value=values)
    if rate == "none" and study.space.codec is not None:
        recipe.report(
            ("training", "rate"),
            "must be variable or per_lambda with a codec of another package; kdbench does not know "
            "which way its bits reach g_a",
            value=rate,
        )
    if rate == "none":
        for name in ("hyper_latent", "entropy"):
            if getattr(study.space.distillation, name) != OFF:
                recipe.report(
                    ("space", "distillation", name),
                    "must be 0 with rate: none; it is about bits, which an auto-encoder does not "
                    "count",
                )
    if len(values) == 1 and rate != "variable" and "bd_rate_pct" in study.objectives:
        recipe.report(
            ("objectives",),
            "bd_rate_pct needs a curve, and a study of one rd_lambda has a point; take "
            "validation_loss",
        )
    if len(values) == 1 and study.twins > 0:
        rule = "must be 0 for a study of one rd_lambda; what distillation gave is told by BD-rate"
        recipe.report(("twins",), rule, value=study.twins)
    if rate != "variable" and study.space.distillation.guides.values == ("matched",):
        _require_guided(study, recipe)


def _require_guided(study: StudyConfig, recipe: Recipe) -> None:
    """Each model has a teacher, as far as the zoo's names tell."""
    names = study.space.distillation.teacher.values
    for part in dict.fromkeys(part for name in names for part in hybrid.duties(name)):
        if not part.startswith(zoo.KIND):
            continue
        try:
            theirs = {model.rd_lambda for model in zoo.parse(part)}
        except CodecError:
            continue  # `SearchSpace.unusable` says what is wrong with the name
        left = [f"{v:g}" for v in study.training.rd_lambdas if v not in theirs]
        if left:
            recipe.report(
                ("space", "distillation", "teacher"),
                f"{part} guides no model of rd_lambda {', '.join(left)}; take a range that has "
                "them, or distillation.guides: every",
            )


def _require_listed_values(study: StudyConfig, recipe: Recipe) -> None:
    """A grid has no use of a parameter that may be any number."""
    for name, parameter in study.space.parameters.items():
        if isinstance(parameter, FloatRange) and not parameter.fixed:
            rule = (
                "is any number of a range, and sampler.name: grid tries listed values; write "
                f"some, [{parameter.low:g}, {parameter.middle:g}, {parameter.high:g}], or take qmc"
            )
            recipe.report(("space", *name.split(".")), rule)


def _agree_on_points(study: StudyConfig, recipe: Recipe) -> None:
    """Listed points name the free parameters of the space, and values that are in it."""
    sampler = study.sampler
    if (sampler.name == "listed") != bool(sampler.points):
        rule = "needs sampler.points" if sampler.name == "listed" else "has no use of points"
        recipe.report(("sampler", "name"), rule, value=sampler.name)
        return
    if sampler.points and study.trials != len(sampler.points):
        recipe.report(
            ("trials",),
            f"must be the number of sampler.points, {len(sampler.points)}",
            value=study.trials,
        )
    parameters = study.space.parameters
    free = [name for name, parameter in parameters.items() if not parameter.fixed]
    for i, point in enumerate(sampler.points):
        key: Key = ("sampler", "points", i)
        for name, value in point.items():
            if name not in free:
                near = ", ".join(nearest_first(name, free)) or "none"
                rule = f"is no free parameter of the space; free, nearest first: {near}"
                recipe.report((*key, name), rule)
            elif parameters[name].own(value) is None:
                recipe.report((*key, name), "is not in the space", value=value)
        if missing := [name for name in free if name not in point]:
            recipe.report(key, f"must name {missing[0]}, too: the space leaves it open")


# --- reading ---------------------------------------------------------------------------------


def list_studies() -> tuple[str, ...]:
    """Names of the studies in the working folder and of those that came with kdbench."""
    return tuple(recipes.known("studies"))


def load_study(name_or_path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """A study by name, or from a file, with `overrides` (`key.path=value`) applied in order.

    `space.encoder.width=[16,32]` reaches into the space; `space=NAME` takes another one.

    Raises:
        ConfigError: No such study or space (known ones nearest first), or every broken rule of
            both files and the overrides, with place, key and value.
    """
    path = recipes.find("studies", name_or_path)
    study, recipe = read_study(path, overrides)
    if study is None or recipe.problems:
        recipes.fail(recipe.problems)
    if isinstance(study, CodecList):
        raise ConfigError(
            f"study {study.name!r} lists codecs to measure and searches nothing",
            fix=f"`kdbench search --study {study.name}` measures them",
        )
    return study


def load_any_study(
    name_or_path: str | Path, overrides: Sequence[str] = ()
) -> StudyConfig | CodecList:
    """Likewise, or a list of codecs.

    Raises:
        ConfigError: As `load_study`.
    """
    study, recipe = read_study(recipes.find("studies", name_or_path), overrides)
    if study is None or recipe.problems:
        recipes.fail(recipe.problems)
    return study


def settings(study: StudyConfig) -> dict[str, Any]:
    """The study as its file would say it, space included: plain values for JSON."""
    tree: dict[str, Any] = recipes.adapter(StudyConfig).dump_python(
        (study,), mode="json", exclude={0: {"space": study.space.absent}}
    )[0]
    return tree


def codec_list_settings(study: CodecList) -> dict[str, Any]:
    """The same of a list of codecs."""
    tree: dict[str, Any] = recipes.adapter(CodecList).dump_python((study,), mode="json")[0]
    return tree


def codec_list_from_settings(tree: Mapping[str, Any], place: str) -> CodecList:
    """The list that `codec_list_settings` wrote; as `from_settings`."""
    recipe = Recipe(dict(tree), {(): Place(place)})
    study = recipes.validate(recipe, CodecList, CODEC_RULES)
    if study is None or recipe.problems:
        recipes.fail(recipe.problems)
    return study


def from_settings(tree: Mapping[str, Any], place: str) -> StudyConfig:
    """The study that `settings` wrote; `place` names its file in errors.

    Raises:
        ConfigError: Every rule it breaks, e.g. because another version wrote it.
    """
    recipe = Recipe(dict(tree), {(): Place(place)})
    study = _validate(recipe)
    if study is None or recipe.problems:
        recipes.fail(recipe.problems)
    return study


def read_study(
    path: Path, overrides: Sequence[str]
) -> tuple[StudyConfig | CodecList | None, Recipe]:
    """The study in a file with `overrides`, None where it is not valid; and all problems.

    One with the key `codecs` lists codecs.
    """
    recipe = read(path)
    if "codecs" in recipe.tree:
        recipe.tree.setdefault("name", path.stem)
        for override in overrides:
            recipe.override(override)
        return recipes.validate(recipe, CodecList, CODEC_RULES), recipe
    if not recipe.unread:
        recipe.tree.setdefault("name", path.stem)
        for override in overrides:
            if override.startswith("space."):
                _resolve_space(recipe)
            recipe.override(override)
        _resolve_space(recipe)
    return _validate(recipe), recipe


def _resolve_space(recipe: Recipe) -> None:
    """Replace the name of a space by what its file says."""
    name = recipe.tree.get("space")
    if not isinstance(name, str):
        return
    try:
        recipe.graft("space", read_space(name))
    except ConfigError:
        near = ", ".join(nearest_first(name, list(recipes.known("search_spaces"))))
        recipe.report(
            ("space",), f"there is no such space; known, nearest first: {near}", value=name
        )
        recipe.known_wrong.add(("space",))
        del recipe.tree["space"]


def _validate(recipe: Recipe) -> StudyConfig | None:
    study = recipes.validate(recipe, StudyConfig, RULES, _incomplete)
    if study is not None:
        _agree(study, recipe)
    return study


def _incomplete(tree: Any) -> list[tuple[Key, str]]:
    space = tree.get("space") if isinstance(tree, dict) else None
    return [(("space", *key), rule) for key, rule in incomplete(space)]


# --- for the bench and for going on ----------------------------------------------------------


def bench(study: StudyConfig, *, cache: Path, device: str, threads: int = 1) -> Bench:
    """What every trial of `study` has in common where it trains.

    Of a study with a target, energy is not measured there.

    Args:
        study: What the files say.
        cache: Folder for what trials share.
        device: Resolved: `cpu`, `cuda` or `cuda:N`.
        threads: Of one worker.
    """
    return Bench(
        data=study.data,
        anchor=study.anchor,
        energy=study.energy if study.target is None else EnergyPlan(meter="none"),
        device=device,
        precision=study.training.precision,
        threads=threads,
        cache=str(cache),
        start=study.start,
    )


def settings_hash(study: StudyConfig) -> str:
    """Names what may not change while a study goes on: all but `FREE_ON_RESUME`."""
    return content_hash(_fixed(study))


def differences(stored: StudyConfig, now: StudyConfig) -> list[str]:
    """One line for each setting that may not change and did; empty if the study can go on."""
    old, new = _flat(_fixed(stored)), _flat(_fixed(now))
    return [
        f"{key}: stored {show(old.get(key))}, now {show(new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]


def _fixed(study: StudyConfig) -> dict[str, Any]:
    return {key: value for key, value in settings(study).items() if key not in FREE_ON_RESUME}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and not {"low", "high"} <= value.keys():
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
