"""One worker: asks for a trial, runs it, tells what it found, until the study's budget is spent."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kdbench.config import StudyConfig
from kdbench.errors import CodecError, KdbenchError, StoreError
from kdbench.records import TrialResult
from kdbench.search.asking import Asking, asking
from kdbench.search.attributes import BY, INTERRUPTED
from kdbench.search.budget import Budget, Verdict, now_s, set_budget, verdict
from kdbench.search.collect import fetch
from kdbench.search.dead import enqueue_again, is_here, settle, settle_unclaimed, slurm_job
from kdbench.search.front import measure_front
from kdbench.search.ground import Ground, measure_anchor, require_same_device
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import FRONT, UPLOAD, StudyLocks
from kdbench.search.patience import Patience, PatientStorage
from kdbench.search.reporter import Reporter
from kdbench.search.roots import enter
from kdbench.search.samplers import make_sampler
from kdbench.search.shelf import Shelf
from kdbench.search.storage import connect, quiet, storage_errors
from kdbench.search.study import join, require_same_protocol, start_points
from kdbench.search.task import Objective, Run, TrialFailed, TwinRuns
from kdbench.search.teachers import require_cards
from kdbench.search.turn import TurnLost, seat, turn_of
from kdbench.search.twins import train_twins
from kdbench.search.upload import Uploader
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
    upload: bool = False,
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
        index: Of this worker, if no other one has it; otherwise the lowest that is free in this
            root.
        storage: URL of its database; None: the file in its folder.
        upload: Whether to work where the study's own root is not at hand: all goes to the database.
        run: Runs one trial; None: `trial.run_trial`.

    Raises:
        TimeUp: SIGUSR1: the time that a scheduler gave is nearly over; as the next one.
        KeyboardInterrupt: Ctrl-C, SIGTERM, or the coordinator died: the running trial is marked as
            failed, and its spec is in the queue again.
        KdbenchError: Nothing can be kept any more, or three trials in a row broke.
    """
    if storage is None:
        store.load_study(name)
    url, locks = storage or store.database_url(name), StudyLocks(store, name)
    parent = os.environ.get(PARENT)
    with (
        Interrupt(int(parent) if parent else None) as interrupt,
        storage_errors(url),
        quiet(),
        closing(
            connect(url, create=False, patience=Patience(sleep=interrupt.sleep, tell=_say))
        ) as database,
    ):
        study, cfg, ground = join(name, database)
        holds_copies = enter(study, ground, store, upload=upload)
        require_same_protocol(store.load_study(name))
        if run is None:
            require_same_device(cfg, ground)
        elsewhere = asking(cfg, ground, database, url)
        with locks.worker(index, patience_s=PATIENCE_S) as own:
            if index not in (None, own):
                _say(f"another process is worker {index}; this one is worker {own}")
            uploader = None
            if holds_copies:
                shelf = Shelf(database)
                uploader = Uploader(study, store, shelf, locks.lock(UPLOAD))
            elif upload:
                _say("this root is the study's own: nothing needs to be uploaded")
            objective = Objective(
                cfg=cfg,
                ground=ground,
                store=store,
                run=_run_trial(run, elsewhere),
                worker=own,
                interrupt=interrupt,
                asking=turn_of(name, locks, database),
                report=Reporter(store, name, own),
                uploader=uploader,
                fetch=partial(fetch, study, store, database),
            )
            measures = run is None
            return _work(study, objective, database, locks, elsewhere, measures=measures)


def _work(
    study: optuna.Study,
    objective: Objective,
    database: PatientStorage,
    locks: StudyLocks,
    elsewhere: Asking | None,
    *,
    measures: bool,
) -> Verdict:
    """All that a worker does once it has joined.

    Args:
        study: The study.
        objective: What it trains with.
        database: Of the study.
        locks: Of its root.
        elsewhere: The target that measures in this machine's place.
        measures: Whether anchor, front and twins are its business, too.
    """
    cfg, ground, store = objective.cfg, objective.ground, objective.store
    index, interrupt, report = objective.worker, objective.interrupt, objective.report
    own_job = () if (job := slurm_job()) is None else (job,)  # its predecessor in it is gone
    settle(study, store, lambda other: other != index and locks.is_alive(other), own_job)
    study.sampler = make_sampler(
        cfg,
        seat(database, index, str(store.root)),
        _n_asked_by(study, store, index),
        n_enqueued=len(start_points(cfg)),
        teacher_coordinates=ground.teacher_coordinates,
    )
    _upload_rest(objective)
    if measures and index == 0:
        report.begin(None, "anchor")
        with interrupt.allowed():
            _check_ground(study, cfg, ground, store)
    ended = _Worker(study, objective).loop()
    if measures and locks.lock(FRONT).take():  # kept until this process ends
        with interrupt.allowed():
            measure_front(study, cfg, ground, store, report.tell, elsewhere=elsewhere)
    if measures:
        with interrupt.allowed():
            train_twins(study, cfg, ground, store, locks=locks, tell=report.tell)
    _upload_rest(objective)
    if measures:
        report.begin(None, "done")
    return ended


def _upload_rest(objective: Objective) -> None:
    """What an earlier life of a worker here, or whoever measured the front, left in this root."""
    if objective.uploader is not None:
        objective.uploader.rest(lambda: objective.interrupt.sleep(WAIT_S))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_ground(study: optuna.Study, cfg: StudyConfig, ground: Ground, store: Store) -> None:
    """Measures teachers and anchor; one that is not what it says stops all workers of the study."""
    try:
        require_cards(cfg, ground, store)
        measure_anchor(cfg, ground, store)
    except CodecError:
        set_budget(study, Budget(trials=cfg.trials, until_s=now_s()))
        raise


def _run_trial(run: Run | None, elsewhere: Asking | None) -> Run:
    """`run`, or the real one; told who measures, where that is not this machine."""
    if run is None:
        from kdbench.trial import run_trial

        run = run_trial
    told = cast("Callable[..., TrialResult]", run)
    return run if elsewhere is None else partial(told, elsewhere=elsewhere)


def _n_asked_by(study: optuna.Study, store: Store, index: int) -> int:
    """Trials that a worker of this index, host and root asked for before."""
    known = [trial.user_attrs.get(BY) for trial in study.get_trials(deepcopy=False)]
    return sum(by is not None and by["worker"] == index and is_here(by, store) for by in known)


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
        """Our turn to ask, until the objective knows its spec.

        Without it two workers would both take the last trial of the budget.
        """
        asking = self._objective.asking
        try:
            asking.wait()
            self._objective.interrupt.check()
            settle_unclaimed(self._study, is_for_all=asking.is_for_all)
            yield
        finally:
            asking.release()

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
        except TurnLost:
            self._queue_again()
            return
        except (KeyboardInterrupt, StoreError):
            self._queue_again()
            raise
        # Optuna 5.0.0 hides that the database went away, or can be read and not written
        except (UnboundLocalError, AssertionError) as why:
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
