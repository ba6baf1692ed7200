"""Whose turn it is on this host: many train, or one measures."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import psutil

from kdbench.device import synchronise
from kdbench.errors import DeviceError, StoreError

POLL_S = 0.05  # how often who waits for the lease looks again
PATIENCE_S = 3600.0  # a trainer's, while others measure


def host_lease() -> "Lease":
    """The lease that every study of this user on this host shares."""
    return Lease(Path(tempfile.gettempdir()) / f"kdbench-lease-{os.getuid()}")


class Lease:
    """Whose turn it is on this host: many train, or one measures.

    Trainers hold `lease` shared, a measurer holds it exclusively. `flock` is not fair, so a
    measurer first takes `turnstile`, through which every trainer must pass: who trains looks at
    it between steps and lets go. The kernel releases both when their holder dies.

    Args:
        folder: Where the lock files lie; made if missing.

    Attributes:
        waited_s: Seconds spent waiting for others, so far.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lease = _Lock(folder / "lease")
        self._turnstile = _Lock(folder / "turnstile")
        self.waited_s = 0.0

    @contextmanager
    def shared(self, timeout_s: float = PATIENCE_S) -> Iterator["Lease"]:
        """Held while training; call `yield_if_wanted` between steps.

        Raises:
            DeviceError: Others have measured for `timeout_s`; names them.
        """
        self._enter(fcntl.LOCK_SH, timeout_s)
        try:
            yield self
        finally:
            self._leave()

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator["Lease"]:
        """Held while measuring: nobody trains or measures meanwhile.

        Raises:
            DeviceError: Others did not let go within `timeout_s`; names them.
        """
        self._enter(fcntl.LOCK_EX, timeout_s)
        try:
            yield self
        finally:
            self._leave()

    def yield_if_wanted(self, device: str = "cpu", timeout_s: float = PATIENCE_S) -> float:
        """Seconds waited: 0.0 at once if nobody wants to measure, else as long as that took.

        Costs about 10 us when nobody waits. `device` is synchronised before it is let go.

        Raises:
            DeviceError: Others have measured for `timeout_s`; names them.
        """
        if self._turnstile.try_acquire(fcntl.LOCK_SH):
            self._turnstile.release()
            return 0.0
        synchronise(device)
        before_s = self.waited_s
        self._leave()
        self._enter(fcntl.LOCK_SH, timeout_s)
        return self.waited_s - before_s

    def _enter(self, mode: int, timeout_s: float) -> None:
        if self._lease.is_held:
            raise RuntimeError("this process holds the lease already")
        began = monotonic()
        try:
            self._turnstile.acquire(mode, began + timeout_s)
            self._lease.acquire(mode, began + timeout_s)
        except TimeoutError:
            raise self._timed_out(timeout_s) from None
        finally:
            if mode == fcntl.LOCK_SH or not self._lease.is_held:
                self._turnstile.release()
            self.waited_s += monotonic() - began
        with suppress(OSError):  # a full disk keeps nobody from his turn
            self._note.write_text("trains" if mode == fcntl.LOCK_SH else "measures")

    def _leave(self) -> None:
        with suppress(OSError):
            self._note.unlink(missing_ok=True)
        self._lease.release()
        self._turnstile.release()

    @property
    def _note(self) -> Path:
        """Says what this process does, for the messages of others; the locks decide."""
        return self._folder / f"holder.{os.getpid()}"

    def _timed_out(self, timeout_s: float) -> DeviceError:
        others = dict(_holders(self._folder))
        pids = " ".join(map(str, others)) or "PID"
        who = ", ".join(f"pid {pid} ({doing})" for pid, doing in others.items()) or "nobody known"
        return DeviceError(
            f"this host is not free after {timeout_s:g} s: held by {who}",
            fix=f"a stopped process goes on with `kill -CONT {pids}`; `kill {pids}` ends it",
        )


class _Lock:
    """One `flock`; opened anew each time, so that a fork never shares it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        return self._fd is not None

    def try_acquire(self, mode: int) -> bool:
        fd = self._open()
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def acquire(self, mode: int, end: float) -> None:
        while not self.try_acquire(mode):
            if monotonic() > end:
                raise TimeoutError
            sleep(POLL_S)

    def release(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing alone leaves it to forked children
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        try:
            if not self._path.parent.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(  # no fault of who would train or measure
                f"cannot open the lock {self._path}: {error.strerror}",
                fix=f"make {self._path.parent} a folder of yours, or set TMPDIR to another one",
            ) from None


def _holders(folder: Path) -> Iterator[tuple[int, str]]:
    """Pid of each living holder, and what it does; notes of the dead are removed."""
    for note in sorted(folder.glob("holder.*")):
        pid = int(note.suffix[1:])
        try:
            state = psutil.Process(pid).status()
            if state != psutil.STATUS_ZOMBIE:
                stopped = ", stopped" if state == psutil.STATUS_STOPPED else ""
                yield pid, note.read_text() + stopped
        except (psutil.NoSuchProcess, FileNotFoundError):
            note.unlink(missing_ok=True)
