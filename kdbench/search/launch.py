"""`kdbench search`: prepares a study, starts workers, watches them, goes on where it was left."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError
from kdbench.search import ground as grounds
from kdbench.search.attributes import DUPLICATE_OF
from kdbench.search.budget import (
    ASKS_PER_TRIAL,
    Budget,
    Verdict,
    complete_specs,
    is_refused,
    is_stopped,
    n_complete,
    now_s,
    set_budget,
)
from kdbench.search.crew import COMMAND, Crew, Member
from kdbench.search.dead import queue_lost, settle
from kdbench.search.grid import GridSampler, is_exhausted
from kdbench.search.ground import Ground
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import StudyLocks
from kdbench.search.storage import quiet, storage_errors
from kdbench.search.study import begin
from kdbench.search.twins import untwinned
from kdbench.store import Store

TICK_S = 0.25
COUNT_S = 1.0  # between two looks into the database
ORPHANS_S = 15.0  # how long workers of a dead coordinator may take to stop
INTERRUPTED_CODE = 130


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


def search(
    cfg: StudyConfig,
    store: Store,
    *,
    workers: int | None = None,
    storage: str | None = None,
    on_event: Callable[[Snapshot], None] = lambda _: None,
    ground: Ground | None = None,
    command: Sequence[str] = COMMAND,
) -> Snapshot:
    """Run the study until its budget is spent; says how it stands then.

    Args:
        cfg: The study; one that has begun goes on, if it is the same.
        store: Where its folders are, or will be.
        workers: Processes; None: `cfg.workers`, or as many as cores (one on a GPU).
        storage: URL of the database; None: a file in the study's folder.
        on_event: Told how the search stands, four times a second.
        ground: What the machine adds; None: `ground.survey` finds it.
        command: What runs kdbench.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all is kept, and the same call goes on.
        KdbenchError: The study cannot begin, or every worker ended with an error.
    """
    url = storage or store.database_url(cfg.name)
    locks = StudyLocks(store, cfg.name)
    store.require_writable()
    with Interrupt() as interrupt, locks.coordinator(), storage_errors(url), quiet():
        with interrupt.allowed():
            study, found = begin(cfg, store, url, lambda: ground or grounds.survey(cfg, store))
        watch = _Watch(cfg, store, study, locks, on_event)
        left = untwinned(study, cfg, store)
        if n_complete(study) >= cfg.trials and not left:
            return watch.tell("complete")
        watch.settle_orphans(interrupt)
        crew = Crew(store, cfg.name, url, command=command, on_cpu=found.device == "cpu")
        until_s = None if cfg.timeout_s is None else now_s() + cfg.timeout_s
        listed = cfg.sampler.name == "listed"
        asks = 1 if listed else ASKS_PER_TRIAL
        budget = Budget(trials=cfg.trials, until_s=until_s, asks_per_trial=asks)
        set_budget(study, budget)
        if cfg.sampler.name == "grid":  # knows when it is through
            study.sampler = GridSampler(cfg, found.teacher_coordinates)
        return watch.run(crew, budget, _n_workers(cfg, workers, found, study, len(left)), interrupt)


def _n_workers(
    cfg: StudyConfig, asked: int | None, ground: Ground, study: optuna.Study, n_twins: int
) -> int:
    """Processes to start: never more than trials, or twins of finished ones, are left."""
    by_device = len(os.sched_getaffinity(0)) if ground.device == "cpu" else 1
    return min(asked or cfg.workers or by_device, max(cfg.trials - n_complete(study), n_twins))


class _Watch:
    """Looks after a crew and tells how it goes."""

    def __init__(
        self,
        cfg: StudyConfig,
        store: Store,
        study: optuna.Study,
        locks: StudyLocks,
        on_event: Callable[[Snapshot], None],
    ) -> None:
        self._cfg, self._store, self._study, self._locks = cfg, store, study, locks
        self._on_event = on_event
        self._began = time.monotonic()
        self._counted = -COUNT_S
        self._trials: list[FrozenTrial] = []
        self._notices: list[str] = []
        self._n_workers = 0

    def run(self, crew: Crew, budget: Budget, n: int, interrupt: Interrupt) -> Snapshot:
        """From the first worker's start to the last one's end."""
        self._store.clear_workers(self._cfg.name)
        self._n_workers = n
        try:
            crew.start(n)
            while crew.is_running:
                for member in crew.ended():
                    self._look_after(crew, member)
                interrupt.check()
                self.tell()
                time.sleep(TICK_S)
        finally:
            crew.stop()
            self._settle()
        interrupt.check()
        trials = self._study.get_trials(deepcopy=False)
        exhausted = is_exhausted(self._study.sampler, trials)
        ended = budget.verdict(trials, now_s(), exhausted=exhausted)
        if ended in ("ask", "wait"):
            raise _all_failed(crew)
        return self.tell(ended)

    def settle_orphans(self, interrupt: Interrupt) -> None:
        """Wait for workers of a dead coordinator to stop, then settle what was left running."""
        end = time.monotonic() + ORPHANS_S
        while self._locks.alive() and time.monotonic() < end:
            interrupt.sleep(TICK_S)
        if alive := self._locks.alive():
            self._notices.append(f"workers {', '.join(map(str, alive))} of this study run already")
        self._settle()

    def tell(self, ended: Verdict | None = None) -> Snapshot:
        """How it stands; notices are told once."""
        now = time.monotonic()
        if ended or now - self._counted >= COUNT_S:
            self._trials, self._counted = self._study.get_trials(deepcopy=False), now
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
            seconds=now - self._began,
            ended=ended,
            notices=tuple(self._notices),
        )
        self._notices.clear()
        self._on_event(snapshot)
        return snapshot

    def _look_after(self, crew: Crew, member: Member) -> None:
        """A worker ended: as it should, with an error, or killed."""
        if member.code == 0:
            return
        name, code = f"worker {member.index}", member.code or 0
        if code < 0:
            self._settle()
            then = "started again" if crew.start_again(member) else "not started a third time"
            self._notices.append(f"{name} was killed by signal {-code}{_hint(code)}; {then}")
        elif code == INTERRUPTED_CODE:
            self._notices.append(f"{name} was interrupted; the others go on")
        elif crew.is_running:  # else the error that follows says it
            self._notices.append(f"{name} ended with an error ({member.log}); the others go on")

    def _settle(self) -> None:
        for number in settle(self._study, self._store, self._locks.is_alive):
            self._notices.append(f"trial {number} lost its worker; its spec is in the queue again")
        queue_lost(self._study, self._store, self._locks.is_alive)


def _hint(code: int) -> str:
    return ", as Linux does when memory runs out" if -code == signal.SIGKILL else ""


def _all_failed(crew: Crew) -> KdbenchError:
    last = max(crew.members, key=lambda member: bool(member.code))
    return KdbenchError(
        f"every worker ended before the study did; worker {last.index} (code {last.code}) said:\n"
        f"{last.last_lines}",
        fix=f"see {last.log}; the same command goes on from what is finished",
    )
