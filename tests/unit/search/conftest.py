"""A store, a study in it that has begun, and a way to work on it in this process."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kdbench.store import Store
from tests.unit.search.lab import Lab


@pytest.fixture(autouse=True, scope="session")
def _no_power_cut() -> Iterator[None]:
    """Commits do not wait for the disk: ten times faster, and no test pulls the plug."""

    def relax(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, Store(tmp_path / "runs"))
