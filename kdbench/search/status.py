"""`kdbench status`: what database, folders and Slurm know of a study; writes to none of them."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from kdbench.errors import KdbenchError, LauncherError, StoreError
from kdbench.search.attributes import BUDGET, BY, DUPLICATE_OF
from kdbench.search.budget import Budget, complete_specs, is_refused, is_stopped
from kdbench.search.dead import host
from kdbench.search.slurm import Slurm
from kdbench.search.slurm_crew import ENDED, load_arrays
from kdbench.search.storage import GRACE_S, connect_to_look, quiet, storage_errors
from kdbench.standing import (
    Origin,
    Pace,
    RunningTrial,
    SlurmTask,
    Standing,
    WorkerMood,
    WorkerStanding,
)
from kdbench.store import Store, StoredTrial, WorkerState

LAST_STAGE = "done"  # what a worker says before it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the database told.

    Attributes:
        heard_s: Seconds since the last heartbeat of each running trial, by number.
    """

    trials: Sequence[FrozenTrial]
    budget: Budget | None
    heard_s: Mapping[int, float]


def standing(store: Store, name: str, storage: str | None = None) -> Standing:
    """How a study stands.

    Args:
        store: Where its folders are; it may have none here.
        name: The study.
        storage: URL of its database; None: the file in its folder. One that is lost or silent is
            told in the notes, and the folders say what they know.

    Raises:
        StoreError: Neither folders nor database know the study.
        KdbenchError: It lists codecs and searches nothing.
    """
    url = storage or store.database_url(name)
    in_folders = name in store.studies()
    notes: list[str] = []
    told: _Told | None = None
    try:
        told = _ask(url, name)
    except StoreError as why:
        if storage is not None and not in_folders:
            raise
        notes.append(f"{why.problem}; what stands here is from the folders")
    if told is None and not notes:
        notes.append(f"the database knows no study {name!r}; what stands here is from the folders")
    if told is None or in_folders:
        settings = store.load_study(name).settings  # raises where there is none
        if "codecs" in settings:
            raise KdbenchError(
                f"study {name!r} lists codecs to measure, and has no workers",
                fix=f"`kdbench show --study {name}` shows what was measured",
            )
    else:
        notes.append(f"no folder of the study in {store.root}: the database alone tells")
        settings = {}
    states = store.workers(name) if in_folders else []
    asked = settings.get("trials")
    if told is not None and told.budget is not None:
        asked = told.budget.trials
    trials = store.trials(name) if told is None else []
    running = _running_in_folders(trials, states) if told is None else _running(told)
    return Standing(
        study=name,
        origin=_origin(told, in_folders),
        notes=(*notes, *(more := _slurm(store, name, in_folders))[1]),
        asked=asked,
        until_s=None if told is None or told.budget is None else told.budget.until_s,
        n=_counted_folders(trials) if told is None else _counted(told.trials),
        workers=_workers(states, running),
        running=running,
        slurm=more[0],
        pace=_pace_of_folders(trials) if told is None else _pace(told.trials),
    )


def _origin(told: _Told | None, in_folders: bool) -> Origin:
    if told is None:
        return "folders"
    return "database and folders" if in_folders else "database"


# --- the database ----------------------------------------------------------------------------


def _ask(url: str, name: str) -> _Told | None:
    """What the database knows; None if it knows no such study.

    Raises:
        StoreError: No database answers.
    """
    with storage_errors(url), quiet():
        storage = connect_to_look(url)
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return None
        budget = study.user_attrs.get(BUDGET)
        return _Told(
            trials=study.get_trials(deepcopy=False),
            budget=None if budget is None else Budget(**budget),
            heard_s=_heartbeats(storage, name),
        )


def _heartbeats(storage: RDBStorage, name: str) -> dict[int, float]:
    """Seconds since the last heartbeat of each running trial, by the clock of the database."""
    from optuna.storages._rdb.models import StudyModel, TrialHeartbeatModel, TrialModel

    beats = (
        select(TrialModel.number, TrialHeartbeatModel.heartbeat)
        .join(TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id)
        .join(StudyModel, StudyModel.study_id == TrialModel.study_id)
        .where(StudyModel.study_name == name, TrialModel.state == TrialState.RUNNING)
    )
    with Session(storage.engine) as session:
        now = session.execute(select(func.now())).scalar_one().replace(tzinfo=None)
        return {
            number: max(0.0, (now - beat).total_seconds())
            for number, beat in session.execute(beats)
        }


