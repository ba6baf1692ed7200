"""Where a trial's seconds go, and how far students overfit; from the stored results of a study.

    python -m benchmarks.trial_parts kd_pareto [--root DIR]        a few seconds

Seconds by part, for each complete trial and for all: training, evaluation, energy, and overhead
(cost, cache, start). Waiting for the lease happens inside the other parts and is listed apart, not
added. Overfit: loss on validation crops over loss on training crops, both at the end of training
[%]. These are other photos, so a part of it is there before the first step: what tells is how it
grows with the parameters, by which the rows are sorted.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.publish import add_out, markdown, publish

PARTS = ("training", "evaluation", "energy")  # all else of a trial is overhead
INSIDE = "waiting"  # is part of the others
COLUMNS = (*PARTS, "overhead")


def by_part(seconds: Mapping[str, float]) -> dict[str, float]:
    """Stored seconds of a trial as training, evaluation, energy and overhead."""
    known = {part: seconds.get(part, 0.0) for part in PARTS}
    overhead = sum(s for part, s in seconds.items() if part not in (*PARTS, INSIDE))
    return known | {"overhead": overhead}


def shares_pct(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of each part in the seconds of all trials [%]."""
    sums = {part: sum(trial["seconds"][part] for trial in trials) for part in COLUMNS}
    return {part: 100 * total / sum(sums.values()) for part, total in sums.items()}


def overfit_pct(losses: Mapping[str, float]) -> float:
    """How much higher the loss is on validation crops than on training crops [%]."""
    return 100 * (losses["validation"] / losses["train"] - 1)


def figures_of(show: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a complete trial, by ascending parameters."""
    rows = [
        {
            "number": trial["number"],
            "params": trial["complexity"]["params"],
            "has_teacher": trial["spec"]["distillation"]["teacher"] is not None,
            "seconds": by_part(trial["seconds"]),
            "waiting_s": trial["seconds"].get(INSIDE, 0.0),
            "losses": trial["losses"],
            "overfit_pct": overfit_pct(trial["losses"]),
        }
        for trial in show["trials"]
        if trial["state"] == "complete"
    ]
    return sorted(rows, key=lambda row: (row["params"], row["number"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Trials, then the sum of their seconds and its shares."""
    cells = [
        [
            str(row["number"]),
            str(row["params"]),
            "yes" if row["has_teacher"] else "no",
            *(f"{row['seconds'][part]:.1f}" for part in COLUMNS),
            f"{row['waiting_s']:.1f}",
            *(f"{row['losses'][crops]:.4f}" for crops in ("train", "validation")),
            f"{row['overfit_pct']:+.1f}",
        ]
        for row in rows
    ]
    shares = shares_pct(rows)
    overfit = median(row["overfit_pct"] for row in rows)
    last = ["share %", "", "", *(f"{shares[part]:.1f}" for part in COLUMNS), "", "", ""]
    cells.append([*last, f"median {overfit:+.1f}"])
    heads = ["trial", "params", "teacher", *(f"{part} s" for part in COLUMNS)]
    return markdown([*heads, "waiting s", "train loss", "validation loss", "overfit %"], cells)


def show_json(study: str, root: Path | None) -> dict[str, Any]:
    """What `kdbench show --json` says of `study`."""
    command = [sys.executable, "-m", "kdbench", "show", "--study", study, "--json"]
    command += [] if root is None else ["--root", str(root)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit(run.returncode)  # it has said why
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study")
    parser.add_argument("--root", type=Path, help="where results are (KDBENCH_ROOT, ./runs)")
    add_out(parser, "trial_parts")
    arguments = parser.parse_args()
    rows = figures_of(show_json(arguments.study, arguments.root))
    if not rows:
        sys.exit(f"{arguments.study} has no complete trial yet")
    publish(arguments, table(rows), {"shares_pct": shares_pct(rows), "trials": rows})


if __name__ == "__main__":
    main()
