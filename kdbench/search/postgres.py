"""What only PostgreSQL has: a version that is new enough, locks that hold on every machine.

A lock is an advisory one of a session of its own: the server lets go when the session ends, however
that comes. A process that is stopped while it holds one, or whose machine is cut off, loses it
after `HELD_S` of silence; when it wakes up it finds so, and takes back what it did (`is_held`).
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kdbench.errors import StoreError

DRIVER = "postgresql+psycopg"
OLDEST = (14,)  # has idle_session_timeout, without which a stopped process would stop all others
WAIT_S = 2.0  # for a lock in one go; signals are heard between
HELD_S = 60.0
CONNECT_S = 5.0
KEEPALIVE_S = 30
LOCK_NOT_AVAILABLE = "55P03"
KEEPALIVES = {
    "keepalives_idle": KEEPALIVE_S,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # [ms]
}
SERVER_SIDE = {  # of every session: a client that is cut off or stopped holds up nobody
    "tcp_keepalives_idle": KEEPALIVE_S,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "idle_in_transaction_session_timeout": int(1000 * HELD_S),
}
SCHEMA = "kdbench schema"


def connect_args(url: URL, *, more: str = "") -> dict[str, Any]:
    """What a driver is told of every connection, with what the URL says in `options`."""
    asked = url.query.get("options", "")
    own = " ".join(f"-c {name}={value}" for name, value in SERVER_SIDE.items())
    options = " ".join(
        filter(None, (asked if isinstance(asked, str) else " ".join(asked), own, more))
    )
    return {"connect_timeout": int(CONNECT_S), "options": options, **KEEPALIVES}


def password_may_change(url: URL) -> bool:
    """Whether each connection reads it anew: from ~/.pgpass; a process keeps its environment."""
    told = url.password is not None or "password" in url.query or "PGPASSWORD" in os.environ
    return not told


def engine(url: URL) -> Engine:
    """Connections that are closed after use."""
    return create_engine(
        url, poolclass=NullPool, connect_args=connect_args(url), isolation_level="AUTOCOMMIT"
    )


def require_new_enough(url: URL, shown: str) -> None:
    """Raises StoreError where the server is older than `OLDEST`."""
    with engine(url).connect() as connection:
        version = connection.dialect.server_version_info or ()
    if version < OLDEST:
        oldest, found = (".".join(map(str, each)) for each in (OLDEST, version))
        raise StoreError(
            f"the database {shown} is PostgreSQL {found}, and kdbench needs {oldest} or newer",
            fix=f"upgrade the server, or name another one with `--storage`; {oldest} is the oldest "
            "that ends the session of a worker that was stopped",
        )


@contextmanager
def alone(url: URL, name: str = SCHEMA) -> Iterator[None]:
    """Held while tables are made: two who make the same ones at once break each other."""
    lock = DatabaseLock(engine(url), name)
    while not lock.take():
        pass  # each try waits
    try:
        yield
    finally:
        lock.release()


class DatabaseLock:
    """One lock of a database, for all machines.

    Args:
        engine: Whose every connection is a session of its own.
        name: The lock's.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        digest = hashlib.sha256(name.encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._session: Connection | None = None

    def take(self, *, wait_s: float = WAIT_S) -> bool:
        """Whether we hold it now; False if another session does, after waiting in a queue.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        if self.is_held():
            return True
        self.release()
        session = self._engine.connect()
        try:
            self._configure(session, "lock_timeout", wait_s)
            self._configure(session, "idle_session_timeout", HELD_S)
            session.execute(select(func.pg_advisory_lock(self._key)))
        except DBAPIError as why:
            session.close()
            if getattr(why.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
                return False
            raise
        except BaseException:
            session.close()
            raise
        self._session = session
        return True

    def is_held(self) -> bool:
        """Whether we hold it still: a session that answers has never let go of it."""
        if self._session is None:
            return False
        try:
            self._session.execute(select(1))
        except SQLAlchemyError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Let go; nothing happens if we do not hold it."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(SQLAlchemyError):
                session.close()

    @staticmethod
    def _configure(session: Connection, name: str, seconds: float) -> None:
        session.execute(select(func.set_config(name, str(int(1000 * seconds)), False)))