def _counted(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Trials by state; one that repeats another's spec counts with that."""
    own = [trial for trial in trials if DUPLICATE_OF not in trial.user_attrs]
    states = [trial.state for trial in own]
    stopped, refused = sum(map(is_stopped, own)), sum(map(is_refused, own))
    return {
        "complete": len(complete_specs(list(trials))),
        "running": states.count(TrialState.RUNNING),
        "queued": states.count(TrialState.WAITING),
        "infeasible": states.count(TrialState.PRUNED) - stopped - refused,
        "stopped": stopped,
        "refused": refused,
        "failed": states.count(TrialState.FAIL),
    }


def _running(told: _Told) -> tuple[RunningTrial, ...]:
    found = []
    for trial in told.trials:
        if trial.state == TrialState.RUNNING:
            by, heard_s = trial.user_attrs.get(BY, {}), told.heard_s.get(trial.number)
            running = RunningTrial(
                number=trial.number,
                worker=by.get("worker"),
                host=by.get("host"),
                job=by.get("job"),
                heard_s=heard_s,
                stale=None if heard_s is None else heard_s > GRACE_S,
            )
            found.append(running)
    return tuple(found)


def _pace(trials: Sequence[FrozenTrial]) -> Pace | None:
    """From the seconds of all that ended; begin and end of a trial are by one clock."""
    ended = [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trial in trials
        if trial.datetime_start is not None and trial.datetime_complete is not None
    ]
    return _of(len(complete_specs(list(trials))), sum(ended))


def _of(n_complete: int, seconds: float) -> Pace | None:
    if n_complete == 0 or seconds <= 0:
        return None
    return Pace(n_trials=n_complete, worker_s_per_trial=seconds / n_complete)


# --- the folders -----------------------------------------------------------------------------


def _counted_folders(trials: Sequence[StoredTrial]) -> dict[str, int]:
    states = [trial.state for trial in trials]
    names = ("complete", "running", "infeasible", "stopped", "refused", "failed")
    return {name: sum(state == name for state in states) for name in names}


def _pace_of_folders(trials: Sequence[StoredTrial]) -> Pace | None:
    done = [trial.result for trial in trials if trial.result is not None]
    return _of(len(done), sum(sum(result.seconds.values()) for result in done))


def _running_in_folders(
    trials: Sequence[StoredTrial], states: Sequence[WorkerState]
) -> tuple[RunningTrial, ...]:
    """A folder cannot tell whether its trial runs or its process died."""
    by = {state.trial: state for state in states}
    return tuple(
        RunningTrial(
            number=trial.number,
            worker=None if (state := by.get(trial.number)) is None else state.index,
            host=None if state is None else state.host,
            job=None if state is None else state.job,
            heard_s=None,
            stale=None,
        )
        for trial in trials
        if trial.state == "running"
    )


def _workers(
    states: Sequence[WorkerState], running: Sequence[RunningTrial]
) -> tuple[WorkerStanding, ...]:
    """Those who told what they do, and those of whom the database alone knows."""
    now_s = time.time()
    beats = {trial.number: trial.heard_s for trial in running}
    known = {(state.index, state.host or host()): _worker(state, now_s, beats) for state in states}
    for trial in running:
        if trial.worker is None or trial.host is None:
            continue
        key = (trial.worker, trial.host)
        if key not in known:
            known[key] = WorkerStanding(
                index=trial.worker,
                host=trial.host,
                pid=None,
                job=trial.job,
                mood="silent" if trial.stale or trial.heard_s is None else "works",
                trial=trial.number,
                heard_s=trial.heard_s,
            )
    return tuple(known[key] for key in sorted(known))


def _worker(state: WorkerState, now_s: float, beats: Mapping[int, float | None]) -> WorkerStanding:
    heard_s = max(0.0, now_s - state.updated_s)
    beat = None if state.trial is None else beats.get(state.trial)
    said = WorkerStanding(
        index=state.index,
        host=state.host,
        pid=state.pid,
        job=state.job,
        mood="works",
        trial=state.trial,
        stage=state.progress.stage,
        step=state.progress.step,
        n_steps=state.progress.n_steps,
        heard_s=heard_s if beat is None else min(heard_s, beat),
    )
    return replace(said, mood=_mood(said))


def _mood(worker: WorkerStanding) -> WorkerMood:
    if worker.stage == LAST_STAGE:
        return "done"
    is_here = worker.host == host() and worker.pid is not None
    if is_here and not psutil.pid_exists(worker.pid or 0):
        return "gone"
    return "silent" if worker.heard_s is None or worker.heard_s > GRACE_S else "works"


# --- Slurm -----------------------------------------------------------------------------------


def _slurm(
    store: Store, name: str, in_folders: bool
) -> tuple[tuple[SlurmTask, ...], tuple[str, ...]]:
    """Tasks that run or wait, and what could not be asked."""
    arrays = load_arrays(store, name) if in_folders else None
    if arrays is None or not arrays.jobs:
        return (), ()
    jobs = ", ".join(map(str, arrays.jobs))
    if shutil.which("squeue") is None:
        return (), (f"Slurm has workers of this study (job {jobs}), and squeue is not on PATH",)
    try:
        tasks = Slurm().tasks(arrays.jobs, arrays.name)
    except LauncherError as why:
        return (), (f"Slurm had workers of this study (job {jobs}): {why.problem}",)
    return tuple(
        SlurmTask(job=task.name, state=task.state, reason=task.reason, node=task.node)
        for task in tasks
        if task.state not in ENDED
    ), ()
