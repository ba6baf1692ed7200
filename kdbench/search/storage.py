"""Optuna's database: reached within seconds or not at all, with a message that keeps passwords."""

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
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kdbench.errors import StoreError
from kdbench.search.attributes import BY, DUPLICATE_OF, INTERRUPTED, PROBLEM

HEARTBEAT_S = 60
GRACE_S = 300  # a worker paused for longer is given up; optuna#5470: waking up, it may not tell
MAX_RETRIES = 2  # a spec that kills its process is not tried for ever
CONNECT_S = 5.0
ANSWER_S = 30.0
LOCKED_S = 60.0  # SQLite: how long one worker waits for another's commit
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": LOCKED_S},
    "postgresql": {"connect_timeout": int(CONNECT_S)},
    "mysql": {"connect_timeout": int(CONNECT_S)},
    "mariadb": {"connect_timeout": int(CONNECT_S)},
}
LOOKING: dict[str, dict[str, Any]] = {  # sessions whose database refuses to be written
    "postgresql": {"options": "-c default_transaction_read_only=on"},
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


def connect(url: str, *, create: bool) -> RDBStorage:
    """The database at `url`, with heartbeat and retry.

    Args:
        url: As SQLAlchemy writes it.
        create: Whether tables are made where there are none: the coordinator does, once, for two
            workers that do it at the same time break each other.

    Raises:
        StoreError: No database answers there; the message holds no password.
    """
    parsed = _parse(url)
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StoreError(
                f"{shown(parsed)} lives in one process, and workers are several",
                fix="name a file: `--storage sqlite:///FOLDER/optuna.db`, or leave `--storage` out",
            )
    else:
        _knock(parsed, PORTS.get(kind))
    return _bounded(
        parsed,
        lambda: RDBStorage(
            url,
            engine_kwargs={"connect_args": dict(CONNECT_ARGS.get(kind, {}))},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=retry,
            skip_table_creation=not create,
        ),
    )


def connect_to_look(url: str) -> RDBStorage:
    """The database at `url`, opened so that nothing can be written to it.

    Raises:
        StoreError: No database answers there, or it was made by another Optuna; the message holds
            no password.
    """
    parsed = _parse(url)
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
    arguments = {**CONNECT_ARGS.get(kind, {}), **LOOKING.get(kind, {})}
    return _bounded(
        parsed,
        lambda: RDBStorage(
            opened.render_as_string(hide_password=False),
            engine_kwargs={"connect_args": arguments},
            skip_table_creation=True,
        ),
    )


def shown(url: URL) -> str:
    """The URL as messages may show it: no password, no options, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what a database driver raises into a StoreError.

    Raises:
        StoreError: The database went away, is full, damaged or locked.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as err:
        raise _failed(make_url(url), err) from None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        kind = url.partition(":")[0] if "://" in url else "the value given"
        raise StoreError(
            f"`--storage`: {kind} is no URL of a database that Optuna knows",
            fix="write sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or "
            "mysql+pymysql://USER:PASSWORD@HOST/DATABASE",
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


def _bounded(url: URL, connects: Callable[[], RDBStorage]) -> RDBStorage:
    """What `connects` returns, if it does within `ANSWER_S`: some drivers wait for ever."""
    made: list[RDBStorage] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            made.append(connects())
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
    if isinstance(raised[0], ImportError):
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
    cause = getattr(err, "orig", None) or getattr(err.__cause__, "orig", None) or err
    first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    fix = "correct `--storage`, or leave it out to use a file in `--root`"
    if "full" in first:
        fix = "free some space and run the same command again: what is finished is kept"
    elif "not a database" in first or "malformed" in first:
        fix = f"move it away, `kdbench search` makes it again from the trials' folders; or {fix}"
    elif "no such table" in first or "does not exist" in first:
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
        fix = f"see that {folder} is a folder that can be written; {fix}"
    return StoreError(f"the database {shown(url)} fails: {_scrubbed(url, first)}", fix=fix)


def _scrubbed(url: URL, text: str) -> str:
    """`text` without the password, however the driver wrote it."""
    secrets = [str(url.password or ""), *(str(value) for value in url.query.values())]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text
