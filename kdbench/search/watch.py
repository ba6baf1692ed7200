"""What `kdbench search` does while workers work: looks after them, and tells how it goes."""

import time
from collections.abc import Callable, Container
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError
from kdbench.search.attributes import DUPLICATE_OF, UPLOADED
from kdbench.search.budget import (
    Budget,
    Verdict,
    complete_specs,
    is_refused,
    is_stopped,
    now_s,
)
from kdbench.search.collect import gather
from kdbench.search.crew import INTERRUPTED_CODE, AnyCrew, Member
from kdbench.search.dead import queue_lost, settle
from kdbench.search.front import unmeasured
from kdbench.search.grid import is_exhausted
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import StudyLocks
from kdbench.search.patience import PatientStorage
from kdbench.search.storage import HEARTBEAT_S
from kdbench.store import Store

TICK_S = 0.25
COUNT_S = 1.0  # between two looks into the database
ORPHANS_S = 15.0  # how long workers of a dead coordinator may take to stop
GATHER_S = 30.0  # between two looks for what was uploaded
NOBODY_HERE = (
    "no worker is started here; `kdbench worker --study {study} --storage URL` joins from any "
    "machine, with the same --root or with --upload"
)
WATCHED = "workers elsewhere go on; the same command watches them again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a search stands.

    Attributes:
        trials: Complete trials at which it ends.
        n_stopped: Trials that were not among the best at a rung.
        n_refused: Trials whose costs left them no hope of the front.
        n_failed: Trials that broke or were interrupted.
        ended: What ended it; None while it runs.
        notices: What a user should know, each told once: workers that died, trials given up.
    """

    study: str
    trials: int
    n_complete: int
    n_stopped: int
    n_refused: int
    n_infeasible: int
    n_failed: int
    n_workers: int
    seconds: float
    ended: Verdict | None = None
    notices: tuple[str, ...] = ()


class Watch:
    """Looks after a crew and tells how it goes."""

    def __init__(
        self,
        cfg: StudyConfig,
        store: Store,
        study: optuna.Study,
        locks: StudyLocks,
        on_event: Callable[[Snapshot], None],
        *,
        notices: list[str],
        connects: Callable[[], PatientStorage],
    ) -> None:
        self._cfg, self._store, self._study, self._locks = cfg, store, study, locks
        self._on_event = on_event
        self._notices = notices
        self._gathered = self._buried = time.monotonic()
        self._said: set[str] = set()
        self._connects = connects
        self._database: PatientStorage | None = None
        self._began = time.monotonic()
        self._counted = -COUNT_S
        self._trials: list[FrozenTrial] = []
        self._n_workers = 0

    def run(self, crew: AnyCrew, budget: Budget, n: int, interrupt: Interrupt) -> Snapshot:
        """From the first worker's start to the last one's end."""
        self._begin(crew, n)
        if n == 0:
            self._notices.append(NOBODY_HERE.format(study=self._cfg.name))
        try:
            crew.start(n)
            while self._goes_on(crew, budget, n):
                for member in crew.ended():
                    self._look_after(crew, member)
                interrupt.check()
                self._hear(crew)
                self.tell()
                if time.monotonic() - self._gathered > GATHER_S:
                    self.gather()
                time.sleep(TICK_S)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*([] if crew.members else [WATCHED])) from None
        finally:
            crew.stop()
            self._settle(crew.ended_jobs)
        interrupt.check()
        self._hear(crew)
        self.gather()
        ended = self._verdict(budget, self._study.get_trials(deepcopy=False))
        if ended in ("ask", "wait"):
            raise _all_failed(crew)
        if left := unmeasured(self._study, self._cfg, self._store):
            self._notices.append(
                f"target {self._cfg.target!r} has not measured trained members of the front: "
                f"trials {', '.join(map(str, left))}; the same command asks it again"
            )
        return self.tell(ended)

    def _goes_on(self, crew: AnyCrew, budget: Budget, n: int) -> bool:
        """Whether there is something to watch: workers, or none of ours and a budget left."""
        if n == 0:
            return self._is_worked_on(budget)
        return crew.is_running and not (crew.only_waits and self._is_over(budget))

    def leave(self, crew: AnyCrew, n: int) -> Snapshot:
        """Start the workers, and go."""
        self._begin(crew, n)
        crew.start(n)
        self._hear(crew)
        return self.tell()

    def _begin(self, crew: AnyCrew, n: int) -> None:
        """Nothing is left of workers of an earlier run."""
        self._store.clear_workers(self._cfg.name)
        self._n_workers = n
        self._settle(crew.ended_jobs)

    def _verdict(self, budget: Budget, trials: list[FrozenTrial]) -> Verdict:
        exhausted = is_exhausted(self._study.sampler, trials)
        return budget.verdict(trials, now_s(), exhausted=exhausted)

    def _is_over(self, budget: Budget) -> bool:
        """Whether workers that have not begun would find nothing to do."""
        trials = self._study.get_trials(deepcopy=False)
        return self._verdict(budget, trials) not in ("ask", "wait")

    def _hear(self, crew: AnyCrew) -> None:
        self._notices += crew.notices
        crew.notices.clear()

    def settle_orphans(self, interrupt: Interrupt) -> None:
        """Wait for workers of a dead coordinator to stop, then settle what was left running."""
        end = time.monotonic() + ORPHANS_S
        while self._locks.alive() and time.monotonic() < end:
            interrupt.sleep(TICK_S)
        if alive := self._locks.alive():
            self._notices.append(f"workers {', '.join(map(str, alive))} of this study run already")
        self._settle()

    def gather(self) -> None:
        """Bring here what workers of other machines have uploaded."""
        self._gathered = time.monotonic()
        name, trials = self._cfg.name, self._study.get_trials(deepcopy=False)
        if not any(UPLOADED in trial.user_attrs for trial in trials):
            return
        self._database = self._database or self._connects()
        for problem in gather(self._study, self._store, self._database).problems:
            what = name if problem.trial is None else f"trial {problem.trial}"
            said = f"{what}: the database has {problem.storage}, the folder: {problem.folder}"
            if said not in self._said:
                self._said.add(said)
                self._notices.append(said)

    def _is_worked_on(self, budget: Budget) -> bool:
        """Whether workers elsewhere have something to do, or are at it."""
        now = time.monotonic()
        if now - self._buried > HEARTBEAT_S:
            self._buried = now
            optuna.storages.fail_stale_trials(self._study)
        trials = self._trials or self._study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.RUNNING for trial in trials):
            return True
        return self._verdict(budget, trials) in ("ask", "wait")

    def tell(self, ended: Verdict | None = None) -> Snapshot:
        """How it stands; notices are told once."""
        now = time.monotonic()
        if ended or now - self._counted >= COUNT_S:
            self._trials, self._counted = self._study.get_trials(deepcopy=False), now
        return self.show(ended)

    def show(self, ended: Verdict | None = None) -> Snapshot:
        """The same, as it stood at the last look into the database."""
        own = [trial for trial in self._trials if DUPLICATE_OF not in trial.user_attrs]
        states = [trial.state for trial in own]
        snapshot = Snapshot(
            study=self._cfg.name,
            trials=self._cfg.trials,
            n_complete=len(complete_specs(self._trials)),
            n_stopped=(n_stopped := sum(map(is_stopped, own))),
            n_refused=(n_refused := sum(map(is_refused, own))),
            n_infeasible=states.count(TrialState.PRUNED) - n_stopped - n_refused,
            n_failed=states.count(TrialState.FAIL),
            n_workers=self._n_workers,
            seconds=time.monotonic() - self._began,
            ended=ended,
            notices=tuple(self._notices),
        )
        self._notices.clear()
        self._on_event(snapshot)
        return snapshot

    def _look_after(self, crew: AnyCrew, member: Member) -> None:
        """A worker ended: as it should, with an error, or killed."""
        if member.code == 0:
            return
        name, code = f"worker {member.index}", member.code or 0
        if code < 0:
            fate = member.fate
            self._settle(crew.ended_jobs)
            then = "started again" if crew.start_again(member) else "not started a third time"
            self._notices.append(f"{name} {fate}; {then}")
        elif code == INTERRUPTED_CODE:
            self._notices.append(f"{name} was interrupted; the others go on")
        elif crew.is_running:  # else the error that follows says it
            self._notices.append(f"{name} ended with an error ({member.log}); the others go on")

    def _settle(self, ended_jobs: Container[str] = ()) -> None:
        for number in settle(self._study, self._store, self._locks.is_alive, ended_jobs):
            self._notices.append(f"trial {number} lost its worker; its spec is in the queue again")
        queue_lost(self._study, self._store, self._locks.is_alive)


def _all_failed(crew: AnyCrew) -> KdbenchError:
    last = max(crew.members, key=lambda member: bool(member.code))
    return KdbenchError(
        f"every worker ended before the study did; worker {last.index} (code {last.code}) said:\n"
        f"{last.last_lines}",
        fix=f"see {last.log}; the same command goes on from what is finished",
    )
