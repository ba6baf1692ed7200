"""Files that are whole or not there, and records that are read back strictly.

Writing: temporary file beside it, fsync, rename, fsync of the folder. Records carry their checksum
(`seals`). Whoever must write in another way does so inside `writing`, which says why a disk
refuses.
"""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from kdbench.errors import StoreError
from kdbench.records import SCHEMA, plain
from kdbench.seals import FIELD, BrokenSealError, seal, seal_json, unseal, unseal_json

T = TypeVar("T")
_SCHEMA_LAST = re.compile(
    rf'\n "schema": ([0-9]{{1,9}})(?:,\n "{FIELD}": "sha256:[0-9a-f]{{64}}")?\n}}\n\Z'
)
ELSEWHERE = "name a folder that can be written with `--root FOLDER` or KDBENCH_ROOT"
TEMPORARY = "set TMPDIR to a folder on another disk"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file is where a folder should be"),
    errno.EROFS: "the file system is read-only",
}


def write_atomic(
    path: Path, data: bytes, *, durable: bool = True, elsewhere: str = ELSEWHERE
) -> None:
    """Write a file whole or not at all, its folder too if need be.

    Args:
        path: Replaced if it is there.
        data: Its content.
        durable: Whether it must survive a power cut; without, a crash of the process only.
        elsewhere: The part of the fix that says how to choose another place.

    Raises:
        StoreError: The disk is full, or the folder cannot be written; says what to do.
    """
    with _temporary(path, data, durable=durable, elsewhere=elsewhere) as temporary:
        temporary.replace(path)


def require_writable(folder: Path, *, elsewhere: str = ELSEWHERE) -> None:
    """Write and remove a small file in `folder`, which is made if need be.

    Args:
        folder: Where something shall be written later.
        elsewhere: As for `write_atomic`.

    Raises:
        StoreError: The folder cannot be written, or its disk is full.
    """
    probe = folder / f".probe-{os.getpid()}"
    with writing(folder, elsewhere=elsewhere):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"kdbench\n")
        finally:
            probe.unlink(missing_ok=True)


def write_sealed(path: Path, data: bytes, *, elsewhere: str = ELSEWHERE) -> None:
    """Write data with their checksum, see `write_atomic` and `read_sealed`."""
    write_atomic(path, seal(data), elsewhere=elsewhere)


def read_sealed(path: Path) -> bytes:
    """What `write_sealed` wrote there, or all of a file from before there were checksums.

    Raises:
        StoreError: It cannot be read, or is not what its checksum says.
    """
    try:
        return unseal(path.read_bytes())
    except BrokenSealError as why:
        raise damaged(path, str(why)) from None
    except OSError as err:
        raise unreadable(path, err) from None


def sweep(folder: Path) -> None:
    """Remove what a writer that died has left of files that it did not finish."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def append_log(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line to a log; a line is written whole or torn only at its end."""
    with writing(path), path.open("ab") as file:
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


def write_json(
    path: Path, value: object, *, durable: bool = True, elsewhere: str = ELSEWHERE
) -> None:
    """Write a record, see `write_atomic`."""
    write_atomic(path, _json(path, value), durable=durable, elsewhere=elsewhere)


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
    return seal_json(f"{text}\n").encode()


