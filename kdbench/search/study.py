"""One Optuna study: opened, kept true to its settings, its queue and its budget."""

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from kdbench import config
from kdbench.config import StudyConfig
from kdbench.errors import StoreError
from kdbench.records import plain
from kdbench.search.ground import Ground
from kdbench.search.storage import BY, connect, quiet, retry
from kdbench.store import Store, StoredStudy

ASKS_PER_TRIAL = 4  # a study whose every suggestion is infeasible or broken ends
SETTINGS, GROUND, BUDGET = "settings", "ground", "budget"  # attributes of the study
SPEC_HASH, DUPLICATE_OF, INTERRUPTED = "spec_hash", "duplicate_of", "interrupted"  # of a trial

Verdict = Literal["ask", "wait", "complete", "asks", "timeout"]


# --- opening -----------------------------------------------------------------------------------


def begin(
    cfg: StudyConfig, store: Store, url: str, find_ground: Callable[[], Ground]
) -> tuple[optuna.Study, Ground]:
    """The study, new or going on, ready for workers; its schema, settings and queue are written.

    Args:
        cfg: What it is told to be.
        store: Where its folders are.
        url: Its database.
        find_ground: What the machine adds; not asked if the study is complete.

    Raises:
        StoreError: It began with other settings or on another machine, or folders and database do
            not belong together; or no database answers.
    """
    store.require_writable()
    stored = _stored(cfg, store)
    store.study_folder(cfg.name).mkdir(exist_ok=True)
    storage = connect(url, create=True)
    with quiet():
        study = optuna.create_study(
            study_name=cfg.name,
            storage=storage,
            directions=["minimize"] * len(cfg.objectives),
            load_if_exists=True,
        )
    _require_same(cfg, study.user_attrs.get(SETTINGS), f"the database {cfg.name!r}")
    if stored is None and study.get_trials(deepcopy=False):
        raise StoreError(
            f"the database knows trials of study {cfg.name!r}, whose folder is not in {store.root}",
            fix="name the root that has it with `--root`, or another study with `--set name=NAME`",
        )
    if stored is not None and n_complete(study) >= cfg.trials:
        return study, Ground(**study.user_attrs[GROUND])
    ground = find_ground()
    _require_same_ground(cfg, stored, ground)
    store.create_study(
        StoredStudy(name=cfg.name, settings=config.settings(cfg), fixed=ground.fixed)
    )
    with quiet():
        study.set_metric_names(list(cfg.objectives))
    for key, value in ((SETTINGS, config.settings(cfg)), (GROUND, plain(ground))):
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    for params in start_points(cfg):
        study.enqueue_trial(params, skip_if_exists=True)
    return study, ground


def join(name: str, storage: RDBStorage, store: Store) -> tuple[optuna.Study, StudyConfig, Ground]:
    """A study that has begun, for a worker.

    Raises:
        StoreError: It has not begun.
    """
    store.load_study(name)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = None
    if study is None or GROUND not in study.user_attrs:
        raise StoreError(
            f"the database knows no study {name!r} that has begun",
            fix=f"start it with `kdbench search --study {name}`; workers join it then, with the "
            "same `--storage` and `--root`",
        )
    cfg = config.from_settings(study.user_attrs[SETTINGS], f"the database, study {name}")
    return study, cfg, Ground(**study.user_attrs[GROUND])


def start_points(cfg: StudyConfig) -> list[dict[str, Any]]:
    """What is tried first, whatever the sampler."""
    return cfg.space.diagonal() if cfg.sampler.enqueue == "diagonal" else []


def _stored(cfg: StudyConfig, store: Store) -> StoredStudy | None:
    if cfg.name not in store.studies():
        return None
    stored = store.load_study(cfg.name)
    folder = store.study_folder(cfg.name)
    _require_same(cfg, stored.settings, str(folder))
    return stored


def _require_same(cfg: StudyConfig, settings: Mapping[str, Any] | None, where: str) -> None:
    if settings is None:
        return
    differ = config.differences(config.from_settings(settings, where), cfg)
    if differ:
        raise StoreError(
            f"study {cfg.name!r} in {where} began with other settings:\n  " + "\n  ".join(differ),
            fix="go on with the settings it began with, or begin another one: `--set name=NAME`",
        )


def _require_same_ground(cfg: StudyConfig, stored: StoredStudy | None, ground: Ground) -> None:
    if stored is None:
        return
    old, new = stored.fixed, ground.fixed
    differ = [
        f"{key}: then {old.get(key, 'none')}, now {new.get(key, 'none')}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    if differ:
        raise StoreError(
            f"study {cfg.name!r} began on another ground, and its numbers would not compare:\n  "
            + "\n  ".join(differ),
            fix="go on where it began, or begin another one here: `--set name=NAME`",
        )


# --- the budget ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When a study ends.

    Attributes:
        trials: Complete trials.
        until_s: No trial begins after it [s since 1970]; None: no limit.
    """

    trials: int
    until_s: float | None = None

    def verdict(self, trials: list[FrozenTrial], now_s: float) -> Verdict:
        """Whether a worker may ask for a trial now, must wait for others, or is done."""
        complete = len(complete_specs(trials))
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        if complete >= self.trials:
            return "complete"
        if self.until_s is not None and now_s >= self.until_s:
            return "timeout"
        if n_asked(trials) >= ASKS_PER_TRIAL * self.trials:
            return "wait" if running else "asks"
        return "wait" if complete + running >= self.trials else "ask"


def set_budget(study: optuna.Study, budget: Budget) -> None:
    """Tell all workers, also those on other machines."""
    study.set_user_attr(BUDGET, plain(budget))


def verdict(study: optuna.Study) -> Verdict:
    """What the budget says to a worker now."""
    budget = Budget(**study.user_attrs[BUDGET])
    return budget.verdict(study.get_trials(deepcopy=False), time.time())


def complete_specs(trials: list[FrozenTrial]) -> set[str]:
    """Hashes of the specs that are complete: a spec that came up twice counts once."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return {trial.user_attrs.get(SPEC_HASH, str(trial.number)) for trial in done}


def n_complete(study: optuna.Study) -> int:
    """Complete trials."""
    return len(complete_specs(study.get_trials(deepcopy=False)))


def n_asked(trials: list[FrozenTrial]) -> int:
    """Trials that were begun; neither interrupted ones nor those left to a twin that ran."""
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    return sum(
        INTERRUPTED not in trial.user_attrs
        and not (trial.state == TrialState.FAIL and DUPLICATE_OF in trial.user_attrs)
        for trial in begun
    )


# --- trials that nobody runs any more ------------------------------------------------------------


def host() -> str:
    """Name of this machine, as trials remember it."""
    return socket.gethostname()


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put what an interrupted trial was to try back into the queue."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if params:
        study.enqueue_trial(params)


def settle(study: optuna.Study, is_alive: Callable[[int], bool]) -> list[int]:
    """Fail the RUNNING trials of this host's dead workers and queue them again; their numbers.

    Without this a dead trial stays RUNNING until its heartbeat is found stale, minutes later. That
    is how trials of other hosts end, and one that died before it said who runs it.

    Args:
        study: The study.
        is_alive: Whether the worker of an index lives on this host.
    """
    settled = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        by = trial.user_attrs.get(BY)
        dead = by is not None and by["host"] == host() and not is_alive(by["worker"])
        if dead and _fail(study, trial):
            retry(study, study.get_trials()[trial.number])
            settled.append(trial.number)
    return settled


def _fail(study: optuna.Study, trial: FrozenTrial) -> bool:
    """False if somebody else has told it meanwhile."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False
    return True
