"""A real PostgreSQL server of the tests' own: on loopback, a port of its own, gone when they end.

    from tests.support.postgres import Postgres, needs_postgres

    pytestmark = [pytest.mark.postgres, needs_postgres]

    def test_something(postgres: Postgres) -> None:  # a fixture of tests/conftest.py
        url = postgres.database()  # a fresh one; the URL holds the password

The server is one for the session. Who stops it must start it again.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

OWNER = "kdbench_owner"  # of every database of the tests
PASSWORD = "owner/§%pass"  # one that URLs write otherwise
START_S = 60.0
PLACES = (Path("/usr/lib/postgresql"), Path("/usr/pgsql"), Path("/usr/local/pgsql"))


def programs() -> Path | None:
    """The folder of initdb and postgres, the newest; Debian has it outside of PATH."""
    found = [path.parent for place in PLACES for path in place.glob("**/bin/initdb")]
    if found:
        return max(found, key=lambda path: [int(p) for p in path.parts if p.isdecimal()])
    named = shutil.which("initdb")
    return None if named is None else Path(named).parent


needs_postgres = pytest.mark.skipif(
    programs() is None or importlib.util.find_spec("psycopg") is None,
    reason="NO POSTGRESQL: several machines go untested (apt-get install postgresql, "
    "pip install 'psycopg[binary]')",
)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class Postgres:
    """One server in a temporary folder.

    Args:
        settings: Of `postgresql.conf`; without any it does not wait for the disk.

    Attributes:
        port: On 127.0.0.1.
    """

    def __init__(self, **settings: str) -> None:
        bin_folder = programs()
        assert bin_folder is not None
        self._bin = bin_folder
        self._settings = settings or {"fsync": "off", "synchronous_commit": "off"}
        self.folder = Path(tempfile.mkdtemp(prefix="kdbench-postgres-"))
        # root may not run it; whoever else we are, may
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            known = pwd.getpwnam(self._user)
            os.chown(self.folder, known.pw_uid, known.pw_gid)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count()
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            *("initdb", "--pgdata", str(self.folder / "data"), "--username", OWNER),
            *("--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"),
            *("--no-sync", "--locale", "C"),
        )
        secret.unlink()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            user=self._user,
            cwd=self.folder,
            check=True,
            capture_output=True,
        )

    # --- the server

    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of its first process, the parent of the others."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it on the same port as before, and wait until it answers."""
        assert not self.runs()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        options = [word for k, v in settings.items() for word in ("-c", f"{k}={v}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options],
                user=self._user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not self._answers():
            assert self.runs(), self.log()[-2000:]
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self, *, at_once: bool = True) -> None:
        """Stop it; at once: as in a crash, connections are cut and nothing is flushed."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        process.wait(START_S)

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "server.log").read_text(errors="replace")

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    # --- what is in it

    def _connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=OWNER,
            password=PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def sql(self, statement: str, *values: object, database: str = "postgres") -> list[Any]:
        """Rows of one statement, as the owner."""
        connection = self._connect(database)
        with contextlib.closing(connection):
            cursor = connection.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def url(
        self, database: str, user: str = OWNER, password: str | None = PASSWORD, driver: str = ""
    ) -> str:
        """The URL of a database; without its password where that is None."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql{driver}://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """URL of a fresh and empty database, password included."""
        name = f"kd{next(self._names)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def role(self, name: str, password: str) -> None:
        """A user who may log in and nothing else."""
        self.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")

    def sessions(self, database: str) -> int:
        """Connections to a database."""
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        n: int = self.sql(asked, database)[0][0]
        return n

    def cut(self, database: str) -> int:
        """End every connection to a database; says how many there were."""
        asked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        return len(self.sql(asked, database))


@contextlib.contextmanager
def served(**settings: str) -> Iterator[Postgres]:
    """A server of its own, for who needs other settings."""
    server = Postgres(**settings)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this session; see the module."""
    with served() as server:
        yield server
