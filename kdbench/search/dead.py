"""Trials that nobody runs any more: interrupted ones, and those whose process died.

Who is alive is told by the locks in the root's folder of workers, so a worker is known by its host
and its root: two machines of one name, or two roots on one machine, do not bury each other's.
"""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.search.attributes import BY, INTERRUPTED, SPEC_HASH
from kdbench.search.storage import retry
from kdbench.store import Failure, Store

DIED = "its worker died"


def host() -> str:
    """Name of this machine, as trials remember it."""
    return socket.gethostname()


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put what an interrupted trial was to try back into the queue."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if params:
        study.enqueue_trial(params)


def settle(study: optuna.Study, store: Store, is_alive: Callable[[int], bool]) -> list[int]:
    """Fail the RUNNING trials of this root's dead workers here and queue them again; their numbers.

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
        dead = by is not None and is_here(by, store) and not is_alive(by["worker"])
        if dead and _fail(study, trial):
            _mark_dead(store, study.study_name, trial.number)
            retry(study, study.get_trials()[trial.number])
            settled.append(trial.number)
    return settled


def is_here(by: Mapping[str, Any], store: Store) -> bool:
    """Whether a worker that said this of itself belongs to this host and root."""
    return bool(by["host"] == host() and by.get("root", str(store.root)) == str(store.root))


def settle_unclaimed(study: optuna.Study) -> None:
    """Fail the RUNNING trials that never said what they train, and queue them again.

    Only for who holds the turn to ask on all machines: whoever else began such a trial has lost his
    turn, or died before the trial got a heartbeat, or the connection broke when it was made.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if SPEC_HASH in trial.user_attrs:
            continue
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
            if _fail(study, trial):
                enqueue_again(study, trial)


def _mark_dead(store: Store, study: str, number: int) -> None:
    """Say so in the folder of a trial, if it got one, and unless it holds a result."""
    folder = store.trial(study, number)
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
