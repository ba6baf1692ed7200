"""What a node of the cluster adds to a study: looked at there, for a login node is another one.

Device, meter and fingerprint of a study are those of its workers; one small job finds them.
Run as a program it is that job: settings on stdin, what it found on stdout.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdbench import config
from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError, LauncherError
from kdbench.records import plain
from kdbench.search.crew import ONE_THREAD, STORAGE
from kdbench.search.ground import Ground, survey
from kdbench.search.slurm import n_gpus, options, outside, refused
from kdbench.store import Store

STOP_S = 20.0


def survey_by_slurm(cfg: StudyConfig, store: Store, command: Sequence[str]) -> Ground:
    """See `ground.survey`, on a node; waits in Slurm's queue for it.

    Args:
        cfg: The study; its launcher says where.
        store: Which the node must see under the same path.
        command: Of kdbench; its interpreter runs there.

    Raises:
        KdbenchError: What is missing there, or Slurm refuses.
    """
    kept = {key: value for key, value in os.environ.items() if key != STORAGE}
    asked = {"settings": config.settings(cfg), "root": str(store.root)}
    arguments = ["srun", "--quiet", *options(cfg), command[0], "-m", __name__]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**outside(kept), **({} if n_gpus(cfg) else ONE_THREAD)},
        start_new_session=True,  # srun has questions of its own to a terminal's Ctrl-C
    )
    try:
        said, complaints = process.communicate(json.dumps(asked))
    except BaseException:  # an interrupt: the job must not outlive us
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=STOP_S)
        process.kill()
        raise
    return _found(said, complaints)


def _found(said: str, complaints: str) -> Ground:
    last = said.strip().rpartition("\n")[2]
    try:
        answer: Mapping[str, Any] = json.loads(last)
    except ValueError:
        lines = complaints.strip().splitlines()
        if not any(": task 0: " in line for line in lines):  # it never ran
            raise refused("srun", complaints) from None
        lines = [line for line in lines if not line.startswith("srun:")] or ["it said nothing"]
        raise LauncherError(
            f"the job that looks at a node for the study broke: {lines[-1]}",
            fix="see that the nodes have this kdbench and Python under the same path; "
            "`srun kdbench doctor` tells more",
        ) from None
    if "problem" in answer:
        raise KdbenchError(f"on a node: {answer['problem']}", fix=str(answer["fix"]))
    return TypeAdapter(Ground).validate_python(answer["ground"])


def main() -> None:
    """Looks at this machine for a study."""
    asked = json.load(sys.stdin)
    store = Store(Path(asked["root"]))
    with contextlib.redirect_stdout(sys.stderr):  # of libraries, about themselves
        answer: dict[str, Any]
        try:
            cfg = config.from_settings(asked["settings"], "the study")
            answer = {"ground": plain(survey(cfg, store))}
        except KdbenchError as why:
            answer = {"problem": why.problem, "fix": why.fix}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
