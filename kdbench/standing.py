"""How a study stands just now: who works on it, on what, how fast; found by `search.status`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WorkerMood = Literal["works", "silent", "done", "gone"]
Origin = Literal["database and folders", "database", "folders"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStanding:
    """One worker, as it or its trial last told.

    Attributes:
        host: Name of its machine; None where an older kdbench did not say.
        job: Its task of a Slurm array; None elsewhere.
        mood: `works`; `silent` if it has not been heard of for as long as trials are given up
            after; `done` if it has found nothing more to do; `gone` if its process is no more,
            which can be seen of this machine only.
        trial: That it runs; None between trials.
        stage: What it does; None where the database alone knows of it.
        heard_s: Since it was last heard of [s]; None where nobody knows.
    """

    index: int
    host: str | None
    pid: int | None
    job: str | None
    mood: WorkerMood
    trial: int | None
    stage: str | None = None
    step: int = 0
    n_steps: int = 0
    heard_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that has begun and not ended, as far as the source tells.

    Attributes:
        worker: Index of who runs it; with host and job None where it did not say so yet.
        heard_s: Since its last heartbeat [s]; None where the source has none.
        stale: Whether that is so long ago that the next worker to ask takes it over.
    """

    number: int
    worker: int | None
    host: str | None
    job: str | None
    heard_s: float | None
    stale: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmTask:
    """A worker that Slurm runs or will run, in Slurm's words."""

    job: str
    state: str
    reason: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a complete trial took so far.

    Attributes:
        n_trials: Complete trials that it stands on.
        worker_s_per_trial: Seconds of one worker for each complete trial; those of trials that
            came to nothing are in it.
    """

    n_trials: int
    worker_s_per_trial: float

    def trials_per_hour(self, n_workers: int) -> float | None:
        """Of so many workers; None of none."""
        return 3600 * n_workers / self.worker_s_per_trial if n_workers else None

    def left_s(self, n_trials: int, n_workers: int) -> float | None:
        """Until so many more are complete [s], begun ones counted whole; None without workers."""
        busy = min(n_workers, n_trials)
        return self.worker_s_per_trial * n_trials / busy if busy else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """See the module.

    Attributes:
        origin: What could be asked.
        notes: What could not, and why.
        asked: Complete trials at which the study ends; None where its settings are out of reach.
        until_s: No trial begins after it [s since 1970]; None: no limit.
        n: Trials by state: complete, running, queued, infeasible, stopped, refused, failed. What
            the origin cannot tell is not there.
        pace: None before the first complete trial.
    """

    study: str
    origin: Origin
    notes: tuple[str, ...]
    asked: int | None
    until_s: float | None
    n: Mapping[str, int]
    workers: tuple[WorkerStanding, ...]
    running: tuple[RunningTrial, ...]
    slurm: tuple[SlurmTask, ...]
    pace: Pace | None

    @property
    def n_working(self) -> int:
        """Workers that work, as far as one can see from here."""
        return sum(worker.mood == "works" for worker in self.workers)

    @property
    def n_left(self) -> int | None:
        """Trials that must still become complete."""
        return None if self.asked is None else max(0, self.asked - self.n["complete"])

    @property
    def trials_per_hour(self) -> float | None:
        """Estimated from complete trials and those who work now; None where either is missing."""
        return None if self.pace is None else self.pace.trials_per_hour(self.n_working)

    @property
    def left_s(self) -> float | None:
        """Likewise, until the study is complete [s]; 0 of one that is."""
        if self.n_left == 0:
            return 0.0
        if self.pace is None or self.n_left is None:
            return None
        return self.pace.left_s(self.n_left, self.n_working)
