"""A disk that is full, read-only or broken at every place where a command writes.

Each command runs in one process (`tests/support/disk_faults.py`), once for each place. Every single
write of theirs fails in `python -m benchmarks.faults disk`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disk import FaultyDisk

QUICK = ("search", "export", "encode", "decode", "measure", "bench")
TRIED = [
    *((command, kind) for command in QUICK for kind in ("full", "read-only", "broken")),
    ("report", "full"),
    ("teach", "full"),
    ("trial", "full"),
]


def failures(command: str, kind: str, folder: Path, *more: str) -> list[dict[str, Any]]:
    """What came of each."""
    disk = FaultyDisk(folder / "block")
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.disk_faults", command, kind, str(folder), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", **disk.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(("command", "kind"), TRIED)
def test_a_write_that_fails_ends_with_its_fix_and_the_same_command_goes_on(
    command: str, kind: str, tmp_path: Path
) -> None:
    found = failures(command, kind, tmp_path)
    assert len(found) > 3
    assert [each for each in found if each["problem"]] == []
    assert any(each["code"] == 1 for each in found)
