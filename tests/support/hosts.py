"""Machines that share nothing but a database, all on this one: own names, own roots."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdbench.store import Store
from tests.support import processes
from tests.support.stub_kdbench import COMMAND

PATIENCE_S = 180.0
NAMED = ("unshare", "--uts", *(() if os.geteuid() == 0 else ("--map-root-user",)))


def _may_be_named() -> bool:
    if not shutil.which("unshare"):
        return False
    tried = subprocess.run([*NAMED, "hostname", "other"], capture_output=True, check=False)
    return tried.returncode == 0


@dataclass
class Host:
    """One machine.

    Attributes:
        name: As its processes see it.
        folder: Its disk.
        url: Of the database that all machines have.
    """

    name: str
    folder: Path
    url: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not _may_be_named():
            pytest.skip("this user may not give a process another host name (unshare --uts)")
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def store(self) -> Store:
        return Store(self.folder / "runs")

    def start(
        self, *arguments: str, program: Sequence[str] = COMMAND, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command of kdbench (the stub's) here."""
        script = f'hostname {self.name} && exec "$@"'
        root = ("--root", str(self.store.root))
        process = subprocess.Popen(
            [*NAMED, "sh", "-c", script, "sh", *program, *arguments, *root],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "KDBENCH_STORAGE": self.url,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a worker here that uploads."""
        return self.start("worker", "--upload", *arguments, **environment)

    def workers(self) -> list[int]:
        """Numbers of the trials that are in training here."""
        if "demo" not in self.store.studies():
            return []
        states = self.store.workers("demo")
        return [s.trial for s in states if s.trial is not None and s.progress.stage == "training"]

    def close(self) -> None:
        """End what still runs."""
        processes.end(self.processes)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what was printed."""
    return processes.finished(process, PATIENCE_S)
