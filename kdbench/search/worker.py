"""One worker: asks for a trial, runs it, tells what it found, until the study's budget is spent."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kdbench.config import StudyConfig
from kdbench.errors import CodecError, KdbenchError, StoreError
from kdbench.records import TrialResult
from kdbench.search.asking import Asking, asking
from kdbench.search.attributes import BY, INTERRUPTED
from kdbench.search.budget import Budget, Verdict, set_budget, verdict
from kdbench.search.dead import enqueue_again, host, settle
from kdbench.search.front import measure_front
from kdbench.search.ground import Ground, measure_anchor
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import ASK, FRONT, StudyLocks
from kdbench.search.reporter import Reporter
from kdbench.search.samplers import make_sampler
from kdbench.search.storage import connect, quiet, storage_errors
from kdbench.search.study import join, start_points
from kdbench.search.task import Objective, Run, TrialFailed, TwinRuns
from kdbench.search.teachers import require_cards
from kdbench.search.twins import train_twins
from kdbench.store import Store

WAIT_S = 0.3
PATIENCE_S = 10.0  # for a predecessor of the same index to be gone
LONGEST_PAUSE_S = 30.0
IN_A_ROW = 3
PARENT = "KDBENCH_COORDINATOR"  # environment: pid of who started us and must outlive us


def work(
    name: str,
    store: Store,
    *,
    index: int | None = None,
    storage: str | None = None,
    run: Run | None = None,
) -> Verdict:
    """Run trials of a study that has begun until its budget is spent; says what ended it.

    The first worker measures the anchor before its first trial, while the others begin theirs; who
    ends first measures the trained members of the front, and all train its twins, where the study
    asks for them. Neither is the coordinator's to do: some
    energy meters count the children of who measures.

    Args:
        name: The study.
        store: Where its folders are.
        index: Of this worker; None takes the lowest that is free on this host.
        storage: URL of its database; None: the file in its folder.
        run: Runs one trial; None: `trial.run_trial`.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM, or the coordinator died: the running trial is marked as
            failed, and its spec is in the queue again.
        KdbenchError: Nothing can be kept any more, or three trials in a row broke.
    """
    store.load_study(name)
    url, locks = storage or store.database_url(name), StudyLocks(store, name)
    if index is None:
        index = next(i for i in count() if not locks.is_alive(i))
    parent = os.environ.get(PARENT)
    with (
        Interrupt(int(parent) if parent else None) as interrupt,
        locks.worker(index, patience_s=PATIENCE_S),
        storage_errors(url),
        quiet(),
    ):
        database = connect(url, create=False)
        study, cfg, ground = join(name, database, store)
        elsewhere = asking(cfg, ground, database, url)
        settle(study, store, lambda other: other != index and locks.is_alive(other))
        study.sampler = make_sampler(
            cfg,
            index,
            _n_asked_by(study, index),
            n_enqueued=len(start_points(cfg)),
            teacher_coordinates=ground.teacher_coordinates,
        )
        objective = Objective(
            cfg=cfg,
            ground=ground,
            store=store,
            run=_run_trial(run, elsewhere),
            worker=index,
            interrupt=interrupt,
            asking=locks.lock(ASK),
            report=Reporter(store, name, index),
        )
        if run is None and index == 0:
            objective.report.begin(None, "anchor")
            with interrupt.allowed():
                _check_ground(study, cfg, ground, store)
        ended = _Worker(study, objective).loop()
        if run is None and locks.lock(FRONT).take():  # kept until this process ends
            with interrupt.allowed():
                measure_front(study, cfg, ground, store, objective.report.tell, elsewhere=elsewhere)
        if run is None:
            with interrupt.allowed():
                train_twins(study, cfg, ground, store, locks=locks, tell=objective.report.tell)
            objective.report.begin(None, "done")
        return ended


def _check_ground(study: optuna.Study, cfg: StudyConfig, ground: Ground, store: Store) -> None:
    """Measures teachers and anchor; one that is not what it says stops all workers of the study."""
    try:
        require_cards(cfg, ground, store)
        measure_anchor(cfg, ground, store)
    except CodecError:
        set_budget(study, Budget(trials=cfg.trials, until_s=time.time()))
        raise


def _run_trial(run: Run | None, elsewhere: Asking | None) -> Run:
    """`run`, or the real one; told who measures, where that is not this machine."""
    if run is None:
        from kdbench.trial import run_trial

        run = run_trial
    told = cast("Callable[..., TrialResult]", run)
    return run if elsewhere is None else partial(told, elsewhere=elsewhere)


def _n_asked_by(study: optuna.Study, index: int) -> int:
    """Trials that a worker of this index and host asked for before."""
    known = [trial.user_attrs.get(BY) for trial in study.get_trials(deepcopy=False)]
    return sum(by is not None and (by["worker"], by["host"]) == (index, host()) for by in known)


class _Worker:
    """The loop: `study.optimize` for one trial at a time, since heartbeats exist only there."""

    def __init__(self, study: optuna.Study, objective: Objective) -> None:
        self._study, self._objective = study, objective
        self._failures: deque[TrialFailed] = deque(maxlen=IN_A_ROW)
        self._n_twins = 0

    def loop(self) -> Verdict:
        """Runs until the budget is spent; says what ended it."""
        report = self._objective.report
        while True:
            report.begin(None, "asking")
            with self._turn():
                now = verdict(self._study)
                if now == "ask":
                    self._one_trial()
            if now == "wait":
                report.begin(None, "waiting")
                optuna.storages.fail_stale_trials(self._study)
                self._objective.interrupt.sleep(WAIT_S)
            elif now != "ask":
                report.begin(None, "done")
                return now

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """This host's turn to ask, until the objective knows its spec.

        Without it two workers would both take the last trial of the budget.
        """
        while not self._objective.asking.take():
            self._objective.interrupt.sleep(WAIT_S / 10)
        try:
            self._objective.interrupt.check()
            yield
        finally:
            self._objective.asking.release()

    def _one_trial(self) -> None:
        try:
            self._study.optimize(self._objective, n_trials=1)
        except TwinRuns:
            self._n_twins += 1
            self._objective.interrupt.sleep(min(LONGEST_PAUSE_S, WAIT_S * 2**self._n_twins))
            return
        except TrialFailed as why:
            self._failed(why)
            return
        except (KeyboardInterrupt, StoreError):
            self._queue_again()
            raise
        except UnboundLocalError as why:  # Optuna 5.0.0: hides that the database went away
            hidden = why.__context__ or why
            raise hidden from hidden.__cause__
        except UpdateFinishedTrialError:
            return  # declared dead while this process was paused: somebody else runs it again
        except ValueError as why:
            if "Cannot tell" not in str(why):  # likewise (optuna#5470)
                raise
            return
        self._n_twins = 0
        self._failures.clear()

    def _failed(self, why: TrialFailed) -> None:
        """Go on, unless trial after trial breaks in the same way."""
        self._failures.append(why)
        if len(self._failures) < IN_A_ROW:
            return
        if all(failure.unexpected for failure in self._failures):
            raise KdbenchError(f"{IN_A_ROW} trials in a row broke, last {why.problem}", fix=why.fix)
        if len({failure.problem for failure in self._failures}) == 1:
            raise KdbenchError(f"{IN_A_ROW} trials in a row failed: {why.problem}", fix=why.fix)

    def _queue_again(self) -> None:
        """Put the spec of an interrupted trial into the queue, once it is told as failed."""
        number = self._objective.number
        if number is None:
            return
        trial = self._study.get_trials()[number]
        if INTERRUPTED in trial.user_attrs and trial.state == TrialState.FAIL:
            enqueue_again(self._study, trial)
