"""Whether a search kept the promise of the README: in time, and with a front worth looking at.

    kdbench show --study kd_pareto --json > SHOW.json
    python benchmarks/check_front.py SHOW.json --seconds 1240

At most 25 minutes, at least 16 complete trials, a front of at least 4 different students that span
3x in decoder kMAC/px, each with a finite BD-rate interval. Prints the figures; exits with 1 and
every reason if one is missed. Takes no time; `.ci/run` calls it, so it stands on its own.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SECONDS = 25 * 60
MIN_COMPLETE = 16
MIN_FRONT = 4
MIN_SPAN = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a search gave.

    Attributes:
        n_front: Different students on the front; two trials of one spec count once.
        span: Largest over smallest decoder kMAC/px of the front; None without a front.
        without_interval: Numbers of the front's trials whose BD-rate has no finite interval.
    """

    n_trials: int
    n_complete: int
    n_front: int
    span: float | None
    without_interval: tuple[int, ...]


def figures_of(show: dict[str, Any]) -> Figures:
    """The figures in the document of `kdbench show --json`."""
    complete = [trial for trial in show["trials"] if trial["state"] == "complete"]
    front = [trial for trial in complete if trial["on_front"]]
    decoders = [trial["complexity"]["kmac_per_px"]["decoder"] for trial in front]
    return Figures(
        n_trials=len(show["trials"]),
        n_complete=len(complete),
        n_front=len({trial["spec_hash"] for trial in front}),
        span=max(decoders) / min(decoders) if decoders else None,
        without_interval=tuple(t["number"] for t in front if not _has_interval(t["bd_rate"])),
    )


def reasons(found: Figures, seconds: float) -> list[str]:
    """Every promise that was not kept; empty if all were."""
    missed = []
    if seconds > MAX_SECONDS:
        missed.append(f"it took {seconds:.0f} s, more than {MAX_SECONDS} s")
    if found.n_complete < MIN_COMPLETE:
        missed.append(f"{found.n_complete} complete trials, fewer than {MIN_COMPLETE}")
    if found.n_front < MIN_FRONT:
        missed.append(f"{found.n_front} students on the front, fewer than {MIN_FRONT}")
    if found.span is not None and found.span < MIN_SPAN:
        missed.append(
            f"the front spans {found.span:.2f}x in decoder kMAC/px, less than {MIN_SPAN:g}x"
        )
    if found.without_interval:
        named = ", ".join(map(str, found.without_interval))
        missed.append(f"no finite BD-rate interval on the front: trial {named}")
    return missed


def _has_interval(bd_rate: dict[str, float | None] | None) -> bool:
    ends = [] if bd_rate is None else [bd_rate["low_pct"], bd_rate["high_pct"]]
    return bool(ends) and all(end is not None and math.isfinite(end) for end in ends)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("show", type=Path, help="what `kdbench show --json` printed")
    parser.add_argument("--seconds", type=float, required=True, help="wall seconds of the search")
    arguments = parser.parse_args()
    found = figures_of(json.loads(arguments.show.read_text()))
    span = "-" if found.span is None else f"{found.span:.1f}x"
    print(
        f"{arguments.seconds:.0f} s, {found.n_complete} of {found.n_trials} trials complete, "
        f"{found.n_front} students on the front, {span} in decoder kMAC/px"
    )
    missed = reasons(found, arguments.seconds)
    for reason in missed:
        print(f"check_front: {reason}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
