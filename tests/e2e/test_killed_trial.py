"""A real trial, killed at random moments, ends with the bits of one that nobody touched."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdbench.store import TrialFolder
from tests.support import one_trial

pytestmark = pytest.mark.slow
N_KILLS = 5
N_BEFORE = 6  # lines of other stages before the first step, at most


def start(root: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.one_trial", str(root), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def to_the_end(root: Path, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What it told, and its last line."""
    process = start(root, folder)
    printed, _ = process.communicate()
    assert process.returncode == 0
    *told, last = map(json.loads, printed.splitlines())
    return told, last


def killed(root: Path, folder: Path, after: int) -> list[dict[str, Any]]:
    """What it told until it was killed, `after` so many lines."""
    process, told = start(root, folder), []
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            told.append(json.loads(line))
            if len(told) == after:
                process.kill()
                break
    process.wait()
    return told


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    one_trial.prepare(folder)
    return folder


def steps_of(told: list[dict[str, Any]]) -> list[int]:
    return [line["step"] for line in told if line["stage"] == "training"]


def test_a_trial_that_is_killed_at_random_moments_ends_with_the_same_bits(
    root: Path, tmp_path: Path
) -> None:
    """Each life is on another worker: in a folder of its own, with the checkpoint of the last."""
    told, undisturbed = to_the_end(root, tmp_path / "undisturbed")
    n_before = next(i for i, line in enumerate(told) if line["stage"] == "training")
    rng, reached = random.Random(6), 0
    folder = tmp_path / "0"
    for life in range(N_KILLS):
        # from the middle of what comes before the training to the middle of the evaluation
        rest = len(told) - n_before - reached
        seen = killed(root, folder, n_before // 2 + rng.randrange(1, max(2, rest)))
        if steps := steps_of(seen):
            assert steps[0] >= reached  # goes on where the last one was killed, or just behind
            reached = steps[-1]
        following = tmp_path / str(life + 1)
        following.mkdir()
        for checkpoint in TrialFolder(folder).checkpoints:
            checkpoint.replace(following / checkpoint.name)
        folder = following
    seen, resumed = to_the_end(root, folder)
    assert reached > 0
    assert len(steps_of(seen)) < one_trial.STEPS
    assert resumed == undisturbed
    shas = {
        hashlib.sha256(TrialFolder(where).student.read_bytes()).hexdigest()
        for where in (folder, tmp_path / "undisturbed")
    }
    assert shas == {undisturbed["hashes"]["weights"]}
    assert not TrialFolder(folder).checkpoints


def test_a_trial_whose_checkpoint_is_damaged_begins_again_and_ends_with_the_same_bits(
    root: Path, tmp_path: Path
) -> None:
    _, undisturbed = to_the_end(root, tmp_path / "undisturbed")
    seen = killed(root, tmp_path / "0", one_trial.STEPS // 2 + N_BEFORE)
    assert steps_of(seen)
    (checkpoint,) = TrialFolder(tmp_path / "0").checkpoints
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 0x10
    checkpoint.write_bytes(data)
    told, again = to_the_end(root, tmp_path / "0")
    assert steps_of(told) == [*range(1, one_trial.STEPS + 1)]
    assert again == undisturbed
