"""Optuna's database: reached within seconds or not at all, with a message that keeps passwords."""

import os
import re
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kdbench.errors import StoreError
from kdbench.search import postgres, shelf
from kdbench.search.attributes import BY, DUPLICATE_OF, INTERRUPTED, PROBLEM
from kdbench.search.patience import DATABASE_ERRORS, Patience, PatientStorage, driver_error

HEARTBEAT_S = 60
GRACE_S = 300  # a worker paused for longer is given up; optuna#5470: waking up, it may not tell
MAX_RETRIES = 2  # a spec that kills its process is not tried for ever
CONNECT_S = 5.0
ANSWER_S = 30.0
LOCKED_S = 60.0  # SQLite: how long one worker waits for another's commit
PACKAGES = {"psycopg": "kdbench[postgres]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": LOCKED_S},
    "mysql": {"connect_timeout": int(CONNECT_S)},
    "mariadb": {"connect_timeout": int(CONNECT_S)},
}
READ_ONLY = "-c default_transaction_read_only=on"
LOOKING: dict[str, dict[str, Any]] = {  # sessions whose database refuses to be written
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
    "mariadb": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its log lines and without its warnings that a feature is experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial whose process died back into the queue, at most `MAX_RETRIES` times.

    The retried trial must not inherit who ran the dead one and how it ended, nor its constraints,
    which can be set only once.
    """
    for name in (BY, INTERRUPTED, DUPLICATE_OF, PROBLEM):
        trial.user_attrs.pop(name, None)
    kept = {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints:")}
    trial.system_attrs = kept
    with quiet():
        RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, trial)


def connect(url: str, *, create: bool, patience: Patience | None = None) -> PatientStorage:
    """The database at `url`, with heartbeat and retry.

    Args:
        url: As SQLAlchemy writes it.
        create: Whether tables are made where there are none: the coordinator does, once, for two
            workers that do it at the same time break each other.
        patience: With a server that goes away once it has answered.

    Raises:
        StoreError: No database answers there; the message holds no password.
    """
    parsed = parse(url)
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StoreError(
                f"{shown(parsed)} lives in one process, and workers are several",
                fix="name a file: `--storage sqlite:///FOLDER/optuna.db`, or leave `--storage` out",
            )
    else:
        _knock(parsed, PORTS.get(kind))

    def opened() -> PatientStorage:
        return PatientStorage(
            parsed.render_as_string(hide_password=False),
            patience=patience,
            engine_kwargs=_engine_kwargs(parsed),
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=retry,
            skip_table_creation=not create,
        )

    def made() -> PatientStorage:
        if kind != "postgresql":
            return opened()
        postgres.require_new_enough(parsed, shown(parsed))
        if not create:
            return opened()
        with postgres.alone(parsed):
            storage = opened()
            shelf.make(storage.engine)
            return storage

    database = _bounded(parsed, made)
    database.patience.password_may_change = postgres.password_may_change(parsed)
    return database


def connect_to_look(url: str) -> PatientStorage:
    """The database at `url`, opened so that nothing can be written to it.

    Raises:
        StoreError: No database answers there, or it was made by another Optuna; the message holds
            no password.
    """
    parsed = parse(url)
    kind = parsed.get_backend_name()
    opened = parsed
    if kind == "sqlite":
        path = Path(parsed.database or "").absolute()
        if not path.is_file():
            raise StoreError(
                f"there is no database {shown(parsed)}",
                fix="name the study's with `--storage`; a lost one is made again from the trials' "
                "folders by `kdbench search`",
            )
        opened = parsed.set(
            database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"}
        )
    else:
        _knock(parsed, PORTS.get(kind))

    def look() -> PatientStorage:
        if kind == "postgresql":
            postgres.require_new_enough(parsed, shown(parsed))
        return PatientStorage(
            opened.render_as_string(hide_password=False),
            engine_kwargs=_engine_kwargs(parsed, look=True),
            skip_table_creation=True,
        )

    return _bounded(parsed, look)


def _engine_kwargs(url: URL, *, look: bool = False) -> dict[str, Any]:
    kind = url.get_backend_name()
    if kind == "postgresql":
        arguments = postgres.connect_args(url, more=READ_ONLY if look else "")
        # a worker keeps one connection while it trains, found dead or alive before it is used
        return {"connect_args": arguments, "pool_pre_ping": True, "pool_size": 1}
    return {
        "connect_args": {**CONNECT_ARGS.get(kind, {}), **(LOOKING.get(kind, {}) if look else {})}
    }


def require_no_password(url: str) -> None:
    """For a URL that stands on the command line, where every user of the machine reads it.

    Raises:
        StoreError: There is a password in it; the message does not repeat it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return  # `parse` says so
    if parsed.password or any(re.search("pass", key, re.IGNORECASE) for key in parsed.query):
        raise StoreError(
            f"`--storage {shown(parsed.set(password=None))}` came with a password, which every "
            "user of this machine can read in the list of processes",
            fix="put the whole URL into the environment variable KDBENCH_STORAGE; or leave the "
            "password out, PostgreSQL then takes it from PGPASSWORD or ~/.pgpass",
        )


def shown(url: URL) -> str:
    """The URL as messages may show it: no password, no options, which may hold one."""
    if url.drivername == postgres.DRIVER:  # as people write it
        url = url.set(drivername=url.get_backend_name())
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what a database driver raises into a StoreError.

    Raises:
        StoreError: The database went away, is full, damaged or locked.
    """
    try:
        yield
    except DATABASE_ERRORS as err:
        raise _failed(parse(url), err) from None


def parse(url: str) -> URL:
    """What a URL names; PostgreSQL is spoken to by psycopg unless it names another driver.

    Raises:
        StoreError: It is no URL of a database that Optuna knows; the message does not repeat it.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername=postgres.DRIVER)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        kind = url.partition(":")[0] if "://" in url else "the value given"
        raise StoreError(
            f"`--storage`: {kind} is no URL of a database that Optuna knows",
            fix="write sqlite:///FILE, postgresql://USER@HOST/DATABASE or "
            "mysql+pymysql://USER@HOST/DATABASE",
        ) from None
    return parsed


