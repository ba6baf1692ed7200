"""What is built once for all, also on a disk that several machines have: caches of every kind."""

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from kdbench.errors import StoreError, notice
from kdbench.files import load_record, write_json, writing

T = TypeVar("T")
UNFINISHED = ".tmp"
SILENT_S = 3600.0
POLL_S = 0.1
FORGOTTEN_S = 24 * 3600.0


def cached(path: Path, kind: type[T], compute: Callable[[], T]) -> T:
    """The record in `path`, or what `compute` gives, kept there for all who ask later.

    Two who ask at once compute once: the second waits. A damaged file is computed again, since a
    cache can lose nothing, and somebody is told.
    """
    with turn_to_build(path):
        if path.exists():
            try:
                return load_record(path, kind)
            except StoreError as why:
                notice(f"{why.problem}; it is computed again")
        made = compute()
        write_json(path, made)
    return made


@contextmanager
def turn_to_build(path: Path, *, silent_s: float = SILENT_S) -> Iterator[Callable[[], None]]:
    """One process at a time; gives what it calls now and then to say that it goes on.

    Nobody waits for ever: where the disk has no locks, or who has the turn says nothing for
    `silent_s` (it is stopped, or on a machine that is cut off), two build at the same time, each
    into `unfinished` of its own.

    Args:
        path: What is built; its folder is made if need be, and a file .lock stays beside it.
        silent_s: How long a builder may say nothing [s].

    Raises:
        StoreError: It cannot be opened.
    """
    lock = path.with_suffix(".lock")
    with writing(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    said, since = os.fstat(descriptor).st_mtime_ns, time.monotonic()
    try:
        while not _flocked(descriptor) and time.monotonic() - since < silent_s:
            time.sleep(POLL_S)
            if (now := lock.stat().st_mtime_ns if lock.exists() else said) != said:
                said, since = now, time.monotonic()
        yield lambda: os.utime(descriptor)
    finally:
        os.close(descriptor)


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as why:
        if why.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def unfinished(path: Path) -> Path:
    """Where this process alone builds what shall be `path`; what the dead left is removed."""
    here = socket.gethostname()
    for left in path.parent.glob(f"{path.stem}*{UNFINISHED}"):
        host, _, pid = left.name.removesuffix(UNFINISHED).partition("@")[2].rpartition("@")
        with suppress(OSError):
            old = time.time() - left.stat().st_mtime > FORGOTTEN_S
            if old or not host or (host == here and not Path(f"/proc/{pid}").exists()):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{path.stem}@{here}@{os.getpid()}{UNFINISHED}")
