"""Which trials go on: at each rung the front, and the best 1/eta of all that reached it.

Optuna prunes no trial of several objectives, so this stands in its place. A trial that reaches a
rung is compared with every trial that has been there, finished or not. It goes on if none of them
dominates it, or if it is among the best 1/eta by non-dominated rank, within a rank by what it adds
to the hypervolume (MO-ASHA, Schmucker et al. 2021, arXiv 2106.12639, whose promotions become
decisions to stop, so that nobody waits).

MO-ASHA alone stops members of a front that is longer than 1/eta of the trials, however well a rung
orders them, and fronts of students are long: with eta 3 a rung at a ninth of the steps stopped 35 %
of the true front for 51 % of the steps saved, and 27 % for 45 % where the front goes on
(`benchmarks/order.py`, 18 students).
"""

import math
from collections.abc import Sequence

import numpy as np

from kdbench.fronts import MARGIN, hypervolume, without_nan

Values = Sequence[float]
TOLERANCE = 1e-9  # of the volume of all


def goes_on(own: Values, others: Sequence[Values], eta: int) -> bool:
    """Whether a trial is on the front of a rung, or among the best 1/eta there.

    Args:
        own: What it showed there, everything minimised.
        others: What every other trial showed that has been there.
        eta: One of so many goes on, and always one.
    """
    everyone = [own, *others]
    fronts = ranks(everyone)
    return fronts[0] == 0 or _place(everyone, fronts, 0) < math.ceil(len(everyone) / eta)


def place(values: Sequence[Values], i: int) -> int:
    """How many of `values` are better than the one at `i`: by rank, then by hypervolume."""
    return _place(values, ranks(values), i)


def _place(values: Sequence[Values], fronts: Sequence[int], i: int) -> int:
    scaled = _scaled(values)
    better = sum(rank < fronts[i] for rank in fronts)
    peers = [k for k, rank in enumerate(fronts) if rank == fronts[i]]
    added = contributions([scaled[k] for k in peers], [1 + MARGIN] * len(values[i]))
    return better + sum(gain > added[peers.index(i)] + TOLERANCE for gain in added)


def ranks(values: Sequence[Values]) -> list[int]:
    """Non-dominated rank of each: 0 of the front, 1 of what would be one without it, and so on.

    That is the longest chain of values each of which dominates the next. Whatever dominates a row
    comes before it when rows, equal ones once, are sorted by their first axis, then their second,
    and so on, and is no worse on all axes but the first: one comparison with all before it, n of
    them, where peeling front by front takes n^2 for each.
    """
    rows, copies = np.unique(without_nan(values) + 0.0, axis=0, return_inverse=True)  # no -0.0
    found, others = np.zeros(len(rows), dtype=np.int64), np.ascontiguousarray(rows.T[1:])
    for i, row in enumerate(others.T):
        above = np.ones(i, dtype=bool)
        for axis, own in zip(others, row, strict=True):
            above &= axis[:i] <= own
        found[i] = found[:i].max(where=above, initial=-1) + 1
    ranked: list[int] = found[copies.reshape(-1)].tolist()
    return ranked


def contributions(front: Sequence[Values], corner: Values) -> list[float]:
    """Hypervolume below `corner` that would be lost without each."""
    whole = hypervolume(front, corner)
    return [whole - hypervolume([*front[:k], *front[k + 1 :]], corner) for k in range(len(front))]


def _scaled(values: Sequence[Values]) -> list[list[float]]:
    """Each axis from 0, the best, to 1, the worst; to 0 where all are equal."""
    rows = np.asarray(values, dtype=np.float64)
    best, span = rows.min(axis=0), np.ptp(rows, axis=0)
    scaled: list[list[float]] = ((rows - best) / np.where(span > 0, span, 1.0)).tolist()
    return scaled
