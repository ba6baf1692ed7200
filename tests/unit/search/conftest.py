"""A store, a study in it that has begun, and a way to work on it in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest

from kdbench.config import StudyConfig
from kdbench.search.ground import Ground
from kdbench.search.study import Budget, Verdict, begin, set_budget
from kdbench.search.task import Run
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub


@dataclass
class Lab:
    """One study folder and its database."""

    folder: Path
    store: Store

    def begin(
        self, *overrides: str, until_s: float | None = None, ground: Ground = stub.GROUND
    ) -> optuna.Study:
        """Start the study, or go on with it."""
        cfg = self.config(*overrides)
        study, _ = begin(cfg, self.store, self.store.database_url(cfg.name), lambda: ground)
        set_budget(study, Budget(trials=cfg.trials, until_s=until_s))
        return study

    def config(self, *overrides: str) -> StudyConfig:
        return stub.study(self.folder, *overrides)

    def work(self, run: Run = stub.run, index: int = 0) -> Verdict:
        return work("demo", self.store, index=index, run=run)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, Store(tmp_path / "runs"))


@pytest.fixture
def counted() -> tuple[Run, list[str]]:
    """The stub, and the hashes of the specs it was given."""
    hashes: list[str] = []

    def run(*args: object) -> object:
        hashes.append(args[0].hash)  # type: ignore[attr-defined]
        return stub.run(*args)  # type: ignore[arg-type]

    made: Callable[..., object] = run
    return made, hashes  # type: ignore[return-value]
