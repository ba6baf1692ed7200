"""One Optuna study: begun once, joined by workers, refused to who would make it another."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import optuna
from optuna.storages import RDBStorage
from pydantic import TypeAdapter

from kdbench import __version__, config
from kdbench.config import StudyConfig
from kdbench.errors import StoreError
from kdbench.files import writing
from kdbench.records import MEASUREMENT_PROTOCOL, plain
from kdbench.search import postgres, roots
from kdbench.search.asking import with_target
from kdbench.search.attributes import BUDGET, FIXED, GROUND, RESTORING, SETTINGS, TOKEN
from kdbench.search.budget import n_complete
from kdbench.search.ground import Ground
from kdbench.search.intact import readable, require_agreement, require_whole
from kdbench.search.patience import Patience
from kdbench.search.restore import restore
from kdbench.search.storage import connect, parse, quiet
from kdbench.store import Store, StoredStudy

FIRST_PROTOCOL = "1"  # studies begun under it do not say so


def begin(
    cfg: StudyConfig,
    store: Store,
    url: str,
    find_ground: Callable[[], Ground],
    patience: Patience | None = None,
    *,
    on_wait: Callable[[str], None] = lambda _: None,
) -> tuple[optuna.Study, Ground]:
    """The study, new or going on, ready for workers; its schema, settings and queue are written.

    Args:
        cfg: What it is told to be.
        store: Where its folders are.
        url: Its database.
        find_ground: What the machine adds; not asked if the study is complete.
        patience: With a database that goes away later.
        on_wait: Told that a target is waited for.

    Raises:
        StoreError: It began with other settings or on another machine, or folders and database do
            not belong together; or no database answers.
    """
    store.require_writable()
    stored = _stored(cfg, store)
    with writing(store.study_folder(cfg.name)):
        store.study_folder(cfg.name).mkdir(exist_ok=True)
    require_whole(url)
    storage = connect(url, create=True, patience=patience)
    with quiet(), readable(url):
        study = optuna.create_study(
            study_name=cfg.name,
            storage=storage,
            directions=["minimize"] * len(cfg.objectives),
            load_if_exists=True,
        )
        known, trials = study.user_attrs, study.get_trials()  # reads every row
    _require_same(cfg, known.get(SETTINGS), f"the database {cfg.name!r}")
    if stored is None and (TOKEN in known or trials):
        raise StoreError(
            f"the database knows trials of study {cfg.name!r}, whose folder is not in {store.root}",
            fix="name the root that has it with `--root`, or another study with `--set name=NAME`",
        )
    if stored is not None:
        _claim(study, store, url, begins=False)
    if stored is not None and GROUND in known:
        with readable(url):
            ground_there = _ground(study)
        require_agreement(study, cfg, ground_there, store, url)
    if stored is not None and n_complete(study) >= cfg.trials:
        return study, _ground(study)
    ground = find_ground()
    if cfg.target is not None:
        ground = with_target(cfg, ground, storage, stored, on_wait)
    _require_same_ground(cfg, stored, ground)
    store.create_study(
        StoredStudy(name=cfg.name, settings=config.settings(cfg), fixed=ground.fixed)
    )
    _claim(study, store, url, begins=stored is None)
    with quiet():
        study.set_metric_names(list(cfg.objectives))
    attributes = {
        SETTINGS: config.settings(cfg),
        FIXED: dict(store.load_study(cfg.name).fixed),
        GROUND: plain(ground),  # last: with it the study has begun
    }
    for key, value in attributes.items():
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    if stored is not None and (study.user_attrs.get(RESTORING) or not study.get_trials()):
        study.set_user_attr(RESTORING, True)
        restore(study, cfg, ground, store)
        study.set_user_attr(RESTORING, False)
    for params in start_points(cfg):
        study.enqueue_trial(params, skip_if_exists=True)
    return study, ground


def _claim(study: optuna.Study, store: Store, url: str, *, begins: bool) -> None:
    parsed = parse(url)
    at_once = parsed.get_backend_name() == "postgresql"  # elsewhere the root's own lock is enough
    turn = postgres.alone(parsed, f"{study.study_name} root") if at_once else nullcontext()
    with turn:
        roots.claim(study, store, begins=begins)


def join(name: str, storage: RDBStorage) -> tuple[optuna.Study, StudyConfig, Ground]:
    """A study that has begun, for a worker.

    Raises:
        StoreError: It has not begun, or is searched by another kdbench than this one.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = None
    if study is None or not {GROUND, BUDGET} <= study.user_attrs.keys():
        raise StoreError(
            f"the database knows no study {name!r} that has begun",
            fix=f"start it with `kdbench search --study {name}`; workers join it then, with the "
            "same `--storage`",
        )
    _require_same_code(name, study.user_attrs[GROUND])
    cfg = config.from_settings(study.user_attrs[SETTINGS], f"the database, study {name}")
    return study, cfg, _ground(study)


def _ground(study: optuna.Study) -> Ground:
    return TypeAdapter(Ground).validate_python(study.user_attrs[GROUND])


def start_points(cfg: StudyConfig) -> list[dict[str, Any]]:
    """What is tried first, whatever the sampler."""
    if cfg.sampler.name == "listed":
        known = cfg.space.parameters
        return [{k: known[k].own(v) for k, v in point.items()} for point in cfg.sampler.points]
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


def require_same_protocol(stored: StoredStudy) -> None:
    """For workers, who do not look at the ground again: a worker may run another kdbench."""
    then = stored.fixed.get("protocol", FIRST_PROTOCOL)
    if then != str(MEASUREMENT_PROTOCOL):
        raise StoreError(
            f"study {stored.name!r} measures by protocol {then}, this kdbench by "
            f"{MEASUREMENT_PROTOCOL}, and their figures would not compare",
            fix="go on with the kdbench it began with, or begin another one: `--set name=NAME`",
        )


def _require_same_code(name: str, ground: Mapping[str, Any]) -> None:
    """For workers: `search` goes on with a study in a newer kdbench, and then all are of that."""
    theirs = ground.get("code", "an older version")
    if theirs != __version__:
        raise StoreError(
            f"study {name!r} is searched by kdbench {theirs}, and this worker is kdbench "
            f"{__version__}: what they train would differ",
            fix=f"install kdbench {theirs} here; or stop the search, and begin it again with "
            f"{__version__} everywhere",
        )


def _require_same_ground(cfg: StudyConfig, stored: StoredStudy | None, ground: Ground) -> None:
    if stored is None:
        return
    require_same_protocol(stored)
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
