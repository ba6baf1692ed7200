"""A database answers soon or is an error that says what to do and holds no password."""

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from kdbench.errors import StoreError
from kdbench.search import storage
from kdbench.search.storage import GRACE_S, HEARTBEAT_S, connect, shown, storage_errors

SECRET = "hunter2/§"  # a password that URLs write otherwise
QUOTED = "hunter2%2F%C2%A7"


def refused(url: str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        connect(url, create=True)
    assert "hunter2" not in str(caught.value)
    assert caught.value.fix
    return caught.value


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_file_is_a_database_with_heartbeat_and_retry(tmp_path: Path) -> None:
    made = connect(f"sqlite:///{tmp_path}/optuna.db", create=True)
    assert (made.heartbeat_interval, made.grace_period) == (HEARTBEAT_S, GRACE_S) == (60, 300)
    assert made.get_heartbeat_stale_trial_callback() is storage.retry


def test_workers_make_no_tables(tmp_path: Path) -> None:
    refused_before = tmp_path / "optuna.db"
    with pytest.raises(StoreError):
        connect(f"sqlite:///{refused_before}", create=False)
    with sqlite3.connect(refused_before) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_server_that_is_not_there_is_an_error_at_once(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    began = time.monotonic()
    problem = refused(f"postgresql://ann:{QUOTED}@127.0.0.1:{free}/kd?sslpassword=hunter2").problem
    assert time.monotonic() - began < storage.CONNECT_S
    assert problem == (
        f"the database postgresql://ann:***@127.0.0.1:{free}/kd does not answer: "
        f"127.0.0.1:{free}: connection refused"
    )


def test_a_server_that_accepts_and_stays_silent_is_an_error_in_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def waits(url: str, **kwargs: object) -> RDBStorage:
        done.wait(10)
        raise OSError("the test is over")

    monkeypatch.setattr(storage, "PatientStorage", waits)
    monkeypatch.setattr(storage, "ANSWER_S", 0.2)
    problem = refused(f"mysql+pymysql://ann:{QUOTED}@127.0.0.1:{port}/kd").problem
    done.set()
    assert problem.endswith("does not answer: no answer within 0 s")


@pytest.mark.parametrize(
    "url",
    [
        "postgres//forgot:the@colon/hunter2",
        "redis://:hunter2@localhost:6379",
        "journal.log",
        "",
        "sqlite:///a.db?x=hunter2&timeout=never",
    ],
)
def test_what_is_no_database_url_is_said_so_without_repeating_it(url: str) -> None:
    refused(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_cannot_be_shared(url: str) -> None:
    assert "lives in one process" in refused(url).problem


@pytest.mark.parametrize(
    ("driver", "package"),
    [("mysql", "mysqlclient"), ("mysql+pymysql", "pymysql")],
)
def test_a_driver_that_is_not_installed_is_named(
    port: int, monkeypatch: pytest.MonkeyPatch, driver: str, package: str
) -> None:
    def missing(url: str, **kwargs: object) -> RDBStorage:
        raise ImportError("Failed to import DB access module")

    monkeypatch.setattr(storage, "PatientStorage", missing)
    error = refused(f"{driver}://ann:{QUOTED}@127.0.0.1:{port}/kd")
    assert "/kd needs the Python package" in error.problem
    assert f"`pip install '{package}'`" in error.fix


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refused(f"sqlite:///{tmp_path}/no/optuna.db")
    assert error.problem.endswith("optuna.db fails: unable to open database file")
    assert f"see that {tmp_path}/no is a folder" in error.fix


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("dear diary, " * 200)
    assert "file is not a database" in refused(f"sqlite:///{tmp_path}/optuna.db").problem


def test_a_database_that_goes_away_is_an_error_without_its_password() -> None:
    url = f"postgresql://ann:{QUOTED}@db.example/kd"
    driver_says = f"connection to ann:{SECRET}@db.example failed\nlong story"
    with pytest.raises(StoreError) as caught, storage_errors(url):
        raise OperationalError("SELECT 1", None, Exception(driver_says))
    assert caught.value.problem == (
        "the database postgresql://ann:***@db.example/kd fails: "
        "connection to ann:***@db.example failed"
    )


def test_what_is_no_fault_of_the_database_passes() -> None:
    with pytest.raises(ZeroDivisionError), storage_errors("sqlite:///x.db"):
        _ = 1 / 0


def test_a_url_is_shown_without_what_may_be_secret() -> None:
    url = make_url(f"mysql+pymysql://ann:{QUOTED}@host:1/kd?ssl_key=hunter2")
    assert shown(url) == "mysql+pymysql://ann:***@host:1/kd"
    assert url.password == SECRET