def _knock(url: URL, default_port: int | None) -> None:
    """Whether something listens there: drivers differ in how long they wait."""
    port = url.port or default_port
    if not url.host or port is None:
        return
    try:
        socket.create_connection((url.host, port), timeout=CONNECT_S).close()
    except OSError as err:
        raise _silent(url, f"{url.host}:{port}: {str(err.strerror or err).lower()}") from None


def _bounded(url: URL, connects: Callable[[], PatientStorage]) -> PatientStorage:
    """What `connects` returns, if it does within `ANSWER_S`: some drivers wait for ever."""
    made: list[PatientStorage] = []
    raised: list[BaseException] = []

    patience = Patience(CONNECT_S)  # who listens may still be starting, or full for a moment

    def run() -> None:
        try:
            made.append(patience.call(connects))
        except BaseException as err:  # raised again below, in the thread that asked
            raised.append(err)

    with quiet():
        if url.get_backend_name() == "sqlite":
            run()
        else:
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            thread.join(ANSWER_S)
    if made:
        return made[0]
    if not raised:
        raise _silent(url, f"no answer within {ANSWER_S:.0f} s")
    if isinstance(raised[0], ImportError | NoSuchModuleError):
        raise _no_driver(url) from None
    if isinstance(raised[0], SQLAlchemyError | StorageInternalError | RuntimeError):
        raise _failed(url, raised[0]) from None
    if isinstance(raised[0], ValueError | TypeError):
        raise StoreError(
            f"the database {shown(url)}: an option after the `?` of its URL is not one",
            fix="correct the options in `--storage`, or leave them out",
        ) from None
    raise raised[0]


def _silent(url: URL, why: str) -> StoreError:
    return StoreError(
        f"the database {shown(url)} does not answer: {_scrubbed(url, why)}",
        fix="start it, correct `--storage`, or leave `--storage` out to use a file in `--root`",
    )


def _no_driver(url: URL) -> StoreError:
    driver = url.get_dialect().driver
    return StoreError(
        f"the database {shown(url)} needs the Python package {driver}",
        fix=f"`pip install '{PACKAGES.get(driver, driver)}'`, or name another driver in the URL, "
        "e.g. postgresql+psycopg2:// or mysql+pymysql://",
    )


def _failed(url: URL, err: BaseException) -> StoreError:
    told = driver_error(err)
    cause = err if told is None or told.orig is None else told.orig
    first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    if "FATAL:" in first:  # the driver says before how it got there
        first = first.rpartition("FATAL:")[2].strip()
    fix = "correct `--storage`, or leave it out to use a file in `--root`"
    if url.get_backend_name() == "postgresql":
        fix = _fix_at_postgresql(url, first) or fix
    if "full" in first or "No space left" in first:
        fix = "free some space and run the same command again: what is finished is kept"
    elif "not a database" in first or "malformed" in first:
        fix = f"move it away, `kdbench search` makes it again from the trials' folders; or {fix}"
    elif "no such table" in first or re.search("relation .* does not exist", first):
        fix = f"`kdbench search` makes its tables when it begins a study; or {fix}"
    elif "table schema" in first:
        fix = (
            "use the Optuna that made it; an older one's is brought up to date by `optuna storage "
        )
        fix += "upgrade --storage URL`, while no search runs"
    elif "readonly" in first and Path(f"{url.database}-journal").exists():
        fix = "a process died while it wrote: `kdbench search` makes the file whole when it begins"
    elif url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").absolute().parent
        fix = f"see that {folder} is a folder that can be written, on a disk with space; {fix}"
    return StoreError(f"the database {shown(url)} fails: {_scrubbed(url, first)}", fix=fix)


def _fix_at_postgresql(url: URL, first: str) -> str | None:
    """What to do about what the server says; None where nothing better is known."""
    user, database = url.username or "USER", url.database or "DATABASE"
    fixes = {
        "permission denied": f"as the owner of database {database}: `GRANT USAGE, CREATE ON SCHEMA "
        f"public TO {user}`, or give it a database of its own: `createdb --owner {user} NAME`; "
        "workers log in as who began the study",
        "no schema has been selected": f"as the owner of database {database}: `GRANT USAGE, CREATE "
        f"ON SCHEMA public TO {user}`",
        "password": "put the right one into PGPASSWORD or ~/.pgpass, or the whole URL into the "
        "environment variable KDBENCH_STORAGE",
        f'database "{database}" does not exist': f"make it: `createdb --owner {user} {database}`, "
        "or correct `--storage`",
        f'role "{user}" does not exist': f"make it: `createuser --pwprompt {user}`, or correct "
        "`--storage`",
        "pg_hba.conf": "let this machine in: a line for it in the server's pg_hba.conf, then "
        "`pg_ctl reload`",
        "too many clients": "raise `max_connections` of the server, two for each worker, or run "
        "fewer workers",
        "connection slots": "raise `max_connections` of the server, two for each worker, or run "
        "fewer workers",
    }
    return next((fix for words, fix in fixes.items() if words in first), None)


def _scrubbed(url: URL, text: str) -> str:
    """`text` without the password, however the driver wrote it."""
    secrets = [str(url.password or ""), *(str(value) for value in url.query.values())]
    secrets.append(os.environ.get("PGPASSWORD", ""))
    for secret in filter(None, secrets):
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text
