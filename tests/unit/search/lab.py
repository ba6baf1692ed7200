"""One study folder and its database, worked on in this process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from kdbench.config import StudyConfig
from kdbench.records import Bench, TrialResult, TrialSpec
from kdbench.search.budget import Budget, Verdict, set_budget
from kdbench.search.ground import Ground
from kdbench.search.study import begin
from kdbench.search.task import Run
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub


@dataclass
class Recorded:
    """The stub, with whatever a test wants to happen first; remembers the specs it was given."""

    first: Callable[[TrialSpec], None] = lambda spec: None
    specs: list[TrialSpec] = field(default_factory=list)

    def __call__(
        self,
        spec: TrialSpec,
        bench: Bench,
        gate: stub.Gate,
        folder: Path,
        on_progress: stub.Report,
    ) -> TrialResult:
        self.specs.append(spec)
        self.first(spec)
        return stub.run(spec, bench, gate, folder, on_progress)


@dataclass
class Lab:
    """See the module."""

    folder: Path
    store: Store

    def config(self, *overrides: str) -> StudyConfig:
        return stub.study(self.folder, *overrides)

    def begin(
        self, *overrides: str, until_s: float | None = None, ground: Ground = stub.GROUND
    ) -> optuna.Study:
        """Start the study, or go on with it."""
        cfg = self.config(*overrides)
        study, _ = begin(cfg, self.store, self.store.database_url(cfg.name), lambda: ground)
        set_budget(study, Budget(trials=cfg.trials, until_s=until_s))
        return study

    def work(self, run: Run = stub.run, index: int = 0) -> Verdict:
        return work("demo", self.store, index=index, run=run)

    def states(self) -> list[str]:
        """What the folders say, by number."""
        return [trial.state for trial in self.store.trials("demo")]


def names(trials: list[FrozenTrial]) -> list[str]:
    """What Optuna says, by number."""
    return [trial.state.name for trial in trials]
