"""A front once more: which members stay on it with fresh seeds, and how lucky they were together.

A search keeps the best of many trials by figures that are partly luck. Trained again from seeds
that nobody chose, a member stays if nothing beats it then: no other member with its own fresh
seeds, and no other trial of the study as it was recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

import numpy as np

from kdbench.fronts import non_dominated
from kdbench.report.details import LABEL
from kdbench.report.overview import Overview, objective_rows
from kdbench.report.text import wrapped
from kdbench.report.units import UNKNOWN, figure, percent
from kdbench.seeds import FreshSeeds

N_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What fresh seeds say of several trials together.

    Attributes:
        n_seeds: Fresh seeds of each trial that were asked for.
        stay: Numbers of those that nothing beats.
        beaten_by: Of the others, which trials beat them.
        unknown: Those whose every fresh seed broke.
        curse_pct: Mean of recorded BD-rate less that of the fresh seeds [points].
        curse_low_pct, curse_high_pct: Its 95 % interval, a bootstrap over trials; None of fewer
            than three.
        spread_pct: Standard deviation over seeds, pooled over trials [points].
    """

    n_seeds: int
    stay: tuple[int, ...]
    beaten_by: Mapping[int, tuple[int, ...]]
    unknown: tuple[int, ...]
    curse_pct: float | None
    curse_low_pct: float | None
    curse_high_pct: float | None
    spread_pct: float | None


def confirm(found: Sequence[FreshSeeds], study: Overview) -> Confirmation:
    """What `found`, trials of `study` trained from fresh seeds, say together."""
    numbers = [each.number for each in found]
    fresh = {each.number: _mean_row(each, study.objectives) for each in found}
    others = {number: row for number, row in study.rows.items() if number not in fresh}
    rows = others | {number: row for number, row in fresh.items() if row is not None}
    known = [number for number in numbers if number in rows]
    beaten_by = {
        number: tuple(other for other in rows if _beats(rows[other], rows[number]))
        for number in known
    }
    lost = [each.winners_curse_pct for each in found]
    low, high = _interval([pct for pct in lost if pct is not None])
    spreads = [each.spread_pct for each in found if each.spread_pct is not None]
    return Confirmation(
        n_seeds=max(len(each.runs) for each in found),
        stay=tuple(number for number in known if not beaten_by[number]),
        beaten_by={number: others for number, others in beaten_by.items() if others},
        unknown=tuple(number for number in numbers if number not in rows),
        curse_pct=fmean(pct for pct in lost if pct is not None) if known else None,
        curse_low_pct=low,
        curse_high_pct=high,
        spread_pct=sqrt(fmean(s**2 for s in spreads)) if spreads else None,
    )


def confirmation_text(found: Confirmation, width: int) -> str:
    """Who stays, who does not and why, and the winner's curse in numbers."""
    n = len(found.stay) + len(found.beaten_by) + len(found.unknown)
    entries = [
        ("stay", f"{len(found.stay)} of {n}: {_listed(found.stay)}"),
        *(
            (f"trial {number}", f"does not: trial {_listed(others)} beats it")
            for number, others in found.beaten_by.items()
        ),
        *(
            (f"trial {number}", "cannot be told: no fresh seed finished")
            for number in found.unknown
        ),
        ("winner's curse", _curse(found)),
    ]
    lines = [wrapped(label, text, width, indent=LABEL) for label, text in entries]
    return "\n".join([f"all {n} with {found.n_seeds} fresh seeds each", "", *lines]) + "\n"


def _curse(found: Confirmation) -> str:
    if found.curse_pct is None:
        return "cannot be told"
    interval = ""
    if found.curse_low_pct is not None and found.curse_high_pct is not None:
        interval = f" [{percent(found.curse_low_pct)}, {percent(found.curse_high_pct)}]"
    spread = UNKNOWN if found.spread_pct is None else f"{figure(found.spread_pct)} points"
    return (
        f"{percent(found.curse_pct)} points{interval} on average: recorded BD-rate less that of "
        f"fresh seeds; spread over seeds {spread}"
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _beats(other: Sequence[float], own: Sequence[float]) -> bool:
    return non_dominated([own, other]) == [False, True]


def _mean_row(fresh: FreshSeeds, objectives: Sequence[str]) -> list[float] | None:
    results = {run.spec.seed: run.result for run in fresh.runs if run.result is not None}
    rows = objective_rows(results, objectives).values()
    return [fmean(column) for column in zip(*rows, strict=True)] if rows else None


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 3:
        return None, None
    rng = np.random.default_rng(0)
    means = rng.choice(values, (N_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