@contextmanager
def _temporary(
    path: Path, data: bytes, *, durable: bool, elsewhere: str = ELSEWHERE
) -> Iterator[Path]:
    """A file beside `path` that holds `data`, to be moved there by the body."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with writing(path, elsewhere=elsewhere):
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
def writing(path: Path, *, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turns an OSError of the block, which writes `path`, into a StoreError with its fix."""
    try:
        yield
    except OSError as err:
        raise _refused(path, err, elsewhere=elsewhere) from None


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what a disk refuses anywhere in the block into a StoreError with its fix.

    For whole commands, whose libraries write where we cannot know: temporary files, fonts.
    Other errors pass.
    """
    try:
        yield
    except OSError as err:
        if err.errno not in (*_FULL, errno.EROFS, errno.EIO, errno.ENAMETOOLONG):
            raise
        named = err.filename if isinstance(err.filename, str) else None
        path = Path(named or "a file")
        if path.is_relative_to(tempfile.gettempdir()):
            raise _refused(path, err, elsewhere=TEMPORARY) from None
        raise _refused(path, err) from None


def _refused(path: Path, err: OSError, *, elsewhere: str = ELSEWHERE) -> StoreError:
    """Why a write failed, and what to do."""
    if err.errno in _FULL:
        return StoreError(
            f"{path} cannot be written: the disk is full",
            fix="free some space and run the same command again, what is finished is kept; "
            f"or {elsewhere}",
        )
    reason = _REASONS.get(err.errno or 0, str(err.strerror or err).lower())
    return StoreError(f"{path} cannot be written: {reason}", fix=elsewhere)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))


def load(path: Path, kind: type[T]) -> T:
    """A record from its file, strictly.

    Raises:
        StoreError: Not JSON, of a newer kdbench, not what its checksum says, or with wrong, missing
            or unknown fields.
    """
    text = _text(path)
    schema = _schema(path, text)
    if isinstance(schema, int) and schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, this kdbench reads up to {SCHEMA}",
            fix="use the newer kdbench that wrote it: `pip install --upgrade kdbench`",
        )
    if schema is None:
        raise damaged(path, "it has no schema number")
    return _record(path, _without_checksum(path, text), kind)


def load_record(path: Path, kind: type[T]) -> T:
    """A record that has no schema number of its own: of a cache, which can be made again.

    Raises:
        StoreError: As `load`.
    """
    return _record(path, _without_checksum(path, _text(path)), kind)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file that is no record of ours alone, without its checksum.

    Raises:
        StoreError: Not JSON, no object, or not what its checksum says.
    """
    text = _text(path)
    tree = _tree(path, text)
    if not isinstance(tree, dict):
        raise damaged(path, "it holds no object")
    _without_checksum(path, text)
    tree.pop(FIELD, None)
    return tree


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as err:
        raise damaged(path, str(err)) from None
    except OSError as err:
        raise unreadable(path, err) from None


def _tree(path: Path, text: str) -> Any:
    try:
        return from_json(text)
    except ValueError as err:
        raise damaged(path, str(err)) from None


def _schema(path: Path, text: str) -> Any:
    """The schema number in an object; None without one.

    Taken from the end that `write_json` writes, where it is there: a record is parsed once.
    """
    last = _SCHEMA_LAST.match(text, max(text.rfind('\n "schema": '), 0))
    if last is not None:
        return int(last[1])
    tree = _tree(path, text)
    return tree.get("schema") if isinstance(tree, dict) else None


def _without_checksum(path: Path, text: str) -> str:
    def names_one() -> bool:
        tree = _tree(path, text)
        return isinstance(tree, dict) and FIELD in tree

    try:
        return unseal_json(text, names_one=names_one)
    except BrokenSealError as why:
        raise damaged(path, str(why)) from None


def _record(path: Path, text: str, kind: type[T]) -> T:
    try:
        made: T = _adapter(cast(Any, kind)).validate_json(f"[{text}]")[0]
    except ValidationError as err:
        _tree(path, text)  # says where it is no JSON
        first = err.errors()[0]
        key = ".".join(map(str, first["loc"][1:]))
        raise damaged(path, f"{key}: {first['msg'].lower()}") from None
    return made


def unreadable(path: Path, err: OSError) -> StoreError:
    """What to raise for a file that this user or the disk does not let be read."""
    return StoreError(
        f"{path} cannot be read: {str(err.strerror or err).lower()}",
        fix="make it readable for this user; `--root FOLDER` names another store",
    )


def damaged(path: Path, why: str) -> StoreError:
    """What to raise for a file that is not what was written."""
    return StoreError(
        f"{path} is damaged: {why}",
        fix="restore it from a copy, or move its folder away; the rest of the study is intact",
    )
