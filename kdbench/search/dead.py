"""Trials that nobody runs any more: interrupted ones, and those whose process died.

A process may die between any two lines. What it can leave behind, and who puts it right:

    asked, not yet said what it trains  `settle_unclaimed`, by who has the turn to ask
    running                             `settle`, by who notices first; on other hosts the heartbeat
    told as failed, not queued again    `queue_lost`, when a search begins and when a worker dies
    result kept, not told               its spec is queued again, and told what is there (`task`)

Who is alive is told by the locks in the root's folder of workers, so a worker is known by its host
and its root: two machines of one name, or two roots on one machine, do not bury each other's.
"""

import os
import socket
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.files import sweep
from kdbench.records import canonical_json
from kdbench.search import storage
from kdbench.search.attributes import BY, DUPLICATE_OF, INTERRUPTED, PROBLEM, SPEC_HASH
from kdbench.search.storage import retry
from kdbench.store import Failure, Store, load_failure

DIED = "its worker died"


def host() -> str:
    """Name of this machine, as trials remember it."""
    return socket.gethostname()


def slurm_job() -> str | None:
    """The task of a Slurm array that this process is, as `ARRAY_INDEX`; None elsewhere."""
    array, index = (os.environ.get(f"SLURM_ARRAY_{key}_ID") for key in ("JOB", "TASK"))
    return None if array is None or index is None else f"{array}_{index}"


def who(worker: int, store: Store) -> dict[str, int | str]:
    """What a trial remembers of the worker that runs it, this process."""
    job, root = slurm_job(), str(store.root)
    known: dict[str, int | str] = {"worker": worker, "host": host(), "root": root}
    known["pid"] = os.getpid()
    return known if job is None else {**known, "job": job}


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put what an interrupted trial was to try back into the queue."""
    if params := _asked(trial):
        study.enqueue_trial(dict(params))


def _asked(trial: FrozenTrial) -> Mapping[str, object]:
    """What it was told to try, as far as that is known."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def settle(
    study: optuna.Study,
    store: Store,
    is_alive: Callable[[int], bool],
    ended_jobs: Container[str] = (),
) -> list[int]:
    """Fail the RUNNING trials of this root's dead workers here and queue them again; their numbers.

    Without this a dead trial stays RUNNING until its heartbeat is found stale, minutes later. That
    is how trials of other hosts end, and one that died before it said who runs it.

    Args:
        study: The study.
        store: Its folders: those of dead trials are marked.
        is_alive: Whether the worker of an index lives on this host.
        ended_jobs: Tasks of Slurm arrays whose workers are gone, whatever their host.
    """
    settled = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        by = trial.user_attrs.get(BY)
        if by is None:
            continue
        dead = is_here(by, store) and not is_alive(by["worker"])
        dead = dead or by.get("job") in ended_jobs
        if dead and _fail(study, trial):
            _mark_dead(store, study.study_name, trial.number)
            retry(study, study.get_trials()[trial.number])
            settled.append(trial.number)
    return settled


def is_here(by: Mapping[str, Any], store: Store) -> bool:
    """Whether a worker that said this of itself belongs to this host and root."""
    root = str(store.root)
    return bool(by["host"] == host() and by.get("root", root) == root)


def settle_unclaimed(study: optuna.Study, *, is_for_all: bool) -> None:
    """Fail the RUNNING trials that never said what they train, and queue them again.

    Their workers lost their turn to ask, or died before the first heartbeat, or the connection
    broke when the trial was made: nobody else would ever find them, and all would wait for them.

    Args:
        study: The study.
        is_for_all: Whether the caller's turn to ask holds on all machines; else those of another
            one have `GRACE_S` to say what they train.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if SPEC_HASH in trial.user_attrs or not (is_for_all or _is_old(trial.datetime_start)):
            continue
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
            if _fail(study, trial):
                enqueue_again(study, trial)


def _is_old(moment: datetime | None) -> bool:
    return moment is not None and moment < datetime.now() - timedelta(seconds=storage.GRACE_S)


def queue_lost(study: optuna.Study, store: Store, is_alive: Callable[[int], bool]) -> list[int]:
    """Queue again what was told as failed by somebody who died before he could; their numbers.

    Lost are failed trials that did not end by themselves (`attributes.PROBLEM`, or their folder
    says why) and were not left to a twin, of which no other trial tries or has found the same.

    Args:
        study: The study.
        store: Its folders.
        is_alive: As for `settle`: who lives queues his own trials.
    """
    trials = study.get_trials(deepcopy=False)
    last = {_key(trial): trial.number for trial in trials if not _is_left(trial)}
    decided = {_key(t) for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
    again = {number for t in trials for number in t.system_attrs.get("retry_history", ())}
    found = []
    for trial in trials:
        if trial.state != TrialState.FAIL or not _asked(trial) or _is_left(trial):
            continue
        key = _key(trial)
        tried = trial.number in again or key in decided or last[key] > trial.number
        if tried or _may_be_queued(trial, store, is_alive):
            continue
        if _ended_by_itself(study, store, trial):
            continue
        if INTERRUPTED in trial.user_attrs:
            enqueue_again(study, trial)
        else:
            retry(study, study.get_trials()[trial.number])
        found.append(trial.number)
    return found


def _may_be_queued(trial: FrozenTrial, store: Store, is_alive: Callable[[int], bool]) -> bool:
    """Whether its worker may be about to; one elsewhere has `GRACE_S` for it."""
    by = trial.user_attrs.get(BY)
    if by is None:
        return False
    return is_alive(by["worker"]) if is_here(by, store) else not _is_old(trial.datetime_complete)


def _key(trial: FrozenTrial) -> str:
    return canonical_json(_asked(trial))


def _is_left(trial: FrozenTrial) -> bool:
    """Whether it was left to a twin that ran just then."""
    return trial.state == TrialState.FAIL and DUPLICATE_OF in trial.user_attrs


def _ended_by_itself(study: optuna.Study, store: Store, trial: FrozenTrial) -> bool:
    if PROBLEM in trial.user_attrs:
        return True
    folder = store.trial(study.study_name, trial.number)
    if not folder.failure.is_file():
        return False
    failure = load_failure(folder)
    return failure.problem not in (DIED, INTERRUPTED)


def _mark_dead(store: Store, study: str, number: int) -> None:
    """Say so in the folder of a trial, if it got one, and unless it holds a result."""
    folder = store.trial(study, number)
    sweep(folder.path)
    if folder.spec.is_file() and not folder.result.is_file():
        fix = "nothing to do: its spec is tried again, twice at most"
        store.save_failure(study, number, Failure(state="failed", problem=DIED, fix=fix))


def _fail(study: optuna.Study, trial: FrozenTrial) -> bool:
    """False if somebody else has told it meanwhile."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False
    return True
