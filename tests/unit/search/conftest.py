"""A store, a study in it that has begun, and a way to work on it in this process."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kdbench.search.patience import PatientStorage
from kdbench.store import Store
from tests.unit.search.lab import Lab


@pytest.fixture(autouse=True, scope="session")
def _no_power_cut() -> Iterator[None]:
    """Commits do not wait for the disk: ten times faster, and no test pulls the plug."""

    def relax(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):  # a server is told when it starts
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture(autouse=True)
def _no_connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests leave their storages to the end of the process, as commands do."""
    opened: list[PatientStorage] = []
    plain = PatientStorage.__init__

    def noted(self: PatientStorage, url: str, **options: object) -> None:
        opened.append(self)
        plain(self, url, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PatientStorage, "__init__", noted)
    yield
    for storage in opened:
        if hasattr(storage, "engine"):
            storage.close()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, Store(tmp_path / "runs"))
