"""A disk that fails at the n-th change below a folder, for all processes that are started with it.

The library behind it is `faulty_disk.c`; what it counts are opens for writing, writes, syncs,
renames, links, folders made and files removed. It moves the wall clock, too.
"""

import atexit
import ctypes
import errno
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faulty_disk.c")
BLOCK = "FAULTY_DISK"  # environment: file of the control block
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}
N_BYTES = 1000


class _Control(ctypes.Structure):
    """As in the library."""

    _fields_ = (
        ("count", ctypes.c_int),
        ("at", ctypes.c_int),
        ("error", ctypes.c_int),
        ("stays", ctypes.c_int),
        ("failed", ctypes.c_int),
        ("clock_s", ctypes.c_int),
        ("traced", ctypes.c_int),
        ("prefix", ctypes.c_char * N_BYTES),
        ("what", ctypes.c_char * N_BYTES),
    )


class FaultyDisk:
    """The control block in `file`, which is made if it is not there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        size = ctypes.sizeof(_Control)
        if not file.exists():
            file.write_bytes(bytes(size))
        with file.open("r+b") as opened:
            self._block = _Control.from_buffer(mmap.mmap(opened.fileno(), size))

    @classmethod
    def here(cls) -> "FaultyDisk":
        """The one that this process was started with."""
        return cls(Path(os.environ[BLOCK]))

    @property
    def environment(self) -> Mapping[str, str]:
        """With which processes see this disk.

        Skips where there is no C compiler.
        """
        return {"LD_PRELOAD": str(_built()), BLOCK: str(self._file)}

    def watch(self, folder: Path, kind: str) -> None:
        """Count and list changes below `folder` that such a disk could refuse; none fails."""
        self._trace.unlink(missing_ok=True)
        self._block.traced = 1
        self.arm(folder, 0, kind)

    @property
    def seen(self) -> list[str]:
        """Every change since `watch`: the call and the path."""
        return self._trace.read_text().splitlines() if self._trace.exists() else []

    @property
    def _trace(self) -> Path:
        return self._file.with_name(f"{self._file.name}.trace")

    def arm(self, folder: Path, at: int, kind: str, *, stays: bool = True) -> None:
        """Let change `at` below `folder` fail, counted from 1, and with `stays` all later ones."""
        block = self._block
        block.prefix = b""
        block.count = block.failed = 0
        block.at, block.error, block.stays, block.what = at, ERRORS[kind], stays, b""
        block.prefix = str(folder).encode()

    def heal(self) -> None:
        """Nothing fails any more, and nothing is counted."""
        self._block.prefix, self._block.traced = b"", 0

    def jump(self, seconds: int) -> None:
        """Move the wall clock of all processes."""
        self._block.clock_s += seconds

    @property
    def n_changes(self) -> int:
        """Counted so far."""
        return int(self._block.count)

    @property
    def n_failed(self) -> int:
        """Of them."""
        return int(self._block.failed)

    @property
    def first_failure(self) -> str:
        """Call and path."""
        return str(self._block.what.decode())


@functools.cache
def _built() -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NO C COMPILER: what happens when a disk fails is not checked")
    folder = Path(tempfile.mkdtemp(prefix="kdbench-faulty-disk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "faulty_disk.so"
    flags = ["-O2", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library
