"""Does a look at a rung order students as full training does? Kendall's tau of each rung.

    python -m benchmarks.order --table TABLE.jsonl      a second; `benchmarks.table` makes the table

A rung is accepted at a tau of `ACCEPTED` or more with the BD-rate of the fully trained students
(real bitstreams, evaluation photos). Looks are estimated losses on validation crops,
R + rd_lambda 255^2 D. The table compares what one could look at:

    middle, middle three, all      levels the loss is a mean over; a ladder looks at the middle one
    own cosine                     the middle level of a training that ends at the rung, its rate
                                   falling to the end: what a trial that stops there could have been

and what a ladder of that one rung would have done: the share of all steps that it saves, and of the
true front (BD-rate, decoder kMAC/px) that it stops; means over `SHUFFLES` orders in which the
students come. `eta` n: who is on the rung's front or among the best 1/n goes on
(`search.ladder`); MO-ASHA n: the best 1/n alone. Intervals: 95 %, bootstrap over students.
"""

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.publish import add_out, markdown, publish
from benchmarks.table import load_rows
from kdbench.fronts import non_dominated
from kdbench.search.ladder import goes_on, place

ACCEPTED = 0.8
N_RESAMPLES = 1000
SHUFFLES = 200


def best_of_eta(own: Sequence[float], others: Sequence[Sequence[float]], eta: int) -> bool:
    """Whether it is among the best 1/eta: MO-ASHA, which knows no front."""
    return place([own, *others], 0) < math.ceil((len(others) + 1) / eta)


Rule = Callable[[Sequence[float], Sequence[Sequence[float]]], bool]
RULES: dict[str, Rule] = {
    "eta 2": lambda own, others: goes_on(own, others, 2),
    "eta 3": lambda own, others: goes_on(own, others, 3),
    "MO-ASHA 2": lambda own, others: best_of_eta(own, others, 2),
    "MO-ASHA 3": lambda own, others: best_of_eta(own, others, 3),
}
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
    """What each student showed, by (step, kind of look), where all did."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        for rung in row["rungs"]:
            for name, mean in LOOKS.items():
                found.setdefault((rung["step"], name), []).append(mean(rung["losses"]))
        for short in row.get("short", ()):
            middle = LOOKS["middle"](short["losses"])
            found.setdefault((short["step"], OWN_COSINE), []).append(middle)
    return {look: values for look, values in found.items() if len(values) == len(rows)}


def ladder_of_one(
    shown: Sequence[float], costs: Sequence[float], on_front: Sequence[bool], rule: Rule
) -> tuple[float, float]:
    """Share of all that the rung stops, and share of the true front; means over orders."""
    rng, stopped, lost = random.Random(0), [], []
    for _ in range(SHUFFLES):
        order = list(range(len(shown)))
        rng.shuffle(order)
        came: list[list[float]] = []
        ended = []
        for i in order:
            own = [shown[i], costs[i]]
            if not rule(own, came):
                ended.append(i)
            came.append(own)
        stopped.append(len(ended) / len(order))
        lost.append(sum(on_front[i] for i in ended) / sum(on_front))
    return fmean(stopped), fmean(lost)


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a rung and kind of look, by step."""
    truth = [float(row["bd_rate_pct"]) for row in rows]
    costs = [float(row["decoder_kmac_per_px"]) for row in rows]
    on_front = non_dominated([list(pair) for pair in zip(truth, costs, strict=True)])
    found = []
    for (step, look), shown in sorted(looks(rows).items()):
        low, high = interval(shown, truth)
        left = 1 - step / rows[0]["steps"]
        ladders = {
            name: ladder_of_one(shown, costs, on_front, rule) for name, rule in RULES.items()
        }
        found.append(
            {
                "step": step,
                "look": look,
                "tau": tau(shown, truth),
                "interval": [low, high],
                "accepted": tau(shown, truth) >= ACCEPTED,
                "ladders": {
                    name: {"steps_saved": left * stopped, "front_stopped": lost}
                    for name, (stopped, lost) in ladders.items()
                },
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]], n_steps: int) -> str:
    """Step, share, look, tau with interval, verdict; of each rule what it saves and stops [%]."""
    rows = [
        [
            f"{at['step']} ({at['step'] / n_steps:.2f})",
            at["look"],
            f"{at['tau']:.2f} [{at['interval'][0]:.2f}, {at['interval'][1]:.2f}]",
            "yes" if at["accepted"] else "no",
            *(said(at["ladders"][name]) for name in RULES),
        ]
        for at in found
    ]
    return markdown(["step (share)", "look", "tau [95 %]", "accepted", *RULES], rows, left=2)


def said(ladder: Mapping[str, float]) -> str:
    """Steps saved, front stopped [%]."""
    return f"{100 * ladder['steps_saved']:.0f}, {100 * ladder['front_stopped']:.0f}"


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
    note = (
        f"{len(rows)} students; {n_left_out} more could not be compared with the anchor. Of each "
        "rule: share of all steps saved, share of the true front stopped [%]."
    )
    text = f"{table(found, rows[0]['steps'])}\n\n{note}"
    publish(arguments, text, {"n_students": len(rows), "rungs": found})


if __name__ == "__main__":
    main()
