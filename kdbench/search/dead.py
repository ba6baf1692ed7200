"""Trials that nobody runs any more: interrupted ones, and those whose process died.

A process may die between any two lines. What it can leave behind, and who puts it right:

    asked, not yet said who runs it     `settle_unclaimed`, by a worker that waits
    running                             `settle`, by who notices first; on other hosts the heartbeat
    told as failed, not queued again    `queue_lost`, when a search begins and when a worker dies
    result kept, not told               its spec is queued again, and told what is there (`task`)
"""

import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.files import sweep
from kdbench.records import canonical_json
from kdbench.search import storage
from kdbench.search.attributes import BY, DUPLICATE_OF, INTERRUPTED, PROBLEM
from kdbench.search.storage import retry
from kdbench.store import Failure, Store, load_failure

DIED = "its worker died"


def host() -> str:
    """Name of this machine, as trials remember it."""
    return socket.gethostname()


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put what an interrupted trial was to try back into the queue."""
    if params := _asked(trial):
        study.enqueue_trial(dict(params))


def _asked(trial: FrozenTrial) -> Mapping[str, object]:
    """What it was told to try, as far as that is known."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def settle(study: optuna.Study, store: Store, is_alive: Callable[[int], bool]) -> list[int]:
    """Fail the RUNNING trials of this host's dead workers and queue them again; their numbers.

    Without this a dead trial stays RUNNING until its heartbeat is found stale, minutes later. That
    is how trials of other hosts end, and one that died before it said who runs it.

    Args:
        study: The study.
        store: Its folders: those of dead trials are marked.
        is_alive: Whether the worker of an index lives on this host.
    """
    settled = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        by = trial.user_attrs.get(BY)
        dead = by is not None and by["host"] == host() and not is_alive(by["worker"])
        if dead and _fail(study, trial):
            _mark_dead(store, study.study_name, trial.number)
            retry(study, study.get_trials()[trial.number])
            settled.append(trial.number)
    return settled


def settle_unclaimed(study: optuna.Study, *, one_host: bool) -> list[int]:
    """Fail RUNNING trials of which nobody said that he runs them, and queue them again.

    Their workers died between two writes, before the first heartbeat: nobody else would ever find
    them, and all workers would wait for them. The caller holds this host's turn to ask, so it is
    none of its workers; one of another host has `GRACE_S` to say so.

    Args:
        study: The study.
        one_host: Whether no other host can be at it, the database being a file.
    """
    old = datetime.now() - timedelta(seconds=storage.GRACE_S)
    settled = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        began = trial.datetime_start
        if BY in trial.user_attrs or not (one_host or (began is not None and began < old)):
            continue
        if _fail(study, trial):
            retry(study, study.get_trials()[trial.number])
            settled.append(trial.number)
    return settled


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
        by, key = trial.user_attrs.get(BY), _key(trial)
        busy = by is not None and by["host"] == host() and is_alive(by["worker"])
        tried = trial.number in again or key in decided or last[key] > trial.number
        if busy or tried or _ended_by_itself(study, store, trial):
            continue
        if INTERRUPTED in trial.user_attrs:
            enqueue_again(study, trial)
        else:
            retry(study, study.get_trials()[trial.number])
        found.append(trial.number)
    return found


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
