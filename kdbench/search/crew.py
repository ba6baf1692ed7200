"""The worker processes of one search: started, watched, started again once, stopped."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

from kdbench.files import writing
from kdbench.search.locks import StudyLocks
from kdbench.search.worker import PARENT
from kdbench.store import Store

COMMAND = (sys.executable, "-m", "kdbench")
STORAGE = "KDBENCH_STORAGE"  # environment: the URL may hold a password, and `ps` shows arguments
STOP_S = 60.0  # from a signal to the end of a worker; then it is killed
MAX_STARTS = 2
INTERRUPTED_CODE = 130  # of a worker that was told to stop, and did
N_LAST_LINES = 12
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(slots=True, kw_only=True)
class Member(ABC):
    """One worker: a process (`ProcessMember`) or a task of Slurm (`slurm_crew`).

    Attributes:
        index: That it was given; where another worker has it already, its log says which it took.
        log: Where its output goes.
        code: How it ended; None while it runs or waits. Negative: what killed it.
    """

    index: int
    log: Path
    n_starts: int = 1
    code: int | None = None

    @property
    def last_lines(self) -> str:
        """The end of what it printed; nothing if it never did."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.rstrip().splitlines()[-N_LAST_LINES:])

    @property
    @abstractmethod
    def fate(self) -> str:
        """How a killed one ended, for people."""


class AnyCrew(Protocol):
    """The workers of one search: processes (`Crew`) or tasks of Slurm (`slurm_crew`).

    Attributes:
        notices: What the user should know; who tells it empties the list.
    """

    notices: list[str]

    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def only_waits(self) -> bool: ...
    @property
    def ended_jobs(self) -> set[str]: ...
    def start(self, n: int) -> None: ...
    def ended(self) -> Sequence[Member]: ...
    def start_again(self, member: Any) -> bool: ...
    def stop(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class ProcessMember(Member):
    """One worker process; its code is negative if a signal killed it."""

    process: subprocess.Popen[bytes]

    @property
    def fate(self) -> str:
        """How a killed one ended, for people."""
        memory = ", as Linux does when memory runs out" if self.code == -signal.SIGKILL else ""
        return f"was killed by signal {-(self.code or 0)}{memory}"


class Crew:
    """Starts workers in sessions of their own, so that a terminal's Ctrl-C reaches only us.

    Args:
        store: Handed to them by its root.
        study: The study they work on.
        url: Its database; handed over in the environment.
        command: What runs kdbench.
        on_cpu: Whether each gets one thread.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        url: str,
        *,
        command: Sequence[str] = COMMAND,
        on_cpu: bool = True,
    ) -> None:
        self._store, self._study, self._command = store, study, tuple(command)
        self._env: Mapping[str, str] = {
            **os.environ,
            STORAGE: url,
            PARENT: str(os.getpid()),
            **(ONE_THREAD if on_cpu else {}),
        }
        self._locks = StudyLocks(store, study)
        self.notices: list[str] = []
        self._members: list[ProcessMember] = []

    @property
    def members(self) -> Sequence[ProcessMember]:
        """All that were started."""
        return self._members

    def start(self, n: int) -> None:
        """Start `n` workers, beside those that run in this root already."""
        free = (index for index in count() if not self._locks.is_alive(index))
        for index in islice(free, n):
            log = self._locks.log(index)
            with writing(log):
                log.unlink(missing_ok=True)
            process = self._spawn(index, log)
            self._members.append(ProcessMember(index=index, log=log, process=process))

    def ended(self) -> list[ProcessMember]:
        """Those that have ended since the last call."""
        gone = []
        for member in self._members:
            if member.code is None and (code := member.process.poll()) is not None:
                member.code = code
                gone.append(member)
        return gone

    def start_again(self, member: ProcessMember) -> bool:
        """Whether a killed worker gets another life; it has two."""
        if member.n_starts >= MAX_STARTS:
            return False
        member.process, member.code = self._spawn(member.index, member.log), None
        member.n_starts += 1
        return True

    @property
    def is_running(self) -> bool:
        """Whether any worker lives."""
        return any(member.code is None for member in self._members)

    @property
    def only_waits(self) -> bool:
        """Whether those that live have not begun; processes of ours begin at once."""
        return False

    @property
    def ended_jobs(self) -> set[str]:
        """Tasks of Slurm arrays that are no more: none is ours."""
        return set()

    def stop(self) -> None:
        """Ask all to stop, wait, and kill who does not."""
        for member in self._members:
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_S
        for member in self._members:
            try:
                member.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
        self.ended()

    def _spawn(self, index: int, log: Path) -> subprocess.Popen[bytes]:
        arguments = ("worker", "--study", self._study, "--index", str(index))
        with writing(log), log.open("ab") as out:
            return subprocess.Popen(
                (*self._command, *arguments, "--root", str(self._store.root)),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
