"""Does a look at a rung order students as full training does? Kendall's tau of each rung.

    python -m benchmarks.order --table TABLE.jsonl      a second; `benchmarks.table` makes the table

A rung is accepted at a tau of `ACCEPTED` or more with the BD-rate of the fully trained students
(real bitstreams, evaluation photos). Looks are estimated losses on validation crops,
R + rd_lambda 255^2 D. The table compares what one could look at:

    middle, middle three, all      levels the loss is a mean over; a ladder looks at the middle one
    own cosine                     the middle level of a training that ends at the rung, its rate
                                   falling to the end: what a trial that stops there could have been

and, for `eta` 2 and 3, the share of the true front (BD-rate, decoder kMAC/px) that a ladder of that
one rung would have stopped: the mean over `SHUFFLES` orders in which the students come. Intervals:
95 %, bootstrap over students.
"""

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.publish import add_out, markdown, publish
from benchmarks.table import load_rows
from kdbench.rd import non_dominated
from kdbench.search.ladder import goes_on

ACCEPTED = 0.8
N_RESAMPLES = 1000
SHUFFLES = 200
ETAS = (2, 3)
Row = Mapping[str, Any]
LOOKS: dict[str, Callable[[Sequence[float]], float]] = {
    "middle": lambda losses: losses[len(losses) // 2],
    "middle three": lambda losses: fmean(losses[1:-1]),
    "all": fmean,
}
OWN_COSINE = "own cosine"


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b; 0 where one of them is constant, which orders nothing."""
    found = float(kendalltau(a, b).statistic)
    return found if np.isfinite(found) else 0.0


def interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of `tau`, over pairs drawn with replacement.

    A pair drawn twice is not compared with itself, which would be a tie: each resample keeps its
    different pairs.
    """
    rng, pairs = np.random.default_rng(0), np.array([a, b])
    taus = []
    for _ in range(N_RESAMPLES):
        drawn = np.unique(rng.integers(0, len(a), len(a)))
        taus.append(tau(pairs[0][drawn], pairs[1][drawn]))
    low, high = np.percentile(taus, [2.5, 97.5])
    return float(low), float(high)


def looks(rows: Sequence[Row]) -> dict[tuple[int, str], list[float]]:
    """What each student showed, by (step, kind of look)."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        for rung in row["rungs"]:
            for name, mean in LOOKS.items():
                found.setdefault((rung["step"], name), []).append(mean(rung["losses"]))
        for short in row.get("short", ()):
            middle = LOOKS["middle"](short["losses"])
            found.setdefault((short["step"], OWN_COSINE), []).append(middle)
    return found


def stopped_of_front(
    shown: Sequence[float], costs: Sequence[float], on_front: Sequence[bool], eta: int
) -> float:
    """Share of the true front that a rung would stop, mean over orders of arrival."""
    rng, shares = random.Random(0), []
    for _ in range(SHUFFLES):
        order = list(range(len(shown)))
        rng.shuffle(order)
        came: list[list[float]] = []
        lost = 0
        for i in order:
            own = [shown[i], costs[i]]
            lost += on_front[i] and not goes_on(own, came, eta)
            came.append(own)
        shares.append(lost / sum(on_front))
    return fmean(shares)


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a rung and kind of look, by step."""
    truth = [float(row["bd_rate_pct"]) for row in rows]
    costs = [float(row["decoder_kmac_per_px"]) for row in rows]
    on_front = non_dominated([list(pair) for pair in zip(truth, costs, strict=True)])
    found = []
    for (step, name), shown in sorted(looks(rows).items()):
        low, high = interval(shown, truth)
        found.append(
            {
                "step": step,
                "look": name,
                "tau": tau(shown, truth),
                "interval": [low, high],
                "accepted": tau(shown, truth) >= ACCEPTED,
                "stopped_of_front": {
                    str(eta): stopped_of_front(shown, costs, on_front, eta) for eta in ETAS
                },
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]], n_steps: int) -> str:
    """Step, share, look, tau with interval, verdict, and what the front would lose."""
    rows = [
        [
            f"{at['step']} ({at['step'] / n_steps:.2f})",
            at["look"],
            f"{at['tau']:.2f} [{at['interval'][0]:.2f}, {at['interval'][1]:.2f}]",
            "yes" if at["accepted"] else "no",
            *(f"{100 * at['stopped_of_front'][str(eta)]:.0f}" for eta in ETAS),
        ]
        for at in found
    ]
    lost = [f"front stopped, eta {eta} %" for eta in ETAS]
    return markdown(["step (share)", "look", "tau [95 %]", "accepted", *lost], rows, left=2)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True)
    add_out(parser, "order")
    arguments = parser.parse_args(given)
    everyone = load_rows(arguments.table)
    rows = [row for row in everyone if row["bd_rate_pct"] is not None]
    if len(rows) < 3:
        parser.error(f"{len(rows)} of {len(everyone)} rows have a BD-rate: 3 or more are needed")
    found = figures(rows)
    n_left_out = len(everyone) - len(rows)
    note = f"{len(rows)} students; {n_left_out} more could not be compared with the anchor."
    text = f"{table(found, rows[0]['steps'])}\n\n{note}"
    publish(arguments, text, {"n_students": len(rows), "rungs": found})


if __name__ == "__main__":
    main()
