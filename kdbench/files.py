"""Files that are whole or not there, and records that are read back strictly.

Writing: temporary file beside it, fsync, rename, fsync of the folder.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdbench.errors import StoreError
from kdbench.records import SCHEMA, plain

T = TypeVar("T")
UNFINISHED = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file is where a folder should be"),
    errno.EROFS: "the file system is read-only",
}


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all, its folder too if need be.

    Args:
        path: Replaced if it is there.
        data: Its content.
        durable: Whether it must survive a power cut; without, a crash of the process only.

    Raises:
        StoreError: The disk is full, or the folder cannot be written; says what to do.
    """
    with _temporary(path, data, durable=durable) as temporary:
        temporary.replace(path)


def require_writable(folder: Path) -> None:
    """Write and remove a small file in `folder`, which is made if need be.

    Raises:
        StoreError: The folder cannot be written, or its disk is full.
    """
    probe = folder / f".probe-{os.getpid()}"
    with _says_why(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"kdbench\n")
        finally:
            probe.unlink(missing_ok=True)


def append_log(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line to a log; a line is written whole or torn only at its end."""
    with _says_why(path), path.open("ab") as file:
        file.write(json.dumps(plain(entry), allow_nan=False).encode() + b"\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that a crash tore is left out. Empty without a log."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as err:
        raise damaged(path, str(err)) from None


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write a record, see `write_atomic`."""
    write_atomic(path, _json(path, value), durable=durable)


def write_once(path: Path, value: object) -> bool:
    """Write a record unless its file is there; of two writers one is told True."""
    with _temporary(path, _json(path, value), durable=True) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, refuses to replace
        except FileExistsError:
            return False
    return True


def _json(path: Path, value: object) -> bytes:
    try:
        text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    except ValueError:
        raise StoreError(
            f"{path} would hold NaN or infinity, which are no results",
            fix="report this with the spec of the trial: a measurement is broken",
        ) from None
    return f"{text}\n".encode()


@contextmanager
def _temporary(path: Path, data: bytes, *, durable: bool) -> Iterator[Path]:
    """A file beside `path` that holds `data`, to be moved there by the body."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with _says_why(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            yield temporary
            if durable:
                _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _says_why(path: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError with its fix."""
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            raise StoreError(
                f"{path} cannot be written: the disk is full",
                fix="free some space and run the same command again, what is finished is kept; "
                "or use another disk with `--root FOLDER`",
            ) from None
        reason = _REASONS.get(err.errno or 0, str(err.strerror).lower())
        raise StoreError(
            f"{path} cannot be written: {reason}",
            fix="name a folder that can be written with `--root FOLDER` or KDBENCH_ROOT",
        ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))


def load(path: Path, kind: type[T]) -> T:
    """A record from its file, strictly.

    Raises:
        StoreError: Not JSON, of a newer kdbench, or with wrong, missing or unknown fields.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text)
    except ValueError as err:
        raise damaged(path, str(err)) from None
    except OSError as err:
        raise StoreError(
            f"{path} cannot be read: {str(err.strerror).lower()}",
            fix="make it readable for this user; `--root FOLDER` names another store",
        ) from None
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, this kdbench reads up to {SCHEMA}",
            fix="use the newer kdbench that wrote it: `pip install --upgrade kdbench`",
        )
    if schema is None:
        raise damaged(path, "it has no schema number")
    try:
        made: T = _adapter(cast(Any, kind)).validate_json(f"[{text}]")[0]
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(map(str, first["loc"][1:]))
        raise damaged(path, f"{key}: {first['msg'].lower()}") from None
    return made


def damaged(path: Path, why: str) -> StoreError:
    """What to raise for a file that is not what was written."""
    return StoreError(
        f"{path} is damaged: {why}",
        fix="restore it from a copy, or move its folder away; the rest of the study is intact",
    )


def cached(path: Path, kind: type[T], compute: Callable[[], T]) -> T:
    """The record in `path`, or what `compute` gives, kept there for all who ask later.

    Two who ask at once compute once: the second waits. A damaged file is computed again, since a
    cache can lose nothing.
    """
    with _says_why(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with turn_to_build(path.with_suffix(".lock")):
        try:
            made: T = _adapter(cast(Any, kind)).validate_json(b"[" + path.read_bytes() + b"]")[0]
        except (OSError, ValidationError):
            made = compute()
            write_json(path, made)
    return made


# --- what is built once for all, also on a disk that several machines have ------------------------

SILENT_S = 3600.0
POLL_S = 0.1
FORGOTTEN_S = 24 * 3600.0


@contextmanager
def turn_to_build(lock: Path, *, silent_s: float = SILENT_S) -> Iterator[Callable[[], None]]:
    """One process at a time; gives what it calls now and then to say that it goes on.

    Nobody waits for ever: where the disk has no locks, or who has the turn says nothing for
    `silent_s` (it is stopped, or on a machine that is cut off), two build at the same time, each
    into `unfinished` of its own.

    Args:
        lock: A file for it, beside what is built.
        silent_s: How long a builder may say nothing [s].
    """
    with _says_why(lock):
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
