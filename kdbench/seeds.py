"""Trains specs from several seeds, and says how lucky a recorded trial was.

A search keeps the best of many trials, and some are best by luck (the winner's curse): trained
again from seeds that nobody chose, they come out worse on average. The spread over seeds says which
differences mean anything.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from kdbench.errors import CodecError, QualityGapError, TrainingError
from kdbench.files import write_json
from kdbench.records import Bench, Progress, TrialResult, TrialSpec
from kdbench.rerun import changes, recorded, stood_on
from kdbench.store import Failure, StoredTrial, TrialFolder, keep_result, keep_spec

Watch = Callable[[str], AbstractContextManager[Callable[[Progress], None]]]
BROKE = (CodecError, QualityGapError, TrainingError)  # of one training; the others may go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training of a spec.

    Attributes:
        result: None where the training broke; then `why_not` says how.
    """

    spec: TrialSpec
    result: TrialResult | None
    why_not: str | None = None

    @property
    def bd_rate_pct(self) -> float | None:
        """Against the study's anchor [%]."""
        return None if self.result is None else self.result.bd_rate_pct

    @property
    def training_s(self) -> float | None:
        """Wall seconds of the training alone."""
        return None if self.result is None else self.result.seconds["training"]

    @property
    def validation_loss(self) -> float | None:
        """R + rd_lambda 255^2 D on the validation crops, mean over levels."""
        return None if self.result is None else self.result.losses["validation"]


class Trainer:
    """Trains one spec after another, each into a folder of its own that is whole when it ends."""

    def __init__(self, bench: Bench, folder: Path, watch: Watch) -> None:
        """Nothing is trained yet.

        Args:
            bench: What the trials of the study share, here and now.
            folder: Where the folders of the trainings go.
            watch: Shows the progress of the training it is given the name of.
        """
        self._bench, self._folder, self._watch = bench, folder, watch
        self.wall_s = 0.0  # of every training so far, broken ones and evaluations too

    def train(self, spec: TrialSpec, name: str) -> Run:
        """Trains `spec` into folder `name`.

        Raises:
            KdbenchError: What no other training would survive either: disk, device, photos.
        """
        from kdbench.trial import run_trial

        files = TrialFolder(self._folder / name)
        keep_spec(files, spec)
        began = time.monotonic()
        try:
            with self._watch(name) as follow:
                result = run_trial(spec, self._bench, lambda rung: True, files.path, follow)
        except BROKE as why:
            write_json(files.failure, Failure(state="failed", problem=why.problem, fix=why.fix))
            return Run(spec=spec, result=None, why_not=why.problem)
        finally:
            self.wall_s += time.monotonic() - began
        keep_result(files, result)
        return Run(spec=spec, result=result)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def spread(values: Iterable[float | None]) -> float | None:
    """Sample standard deviation of those that are known; None of fewer than two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRuns:
    """One spec, trained from several seeds."""

    runs: tuple[Run, ...]

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.runs[0].spec.training.steps

    @property
    def mean_pct(self) -> float | None:
        """Mean BD-rate against the study's anchor [%]."""
        return mean(run.bd_rate_pct for run in self.runs)

    @property
    def spread_pct(self) -> float | None:
        """Its standard deviation over seeds [points]; None of fewer than two."""
        return spread(run.bd_rate_pct for run in self.runs)

    @property
    def training_s(self) -> float | None:
        """Mean wall seconds of a training; None where every one broke."""
        return mean(run.training_s for run in self.runs)


# --- a trial and its fresh seeds -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshSeeds(SeedRuns):
    """A recorded trial, and the same spec from seeds that nobody chose.

    Attributes:
        changed: What the trial stood on (machine, versions, threads, teacher, crops, anchor) and is
            not as it was: name -> (then, now). The difference is then not luck alone.
        wall_s: Of all the trainings, their evaluations included.
    """

    number: int
    recorded: TrialResult
    changed: Mapping[str, tuple[str | None, str | None]]
    wall_s: float

    @property
    def winners_curse_pct(self) -> float | None:
        """Recorded BD-rate less the mean of the fresh seeds [points]; negative: it was lucky."""
        pct = self.recorded.bd_rate_pct
        return None if self.mean_pct is None or pct is None else pct - self.mean_pct


def fresh_seeds(
    trial: StoredTrial,
    bench: Bench,
    folder: Path,
    n: int,
    *,
    anchor_sha: str | None,
    watch: Watch,
) -> FreshSeeds:
    """Trains `trial` from `n` seeds it was not recorded with, the next ones up.

    Args:
        trial: A complete one.
        bench: What its study's trials share, here and now.
        folder: See `Store.new_rerun`; gets `<number>/seed-<seed>` for each.
        n: At least 1.
        anchor_sha: Of the anchor the study began with; None if nobody knows.
        watch: Shows the progress of each training.

    Raises:
        KdbenchError: The trial has no result to compare with; or see `Trainer.train`.
    """
    first, seed = recorded(trial), trial.spec.seed
    then, now = stood_on(trial.spec, bench, anchor_sha)
    trainer = Trainer(bench, folder / str(trial.number), watch)
    runs = [
        trainer.train(replace(trial.spec, seed=k), f"seed-{k}")
        for k in range(seed + 1, seed + 1 + n)
    ]
    return FreshSeeds(
        number=trial.number,
        recorded=first,
        runs=tuple(runs),
        changed=changes({**first.environment, **then}, {**_environment(runs, first), **now}),
        wall_s=trainer.wall_s,
    )


def _environment(runs: Sequence[Run], first: TrialResult) -> Mapping[str, str]:
    """Where the fresh seeds were trained; nothing changed that no result tells of."""
    found = [run.result.environment for run in runs if run.result is not None]
    return found[0] if found else first.environment
