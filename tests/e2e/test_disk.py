"""A disk that is full, read-only or broken at the places where a command writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disk import ERRORS, FaultyDisk
from tests.support.disk_faults import COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_disk_fails_says_what_to_do_and_goes_on_when_it_is_well_again(
    command: str, tmp_path: Path
) -> None:
    """Places as `disk_faults` chooses them; with `--each write` it lets each single one fail.

    All kinds of failure in one process: they share its start, which takes longest.
    """
    disk = FaultyDisk(tmp_path / "block")
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.disk_faults", command, "all", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **disk.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    assert [each for each in outcomes if each["problem"] is not None] == []
    for kind in ERRORS:
        assert any(each["kind"] == kind and each["code"] == 1 for each in outcomes)
