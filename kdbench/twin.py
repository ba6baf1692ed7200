"""Does distillation help? A distilled student against its twin, which trained without.

A twin has its student's architecture, start, seed, crops, levels and steps, and every distillation
weight 0. It keeps the teacher, since a student with a teacher starts in the teacher's coordinates
whatever its weights are (`codecs.align`): the start is not distillation.

    student   seed s, s+1, ...                    as the trial was told
    tuning    seed s, learning rate x 0.5, 1, 2   the best by validation loss is the twin
    twin      seed s+1, ...                       at that rate, in turns with the student
    longer    seed s, s+1, ...                    with the steps that the student's seconds pay for

A twin at its student's learning rate would be a straw man: the search chose that rate for the
student. The photos of the evaluation choose nothing here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench.errors import KdbenchError
from kdbench.rd import Outcome, bd_rate, bd_rate_over_seeds, outcome
from kdbench.records import BDRate, Bench, Distillation, TrialResult, TrialSpec
from kdbench.rerun import require_curve
from kdbench.seeds import Run, SeedRuns, Trainer, Watch
from kdbench.store import StoredTrial

RATE_FACTORS = (0.5, 1.0, 2.0)  # of the student's learning rate
SAME_SECONDS = 1.02  # 2 % more count as the same: two trainings of one spec differ by as much


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Student against twin, seed by seed and over all of them.

    Attributes:
        by_seed: BD-rate of the student against the twin of its seed, interval over images; None
            where one of them broke or the two do not compare.
        bd_rate: Over the seeds that both finished, interval over seeds and images; None where
            nothing compares, and `why_not` says why.
    """

    student: SeedRuns
    twin: SeedRuns
    by_seed: tuple[BDRate | None, ...]
    bd_rate: BDRate | None
    why_not: str | None

    @property
    def n_seeds(self) -> int:
        """Seeds that student and twin both finished."""
        return len(_finished(self.student, self.twin))

    @property
    def outcome(self) -> Outcome:
        """What distillation did; unknown without an interval."""
        return outcome(self.bd_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A distilled trial and its twin.

    Attributes:
        tried: The twin of the first seed at each of `RATE_FACTORS` times the student's rate.
        kept: Which of them is the twin.
        equal_seconds: The student against a twin that trained for its seconds; None where the
            student took no more than the twin, or where one side finished nothing.
        cache_s: Wall seconds that the teacher's cache took when it was computed, by whichever trial
            of the study did; counted once, however many seeds read it. None if nobody recorded it.
        wall_s: Of all the trainings, tuning and evaluations included.
    """

    number: int
    tried: tuple[Run, ...]
    kept: int
    equal_steps: Match
    equal_seconds: Match | None
    cache_s: float | None
    wall_s: float

    @property
    def learning_rate(self) -> float:
        """The twin's."""
        return self.tried[self.kept].spec.training.learning_rate

    @property
    def kept_an_end(self) -> bool:
        """The best rate was the lowest or the highest: one beyond might be better still."""
        return self.kept in (0, len(self.tried) - 1)

    @property
    def student_s(self) -> float | None:
        """What distillation costs: mean training of the student, and the cache once [s]."""
        trained_s = self.equal_steps.student.training_s
        return None if trained_s is None else trained_s + (self.cache_s or 0.0)

    @property
    def tuning_s(self) -> float:
        """Training seconds of the rates that were not kept, as far as they finished."""
        lost = (run.training_s for i, run in enumerate(self.tried) if i != self.kept)
        return sum(s for s in lost if s is not None)


def twin_of(spec: TrialSpec, rate_factor: float = 1.0) -> TrialSpec:
    """`spec` with every distillation weight 0, its learning rate times `rate_factor`."""
    training, plan = spec.training, spec.distillation
    return replace(
        spec,
        distillation=Distillation(teacher=plan.teacher, guides=plan.guides),
        training=replace(training, learning_rate=rate_factor * training.learning_rate),
    )


def require_twin(trial: StoredTrial) -> None:
    """Passes a trial that has a twin.

    Raises:
        KdbenchError: It has no result or no BD-rate, or was not distilled.
    """
    require_curve(trial)
    plan = trial.spec.distillation
    if plan.teacher is None or plan.is_off:
        why = "has no teacher" if plan.teacher is None else "has every distillation weight 0"
        raise KdbenchError(
            f"trial {trial.number} {why}: it is its own twin, there is nothing to compare",
            fix="name a distilled trial with `--trial N`; `kdbench show --json` has every "
            "`spec.distillation`",
        )


def against_twin(
    trial: StoredTrial,
    bench: Bench,
    folder: Path,
    n_seeds: int,
    *,
    study: Sequence[StoredTrial],
    watch: Watch,
) -> Control:
    """Trains `trial` and its twin from `n_seeds` seeds each, at equal steps and equal seconds.

    Args:
        trial: A distilled, complete one.
        bench: What its study's trials share, here and now.
        folder: See `Store.new_rerun`; gets `<number>/student/...`, `twin`, `longer`.
        n_seeds: At least 1; the trial's own seed is the first.
        study: Its trials; one of them computed the teacher's cache.
        watch: Shows the progress of each training.

    Raises:
        KdbenchError: The trial has no twin, its twin trains at none of the rates; or see
            `Trainer.train`.
    """
    require_twin(trial)
    spec = trial.spec
    trainer = Trainer(bench, folder / str(trial.number), watch)
    students = [_train(trainer, spec, spec.seed, "student")]
    tried = [
        _train(trainer, twin_of(spec, factor), spec.seed, f"twin/rate-x{factor:g}")
        for factor in RATE_FACTORS
    ]
    kept = _best(trial.number, tried)
    twin_spec, twins = tried[kept].spec, [tried[kept]]
    seeds = range(spec.seed, spec.seed + n_seeds)
    for seed in seeds[1:]:  # in turns: a machine that slows down slows both
        students.append(_train(trainer, spec, seed, "student"))
        twins.append(_train(trainer, twin_spec, seed, f"twin/rate-x{RATE_FACTORS[kept]:g}"))
    student, twin = SeedRuns(runs=tuple(students)), SeedRuns(runs=tuple(twins))
    control = Control(
        number=trial.number,
        tried=tuple(tried),
        kept=kept,
        equal_steps=match(student, twin),
        equal_seconds=None,
        cache_s=_cache_s(spec, study, [*students, *tried, *twins]),
        wall_s=trainer.wall_s,
    )
    steps = steps_of_equal_seconds(twin.steps, control.student_s, twin.training_s)
    if steps is None:
        return control
    longer = replace(twin_spec, training=replace(twin_spec.training, steps=steps))
    runs = tuple(_train(trainer, longer, seed, "longer") for seed in seeds)
    return replace(
        control, equal_seconds=match(student, SeedRuns(runs=runs)), wall_s=trainer.wall_s
    )


def steps_of_equal_seconds(steps: int, student_s: float | None, twin_s: float | None) -> int | None:
    """Steps a twin takes in the student's seconds; None where `steps` are as many, or unknown."""
    if student_s is None or twin_s is None or student_s <= SAME_SECONDS * twin_s:
        return None
    fit = int(steps * student_s / twin_s)
    return fit if fit > steps else None


def match(student: SeedRuns, twin: SeedRuns) -> Match:
    """Student against twin: their seeds in the same order."""
    by_seed = []
    for one, other in zip(student.runs, twin.runs, strict=True):
        try:
            by_seed.append(_one_seed(one, other))
        except KdbenchError:  # the two share no quality; over all seeds they may
            by_seed.append(None)
    pairs = _finished(student, twin)
    found, why_not = None, None
    try:
        found = bd_rate_over_seeds([one.rd for one, _ in pairs], [two.rd for _, two in pairs])
    except KdbenchError as why:
        broke = [run.why_not for run in (*student.runs, *twin.runs) if run.why_not is not None]
        why_not = why.problem if pairs else f"no seed has both: {broke[0]}"
    return Match(student=student, twin=twin, by_seed=tuple(by_seed), bd_rate=found, why_not=why_not)


def _one_seed(student: Run, twin: Run) -> BDRate | None:
    if student.result is None or twin.result is None:
        return None
    return bd_rate(student.result.rd, twin.result.rd)


def _finished(student: SeedRuns, twin: SeedRuns) -> list[tuple[TrialResult, TrialResult]]:
    """Results of the seeds that have both."""
    pairs = zip(student.runs, twin.runs, strict=True)
    return [(a.result, b.result) for a, b in pairs if a.result and b.result]


def _train(trainer: Trainer, spec: TrialSpec, seed: int, name: str) -> Run:
    return trainer.train(replace(spec, seed=seed), f"{name}/seed-{seed}")


def _best(number: int, tried: Sequence[Run]) -> int:
    """Which run has the lowest validation loss."""
    losses = {i: run.validation_loss for i, run in enumerate(tried)}
    known = {i: loss for i, loss in losses.items() if loss is not None}
    if not known:
        reasons = "; ".join(
            f"at {run.spec.training.learning_rate:g} {run.why_not}" for run in tried
        )
        raise KdbenchError(
            f"the twin of trial {number} trains at no learning rate that was tried: {reasons}",
            fix="its student may depend on distillation to train at all; choose a trial with a "
            "lower learning rate or more steps",
        )
    return min(known, key=lambda i: known[i])


def _cache_s(spec: TrialSpec, study: Sequence[StoredTrial], runs: Sequence[Run]) -> float | None:
    """Longest `cache` part of a trial with this teacher: who finds the cache there only maps it."""
    teacher = spec.distillation.teacher
    then = [trial.result for trial in study if trial.spec.distillation.teacher == teacher]
    results = [result for result in (*then, *(run.result for run in runs)) if result is not None]
    return max((r.seconds["cache"] for r in results if "cache" in r.seconds), default=None)
