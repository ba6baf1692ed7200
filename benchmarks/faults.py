"""What a study survives: processes killed at random moments, and a disk that fails at every write.

    python -m benchmarks.faults --parts kills --postgres    about half an hour
    python -m benchmarks.faults --parts disk --jobs 2       two hours: every write
    python -m benchmarks.faults --parts disk --commands search --kinds broken --each place
    python -m benchmarks.faults --kills 4 --trials 8 --commands encode    a smoke test

Kills: `--trials` listed specs, two workers, trials of 0.4 s that resume from checkpoints
(`tests/support/faults.py`); SIGKILLs at random moments to a worker, one in eight to the
coordinator; whenever the search ends it is started again. Then each spec must be complete exactly
once, nothing running, every file whole, no finished rung run twice, and results and front those of
an undisturbed study. A spec is tried 20 times here, not three: of 100 kills in so short a time some
would hit the same spec by chance.

Disk: each command in one process, the writes below its folder failing in turn, each single one or
the first of each place, those of SQLite and of libraries too (`tests/support/disk_faults.py`): a
full disk and a read-only one from that write on, a broken one (EIO) at that write alone. Then the
command must have ended with a problem and its fix, or as if nothing had been; every file must be
whole; the same command must end as it should. What several commands write alike fails in one of
them: of a real trial the database, the workers' files and the records are left out, which a search
with stubs writes, and the files of an evaluation, which `teach` and `bench` write; of `cache` all
but the cache of the teacher's outputs. Rows of what is not asked for stay as they were.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.publish import add_out, markdown, publish
from tests.support.disk import ERRORS, FaultyDisk
from tests.support.disk_faults import COMMANDS
from tests.support.faults import Disturbed

SECONDS = 0.4  # of a trial
PAUSE_S = 1.5  # longest, from a worker at work to the kill
PARTS = ("kills", "disk")
EACH = {"write": "each write", "place": "each place"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--postgres", action="store_true", help="on a server of its own, too")
    parser.add_argument("--commands", nargs="*", default=sorted(COMMANDS), choices=sorted(COMMANDS))
    parser.add_argument("--kinds", nargs="*", default=tuple(ERRORS), choices=tuple(ERRORS))
    parser.add_argument("--each", default="write", choices=EACH)
    parser.add_argument("--jobs", type=int, default=1, help="commands at once, on failing disks")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="keeps the other")
    add_out(parser, "faults")
    arguments = parser.parse_args(argv)
    kills, disks = kept(arguments.out)
    if "kills" in arguments.parts:
        kills = list(killed(arguments))
    if "disk" in arguments.parts:
        tasks = [(name, kind) for name in arguments.commands for kind in arguments.kinds]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for row in pool.map(lambda task: failed(*task, arguments.each), tasks):
                disks = replaced(disks, row)
                tell(arguments, kills, disks)
    tell(arguments, kills, disks)
    assert not any(row["faults"] for row in (*kills, *disks))


def tell(
    arguments: argparse.Namespace, kills: list[dict[str, Any]], disks: list[dict[str, Any]]
) -> None:
    """Both tables, as far as they are."""
    text = f"{kill_table(kills)}\n\n{disk_table(disks)}"
    publish(arguments, text, {"kills": kills, "disks": disks})


def replaced(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """`rows` with what is `new` of a command and kind of disk, in order."""

    def key(row: dict[str, Any]) -> tuple[str, int]:
        return row["command"], [*ERRORS].index(row["disk"])

    return sorted([*(row for row in rows if key(row) != key(new)), new], key=key)


def kept(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What an earlier run found, of the part that this one leaves out."""
    if not out.is_file():
        return [], []
    found = json.loads(out.read_text())
    return found["kills"], found["disks"]


# --- kills -------------------------------------------------------------------------------------


def killed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Figures of a disturbed study for each storage, and what was wrong with it."""
    with tempfile.TemporaryDirectory(prefix="kdbench-faults-") as made:
        calm = Disturbed(Path(made) / "calm", arguments.trials, seconds=0.0)
        calm.run()
        yield _disturbed(arguments, calm, Path(made) / "sqlite", None)
        if arguments.postgres:
            from tests.support.postgres import served

            with served() as server:
                yield _disturbed(arguments, calm, Path(made) / "postgres", server.database())


def _disturbed(
    arguments: argparse.Namespace, calm: Disturbed, folder: Path, storage: str | None
) -> dict[str, Any]:
    wild = Disturbed(folder, arguments.trials, seconds=SECONDS, storage=storage)
    began = time.monotonic()
    wild.run_killed(arguments.kills, seed=arguments.seed, pause_s=PAUSE_S)
    faults = [*calm.faults(), *wild.faults()]
    if wild.results() != calm.results():
        faults.append("results are not those of an undisturbed study")
    if wild.front() != calm.front():
        faults.append("the front is not that of an undisturbed study")
    row = {
        "storage": "PostgreSQL" if storage else "SQLite",
        "trials": arguments.trials,
        **wild.summary(),
        "front": len(wild.front()),
        "seconds": round(time.monotonic() - began),
        "faults": faults,
    }
    print(row, flush=True)
    return row


def kill_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a storage."""
    heads = ["storage", "trials", "kills", "of coordinators", "hit a trial", "starts of the search"]
    heads += ["seconds", "faults"]
    cells = [[str(len(r["faults"]) if h == "faults" else r[h]) for h in heads] for r in rows]
    return markdown(heads, cells)


# --- disks -------------------------------------------------------------------------------------


def failed(command: str, kind: str, each: str) -> dict[str, Any]:
    """How a command bears its writes failing."""
    with tempfile.TemporaryDirectory(prefix="kdbench-faults-") as made:
        disk, began = FaultyDisk(Path(made) / "block"), time.monotonic()
        arguments = ["-m", "tests.support.disk_faults", command, kind, made, "--each", each]
        run = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **disk.environment},
            capture_output=True,
            text=True,
            check=False,
        )
    found = [json.loads(line) for line in run.stdout.splitlines()]
    faults = [each for each in found if each["problem"]]
    if run.returncode != 0 or not found:
        faults.append({"problem": f"ended with {run.returncode}: {run.stderr[-2000:]}"})
    row = {
        "command": command,
        "disk": kind,
        "failing": EACH[each],
        "writes": found[0]["of"] if found else 0,
        "failed": len(found),
        "ended with a fix": sum(each["code"] == 1 for each in found),
        "ended as if nothing had been": sum(each["code"] == 0 for each in found),
        "seconds": round(time.monotonic() - began),
        "faults": faults,
    }
    print(row, flush=True)
    return row


def disk_table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a command and kind of disk."""
    heads = ["command", "disk", "failing", "writes", "failed", "ended with a fix"]
    heads += ["ended as if nothing had been", "seconds", "faults"]
    cells = [[str(len(r["faults"]) if h == "faults" else r[h]) for h in heads] for r in rows]
    return markdown(heads, cells, left=3)


if __name__ == "__main__":
    main()
