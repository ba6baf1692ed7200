"""A database that goes away is waited for; a file that is broken is not."""

import sqlite3
import time
from pathlib import Path

import psycopg
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError

from kdbench.search import patience
from kdbench.search.patience import PATIENT, Patience, PatientStorage, is_gone
from kdbench.search.storage import connect


def error(orig: Exception, *, cut: bool = False) -> OperationalError:
    return OperationalError("SELECT 1", None, orig, connection_invalidated=cut)


def wrapped(cause: Exception) -> StorageInternalError:
    """As Optuna raises it."""
    made = StorageInternalError("An exception is raised during the commit.")
    made.__cause__ = cause
    return made


def asked_again(cause: Exception) -> PendingRollbackError:
    """What SQLAlchemy says to who asks once more on a broken connection, as Optuna does."""
    made = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
    made.__context__ = cause
    return made


SHUT_DOWN = psycopg.errors.AdminShutdown("terminating connection")
NEVER = psycopg.OperationalError("connection refused")


@pytest.mark.parametrize(
    ("why", "gone"),
    [
        (error(SHUT_DOWN), True),
        (wrapped(error(SHUT_DOWN)), True),
        (error(NEVER), True),
        (error(psycopg.OperationalError("failed: FATAL:  password authentication failed")), False),
        (error(psycopg.OperationalError("fe_sendauth: no password supplied")), False),
        (error(psycopg.OperationalError('failed: FATAL:  database "kd" does not exist')), False),
        (error(psycopg.OperationalError("FATAL:  the database system is starting up")), True),
        (wrapped(asked_again(error(SHUT_DOWN))), True),
        (wrapped(asked_again(error(sqlite3.OperationalError("disk I/O error")))), False),
        (error(psycopg.errors.TooManyConnections("sorry")), True),
        (error(psycopg.errors.SerializationFailure("again")), True),
        (error(psycopg.errors.CannotConnectNow("starting up")), True),
        (error(Exception("server has gone away"), cut=True), True),
        (error(psycopg.errors.InsufficientPrivilege("no")), False),
        (error(psycopg.errors.UndefinedTable("no such")), False),
        (error(psycopg.errors.DiskFull("full")), False),
        (error(Exception("Access denied")), False),
        (error(sqlite3.OperationalError("no such table: trials")), False),
        (wrapped(error(sqlite3.OperationalError("database or disk is full"))), False),
        (wrapped(ValueError("another")), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_is_gone_and_may_come_back(why: BaseException, gone: bool) -> None:
    assert is_gone(why) is gone


class Flaky:
    """Fails so many times."""

    def __init__(self, n: int, why: DBAPIError) -> None:
        self.n, self.why = n, why

    def __call__(self) -> str:
        self.n -= 1
        if self.n >= 0:
            raise self.why
        return "answer"


def test_a_call_is_made_again_until_it_is_answered_and_the_wait_is_told() -> None:
    slept: list[float] = []
    told: list[str] = []
    waits = Patience(100.0, sleep=slept.append, tell=told.append)
    assert not waits.was_away
    assert waits.call(Flaky(5, error(NEVER))) == "answer"
    assert slept == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert told == [
        "the database is gone; waiting for it, 100 s at most",
        "the database is back after 0 s",
    ]
    assert waits.was_away


def test_a_connection_that_was_cut_is_made_again_without_a_word() -> None:
    told: list[str] = []
    assert Patience(sleep=lambda _: None, tell=told.append).call(Flaky(1, error(NEVER))) == "answer"
    assert told == []


def test_patience_ends_and_nobody_waits_a_second_time() -> None:
    slept: list[float] = []
    waits = Patience(0.0, sleep=slept.append)
    with pytest.raises(OperationalError):
        waits.call(Flaky(1, error(NEVER)))

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(0.001)

    again = Patience(0.02, sleep=sleep)
    slept.clear()
    with pytest.raises(OperationalError):
        again.call(Flaky(10**6, error(NEVER)))
    assert slept
    slept.clear()
    with pytest.raises(OperationalError):
        again.call(Flaky(1, error(NEVER)))
    assert slept == []
    again.call(Flaky(0, error(NEVER)))  # it came back after all
    again.call(Flaky(1, error(NEVER)))
    assert slept == [0.0]


def test_an_interrupt_ends_the_wait() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Patience(sleep=interrupted).call(Flaky(9, error(NEVER)))


def test_every_call_of_the_storage_is_patient() -> None:
    ours = {*PATIENT, "set_trial_state_values", "record_heartbeat", "_get_stale_trial_ids"}
    asked = {
        name
        for name in vars(RDBStorage)
        if name.startswith(("get_", "set_", "create_", "delete_", "record_", "_get_", "_set_"))
        and not name.endswith(("_without_commit", "_for_mysql"))
    }
    local = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback", "get_current_version"}
    local |= {"get_head_version", "get_all_versions", "_get_prepared_new_trial"}
    assert asked - local - {"_get_best_trial_id"} <= ours


@pytest.fixture
def storage(tmp_path: Path) -> PatientStorage:
    made = connect(f"sqlite:///{tmp_path}/optuna.db", create=True)
    made.patience = Patience(sleep=lambda _: None)
    return made


FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


def breaking(
    monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool, why: Exception | None = None
) -> list[str]:
    """The first call of Optuna's own loses its connection before or after it did its work."""
    plain, calls = getattr(RDBStorage, name), []

    def call(self: PatientStorage, *args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) > 1:
            return plain(self, *args, **kwargs)
        if after:
            plain(self, *args, **kwargs)
        raise why or wrapped(error(SHUT_DOWN))

    monkeypatch.setattr(RDBStorage, name, call)
    return calls


@pytest.mark.parametrize("after", [False, True])
def test_a_trial_whose_connection_breaks_while_it_is_told_is_told_once(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    study = storage.create_new_study([StudyDirection.MINIMIZE] * 2, "demo")
    trial = storage.create_new_trial(study)
    calls = breaking(monkeypatch, "set_trial_state_values", after=after)
    assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0, 2.0])
    assert len(calls) == 2
    assert storage.get_trial(trial).values == [1.0, 2.0]


def test_a_trial_that_another_one_ended_meanwhile_is_not_told(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = storage.create_new_study([StudyDirection.MINIMIZE], "demo")
    trial = storage.create_new_trial(study)
    storage.set_trial_state_values(trial, TrialState.FAIL)
    breaking(monkeypatch, "set_trial_state_values", after=False)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])


@pytest.mark.parametrize("why", [None, FULL])
def test_a_heartbeat_that_fails_is_left_to_the_next_one(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch, why: Exception | None
) -> None:
    study = storage.create_new_study([StudyDirection.MINIMIZE], "demo")
    trial = storage.create_new_trial(study)
    calls = breaking(monkeypatch, "record_heartbeat", after=False, why=why)
    storage.record_heartbeat(trial)
    storage.record_heartbeat(trial)
    assert len(calls) == 2


def test_nobody_is_stale_while_the_database_is_hardly_back(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RDBStorage, "_get_stale_trial_ids", lambda self, study: [7])
    assert storage._get_stale_trial_ids(1) == [7]
    storage.patience.call(Flaky(1, error(NEVER)))
    assert storage._get_stale_trial_ids(1) == []
    monkeypatch.setattr(patience, "AFTERWARDS_S", 0.0)
    assert storage._get_stale_trial_ids(1) == [7]
