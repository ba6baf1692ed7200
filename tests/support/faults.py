"""A study whose processes are killed at random moments; its trials are a stub that resumes.

The stub trains as a real trial does for all that faults can see: a checkpoint, then its rung, in
turn; a student file; a result that is a function of the spec alone. `journal.jsonl` in a trial's
folder says from which step each attempt went on.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from kdbench.files import append_log, read_log, read_sealed, write_atomic, write_sealed
from kdbench.records import Bench, Progress, Rung, TrialResult, TrialSpec
from kdbench.report.overview import overview
from kdbench.search.attributes import DUPLICATE_OF
from kdbench.search.storage import connect
from kdbench.store import Store, StoredTrial
from tests.support import search as stub
from tests.support.disk_faults import damage
from tests.support.stub_kdbench import COMMAND

STUDY = "demo"
PATIENCE_S = 600.0
START_S = 60.0  # of a worker, on a machine with other work
POLL_S = 0.05  # the list of all processes is read each time
LADDER = "ladder={rungs: [0.2, 0.5, 0.8], stop: false}"  # every rung of every trial is kept
ATTEMPTS = "20"  # of a spec: so many kills would meet the cap of three by chance


def run(
    spec: TrialSpec,
    bench: Bench,
    gate: stub.Gate,
    folder: Path,
    on_progress: stub.Report,
    *,
    seconds: float,
) -> TrialResult:
    """The stub: `seconds` long, in as many parts as it has steps."""
    assert gate(Rung(stage="cost", step=0, values=stub.costs(spec)))
    checkpoint, n_steps = folder / "training.checkpoint", spec.training.steps
    first = int(read_sealed(checkpoint)) if checkpoint.exists() else 0
    append_log(folder / "journal.jsonl", {"from": first})
    if first in bench.rungs:
        assert gate(stub.shown(spec, first))
    for step in range(first + 1, n_steps + 1):
        time.sleep(seconds / n_steps)
        on_progress(Progress(stage="training", step=step, n_steps=n_steps, loss=1.0))
        if step in bench.rungs:
            write_sealed(checkpoint, str(step).encode())
            assert gate(stub.shown(spec, step))
    write_atomic(folder / "student.safetensors", spec.hash.encode() * 1000)
    return stub.result(spec)


def points(n: int) -> str:
    """The override that lists `n` different specs of the stub's space."""
    axes = {
        "encoder.width": (16, 24, 32, 48, 64),
        "encoder.kernel": (3, 5),
        "encoder.activation": ("gdn", "relu"),
        "decoder.width": (16, 24, 32, 48, 64),
        "training.learning_rate": (0.0005, 0.001, 0.002),
    }
    listed = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    random.Random(0).shuffle(listed)
    shown = ", ".join(
        "{" + ", ".join(f"{key}: {value}" for key, value in point.items()) + "}"
        for point in islice(listed, n)
    )
    return f"sampler={{name: listed, points: [{shown}]}}"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL.

    Attributes:
        whom: `worker` or `coordinator`.
        stage: What the worker said that it did; None of a coordinator.
        in_trial: Whether it ran a trial.
    """

    whom: str
    stage: str | None
    in_trial: bool


class Disturbed:
    """A study of `n` listed trials; `storage` as for `search`, None: SQLite."""

    def __init__(
        self, folder: Path, n: int, *, seconds: float, storage: str | None = None, workers: int = 2
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.n, self.store = n, Store(folder / "runs")
        self.url = storage or self.store.database_url(STUDY)
        self._arguments = (
            *("search", "--root", str(self.store.root), "--workers", str(workers)),
            *("--set", f"trials={n}", "--set", points(n), "--set", LADDER),
        )
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "STUB_SECONDS": str(seconds),
            "STUB_TRAINS": "1",
            "STUB_ATTEMPTS": ATTEMPTS,
            **({} if storage is None else {"KDBENCH_STORAGE": storage}),
        }
        self._log = folder / "said.txt"
        self.kills: list[Kill] = []
        self.n_starts = 0

    def run(self) -> None:
        """To the end, undisturbed."""
        coordinator = self._start()
        assert coordinator.wait(PATIENCE_S) == 0, self.said

    def run_killed(self, n_kills: int, *, seed: int, pause_s: float) -> None:
        """To the end, started again whenever it ended, with `n_kills` on the way.

        Three of four kills come when some worker has begun a trial, so that a slow machine, whose
        processes take long to start, does not see all of them killed on their way; one comes at any
        moment.

        Args:
            n_kills: SIGKILLs, each to a worker or, one in eight, to the coordinator.
            seed: Of moments and victims.
            pause_s: Longest time from what a kill waits for to the kill.
        """
        rng, coordinator = random.Random(seed), self._start()
        end = time.monotonic() + PATIENCE_S + 20 * n_kills
        while len(self.kills) < n_kills:
            if rng.random() < 3 / 4:
                self._pause(START_S, coordinator, until_at_work=True)
            self._pause(rng.uniform(0, pause_s), coordinator)
            assert time.monotonic() < end, self.said
            if coordinator.poll() is not None:
                if coordinator.returncode == 0:
                    break  # more kills than there was time for
                coordinator = self._start()
                continue
            self._kill(rng, coordinator)
        while (code := coordinator.wait(PATIENCE_S)) != 0:
            assert code in (1, -signal.SIGKILL), self.said
            assert time.monotonic() < end, self.said
            coordinator = self._start()

    def _pause(
        self, seconds: float, coordinator: subprocess.Popen[bytes], *, until_at_work: bool = False
    ) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and coordinator.poll() is None:
            if until_at_work and any(self._at_work(coordinator)):
                break
            time.sleep(POLL_S)

    def _at_work(self, coordinator: subprocess.Popen[bytes]) -> list[int]:
        """Workers that run a trial."""
        try:
            alive = {child.pid for child in psutil.Process(coordinator.pid).children()}
        except psutil.NoSuchProcess:
            return []
        return [
            state.pid for state in self._workers() if state.trial is not None and state.pid in alive
        ]

    def _kill(self, rng: random.Random, coordinator: subprocess.Popen[bytes]) -> None:
        if rng.random() < 1 / 8:
            coordinator.kill()
            coordinator.wait()
            self.kills.append(Kill(whom="coordinator", stage=None, in_trial=False))
            return
        try:
            workers = psutil.Process(coordinator.pid).children()
        except psutil.NoSuchProcess:
            return
        if not workers:
            return
        victim = rng.choice(workers)
        said = {state.pid: state for state in self._workers()}.get(victim.pid)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return
        stage = None if said is None else said.progress.stage
        in_trial = said is not None and said.trial is not None
        self.kills.append(Kill(whom="worker", stage=stage, in_trial=in_trial))

    def _workers(self) -> Sequence[Any]:
        return self.store.workers(STUDY) if self.store.root.exists() else []

    def _start(self) -> subprocess.Popen[bytes]:
        self.n_starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, *self._arguments],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """What all coordinators printed."""
        return self._log.read_text()

    @property
    def hits(self) -> int:
        """Kills of a worker that ran a trial."""
        return sum(kill.in_trial for kill in self.kills)

    def front(self) -> dict[str, Mapping[str, float | None]]:
        """Objectives of its front, by the hash of the spec."""
        found = overview(self.store, STUDY)
        return {t.spec.hash: found.values(t) for t in found.trials if t.number in found.front}

    def results(self) -> dict[str, TrialResult]:
        """Every result by the hash of its spec."""
        return {t.spec.hash: t.result for t in self.store.trials(STUDY) if t.result is not None}

    def faults(self) -> list[str]:
        """What is not as it must be; nothing where all is well."""
        return [*self._in_database(), *self._in_folders(), *self._rungs_lost()]

    def _in_database(self) -> Iterator[str]:
        trials = self._told()
        states = Counter(trial.state for trial in trials)
        if states[TrialState.RUNNING]:
            yield f"{states[TrialState.RUNNING]} trials run for ever"
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        own = Counter(t.user_attrs["spec_hash"] for t in done if DUPLICATE_OF not in t.user_attrs)
        every = {trial.user_attrs["spec_hash"] for trial in done}
        if len(every) != self.n:
            yield f"{len(every)} of {self.n} specs are complete"
        if twice := [spec for spec, n in own.items() if n > 1]:
            yield f"{len(twice)} specs are complete more than once"

    def _in_folders(self) -> Iterator[str]:
        if (problem := damage(self.store.root, codecs=False)) is not None:
            yield problem
        n = Counter(t.spec.hash for t in self.store.trials(STUDY) if t.result is not None)
        if len(n) != self.n:
            yield f"{len(n)} of {self.n} specs have a result"
        if twice := [spec for spec, times in n.items() if times > 1]:
            yield f"{len(twice)} specs have more than one result"
        for trial in self.store.trials(STUDY):
            whole = trial.spec.hash.encode() * 1000
            for student in trial.folder.students:
                if student.read_bytes() != whole:
                    yield f"{student} is half written"
            if trial.result is not None and (not trial.folder.students or trial.folder.checkpoints):
                yield f"{trial.folder.path} has a result, and no student or still a checkpoint"

    def _rungs_lost(self) -> Iterator[str]:
        """A later attempt must go on from the last rung that an earlier one finished, or beyond."""
        attempts: dict[str, list[StoredTrial]] = defaultdict(list)
        for trial in self.store.trials(STUDY):
            attempts[trial.spec.hash].append(trial)
        for trials in attempts.values():
            reached = 0
            for trial in trials:
                for entry in read_log(trial.folder.path / "journal.jsonl"):
                    if entry["from"] < reached:
                        yield (
                            f"trial {trial.number} went on from step {entry['from']}, and rung "
                            f"{reached} had been finished"
                        )
                reached = max([reached, *(rung.step for rung in trial.rungs)])
            complete = next((trial for trial in trials if trial.result is not None), None)
            if complete is not None and [r.step for r in complete.rungs] != [2, 5, 8]:
                yield f"trial {complete.number} has the rungs {[r.step for r in complete.rungs]}"

    def _told(self) -> list[FrozenTrial]:
        """Every trial, as the database has it."""
        storage = connect(self.url, create=False)
        return optuna.load_study(study_name=STUDY, storage=storage).get_trials()

    def summary(self) -> dict[str, Any]:
        """Figures of the kills."""
        stages = Counter(kill.stage or kill.whom for kill in self.kills)
        trials = self._told()
        attempts = Counter(trial.state.name.lower() for trial in trials)
        return {
            "kills": len(self.kills),
            "of coordinators": sum(kill.whom == "coordinator" for kill in self.kills),
            "hit a trial": self.hits,
            "starts of the search": self.n_starts,
            "by stage": dict(sorted(stages.items())),
            "trials in the database": dict(sorted(attempts.items())),
        }
