"""`kdbench search`: prepares a study, starts workers, watches them, goes on where it was left.

Workers are processes of this machine (`crew`) or tasks of a Slurm array (`slurm_crew`).
"""

import os
import sys
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError, LauncherError
from kdbench.search import ground as grounds
from kdbench.search.asking import close
from kdbench.search.attributes import DUPLICATE_OF, UPLOADED
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
from kdbench.search.collect import gather
from kdbench.search.crew import COMMAND, AnyCrew, AnyMember, Crew
from kdbench.search.dead import queue_lost, settle
from kdbench.search.front import unmeasured
from kdbench.search.grid import GridSampler, is_exhausted
from kdbench.search.ground import Ground
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import StudyLocks
from kdbench.search.patience import Patience, PatientStorage
from kdbench.search.slurm import Slurm
from kdbench.search.slurm_crew import SlurmCrew
from kdbench.search.slurm_ground import survey_by_slurm
from kdbench.search.storage import HEARTBEAT_S, connect, quiet, storage_errors
from kdbench.search.study import begin
from kdbench.search.twins import untwinned
from kdbench.store import Store

TICK_S = 0.25
COUNT_S = 1.0  # between two looks into the database
ORPHANS_S = 15.0  # how long workers of a dead coordinator may take to stop
GATHER_S = 30.0  # between two looks for what was uploaded
INTERRUPTED_CODE = 130
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


def search(
    cfg: StudyConfig,
    store: Store,
    *,
    workers: int | None = None,
    storage: str | None = None,
    on_event: Callable[[Snapshot], None] = lambda _: None,
    ground: Ground | None = None,
    command: Sequence[str] = COMMAND,
    detach: bool = False,
) -> Snapshot:
    """Run the study until its budget is spent; says how it stands then.

    Args:
        cfg: The study; one that has begun goes on, if it is the same.
        store: Where its folders are, or will be.
        workers: Processes; None: `cfg.workers`, or as many as cores (one on a GPU); of Slurm they
            must be told. With 0 the study only begins here, and workers of other machines are
            watched.
        storage: URL of the database; None: a file in the study's folder.
        on_event: Told how the search stands, four times a second.
        ground: What the machine adds; None: `ground.survey` finds it.
        command: What runs kdbench.
        detach: Leave the workers to Slurm as soon as it has them.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all is kept, and the same call goes on.
        KdbenchError: The study cannot begin, Slurm refuses it, or every worker ended with an error.
    """
    url = storage or store.database_url(cfg.name)
    slurm = _slurm(cfg, url, workers, detach=detach)
    locks = StudyLocks(store, cfg.name)
    store.require_writable()
    with Interrupt() as interrupt, locks.coordinator(), storage_errors(url), quiet():
        news: list[str] = []
        watches: list[_Watch] = []

        def say(text: str) -> None:
            news.append(text)
            for each in watches:
                each.show()

        patience = Patience(sleep=interrupt.sleep, tell=say)
        with interrupt.allowed():
            study, found = begin(
                cfg,
                store,
                url,
                lambda: ground or _survey(cfg, store, command),
                patience,
                on_wait=lambda text: print(text, file=sys.stderr, flush=True),
            )
        connects = partial(connect, url, create=False, patience=patience)
        watch = _Watch(cfg, store, study, locks, on_event, notices=news, connects=connects)
        watches.append(watch)
        left: list[object] = [*untwinned(study, cfg, store), *unmeasured(study, cfg, store)]
        if n_complete(study) >= cfg.trials and not left:
            watch.gather()
            close(cfg, url, "complete")
            return watch.tell("complete")
        crew: AnyCrew
        if slurm is None:
            watch.settle_orphans(interrupt)
            crew = Crew(store, cfg.name, url, command=command, on_cpu=found.device == "cpu")
        else:
            crew = SlurmCrew(slurm, cfg, store, url, command=command)
        until_s = None if cfg.timeout_s is None else now_s() + cfg.timeout_s
        listed = cfg.sampler.name == "listed"
        asks = 1 if listed else ASKS_PER_TRIAL
        budget = Budget(trials=cfg.trials, until_s=until_s, asks_per_trial=asks)
        set_budget(study, budget)
        if cfg.sampler.name == "grid":  # knows when it is through
            study.sampler = GridSampler(cfg, found.teacher_coordinates)
        n = _n_workers(cfg, workers, found, study, len(left))
        if detach:
            return watch.leave(crew, n)
        end = watch.run(crew, budget, n, interrupt)
        close(cfg, url, str(end.ended))
        return end


def _slurm(cfg: StudyConfig, url: str, workers: int | None, *, detach: bool) -> Slurm | None:
    """The cluster that is to run the study; None where this machine is.

    Raises:
        LauncherError: It cannot: no such partition, nobody said how many, or its workers could
            not all write the database.
    """
    if cfg.launcher.name == "local":
        if detach:
            raise LauncherError(
                "`--detach` needs `--launcher slurm`: workers here end with their search",
                fix="leave `--detach` out, or let Slurm run the study",
            )
        return None
    slurm = Slurm()
    slurm.require_partition(cfg.launcher.partition)
    if (workers or cfg.workers) is None:
        raise LauncherError(
            "`--launcher slurm` needs the number of workers: a cluster has no number of cores",
            fix="say how many with `--workers N`, or `workers: N` in the study file",
        )
    if url.startswith("sqlite") and not slurm.is_only_here(cfg.launcher.partition):
        raise LauncherError(
            "workers of several hosts would write one SQLite file over the network, which can "
            "damage it",
            fix="start a PostgreSQL that the nodes reach and name it with KDBENCH_STORAGE, "
            "postgresql://USER@HOST/DATABASE",
        )
    return slurm


def _survey(cfg: StudyConfig, store: Store, command: Sequence[str]) -> Ground:
    """What the machine adds to the study: the machine that its workers will have."""
    if cfg.launcher.name == "slurm":
        return survey_by_slurm(cfg, store, command)
    return grounds.survey(cfg, store)


def _n_workers(
    cfg: StudyConfig, asked: int | None, ground: Ground, study: optuna.Study, n_twins: int
) -> int:
    """Processes to start: never more than trials, or twins of finished ones, are left."""
    by_device = len(os.sched_getaffinity(0)) if ground.device == "cpu" else 1
    wanted = cfg.workers if asked is None else asked
    left = max(cfg.trials - n_complete(study), n_twins)
    return min(by_device if wanted is None else wanted, left)


class _Watch:
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
        ended = self._verdict(budget)
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

    def _verdict(self, budget: Budget) -> Verdict:
        trials = self._study.get_trials(deepcopy=False)
        exhausted = is_exhausted(self._study.sampler, trials)
        return budget.verdict(trials, now_s(), exhausted=exhausted)

    def _is_over(self, budget: Budget) -> bool:
        """Whether workers that have not begun would find nothing to do."""
        return self._verdict(budget) not in ("ask", "wait")

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
        exhausted = is_exhausted(self._study.sampler, trials)
        return budget.verdict(trials, now_s(), exhausted=exhausted) in ("ask", "wait")

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

    def _look_after(self, crew: AnyCrew, member: AnyMember) -> None:
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
