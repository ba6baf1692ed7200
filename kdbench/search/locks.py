"""Who is alive: one `flock` for each worker of a study, released by the kernel when it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from kdbench.errors import StoreError
from kdbench.files import writing
from kdbench.store import Store

ASK = "ask"
FRONT = "front"
UPLOAD = "upload"
COORDINATOR = "coordinator"
POLL_S = 0.02
LOOK_S = 0.1  # who only looks whether a worker lives has let go of its lock by then


class Lock:
    """One lock file; holds the pid of its holder for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> bool:
        """Whether we hold it now; False if another process does."""
        if self._fd is not None:
            return True
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError as why:
            os.close(fd)
            raise StoreError(
                f"{self._path} cannot be locked: {str(why.strerror).lower()}",
                fix="mount its disk with locks (NFS 4, or lockd), or give this machine a root of "
                "its own: `kdbench worker --root FOLDER --upload`",
            ) from None
        with suppress(OSError):  # who holds it is told for messages only; the kernel's lock counts
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd
        return True

    def release(self) -> None:
        """Let go; nothing happens if we do not hold it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def holder(self) -> str:
        """Pid of who took it last."""
        return self._path.read_text() if self._path.exists() else ""


class StudyLocks:
    """The locks of one study on this host."""

    def __init__(self, store: Store, study: str) -> None:
        self._folder = store.study_folder(study) / "workers"
        self._study = study

    def lock(self, name: str | int) -> Lock:
        """The lock of a worker, or `ASK`, `FRONT`, `COORDINATOR`; not taken yet."""
        return Lock(self._folder / f"{name}.lock")

    def log(self, index: int) -> Path:
        """What a worker process printed."""
        return self._folder / f"{index}.log"

    def is_alive(self, index: int) -> bool:
        """Whether a worker of this index runs on this host."""
        lock = self.lock(index)
        free = lock.take()
        lock.release()
        return not free

    def alive(self) -> list[int]:
        """Indexes of the workers that run on this host."""
        indexes = [int(p.stem) for p in self._folder.glob("*.lock") if p.stem.isdecimal()]
        return [index for index in sorted(indexes) if self.is_alive(index)]

    @contextmanager
    def worker(self, wished: int | None, *, patience_s: float = 0.0) -> Iterator[int]:
        """The index of a worker, held while it lives.

        Chosen and taken in one step: of two that begin at once, each has its own.

        Args:
            wished: Taken if it is free within the patience: a predecessor may just be ending.
                Otherwise, and for None, the lowest free one.
            patience_s: See there.
        """
        wishes = [] if wished is None else [(wished, patience_s)]
        for index, patience in chain(wishes, ((each, LOOK_S) for each in count())):
            if lock := self._taken(index, patience):
                try:
                    yield index
                finally:
                    lock.release()
                return

    @contextmanager
    def coordinator(self) -> Iterator[None]:
        """Held while `kdbench search` watches its workers.

        Raises:
            StoreError: This study is being searched.
        """
        lock = self._taken(COORDINATOR, 0.0)
        if lock is None:
            holder = self.lock(COORDINATOR).holder
            raise StoreError(
                f"study {self._study!r} is being searched already, by process {holder}",
                fix=f"wait until that search ends, or stop it with `kill -INT {holder}`",
            )
        try:
            yield
        finally:
            lock.release()

    def _taken(self, name: str | int, patience_s: float) -> Lock | None:
        """A lock that is held now; None if another process held it all the while."""
        lock, end = self.lock(name), time.monotonic() + patience_s
        while not lock.take():
            if time.monotonic() > end:
                return None
            time.sleep(POLL_S)
        return lock
