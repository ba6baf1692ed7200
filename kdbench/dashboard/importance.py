"""Which choice matters: how much of the order of the trials a single choice explains.

For every objective the trials are ranked, and a choice explains the share of the ranks' variance
that lies between its values (categories: the correlation ratio) or along it (numbers: Spearman's
rho squared). Chance explains some of it too, the more so the more values a choice has; it is taken
off as in Kelley's epsilon squared (1935), 1 - (1 - eta^2)(n - 1)/(n - k). Optuna's PED-ANOVA, which
the page has beside this, looks at the best tenth of the trials alone: of 16 that is one or two.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from kdbench.report.chart import Axis, Chart, Point, Series

Ranks = NDArray[np.float64]
ENOUGH = 8  # trials with a choice and a value; of fewer nothing can be said
SHOWN = 12  # choices


def importance_chart(study: optuna.Study) -> Chart | None:
    """Bars of the choices that explain most of any objective; None of too few trials."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = study.metric_names or [str(i) for i in range(len(study.directions))]
    shares = {name: explained(trials, i) for i, name in enumerate(names)}
    choices = {choice for found in shares.values() for choice in found}
    most = sorted(choices, key=lambda c: -max(f.get(c, 0.0) for f in shares.values()))[:SHOWN]
    if not most:
        return None
    series = [
        Series(
            name=name,
            kind="bars",
            role="member",
            place=place,
            points=tuple(
                Point(
                    x=x, y=found[choice], hover=f"{choice}\n{100 * found[choice]:.0f} % of {name}"
                )
                for x, choice in enumerate(most)
                if choice in found
            ),
        )
        for place, (name, found) in enumerate(shares.items())
    ]
    n = len(trials)
    return Chart(
        name="importance",
        title="Which choice matters",
        x=Axis(label="", categories=tuple(map(escape, most))),
        y=Axis(label="of the order of the trials", unit="share", low=0.0, high=1.0),
        series=tuple(series),
        note=f"Share of the variance of ranks that one choice explains alone, less what chance "
        f"would, over {n} complete trials; of a choice that only some have, over those.",
    )


def explained(trials: Sequence[FrozenTrial], objective: int) -> dict[str, float]:
    """Share of the variance of ranks that each choice explains, 0 to 1, by its name.

    Choices that fewer than `ENOUGH` trials had, or that were all the same, are left out.
    """
    by_choice: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        for name in trial.params:
            by_choice.setdefault(name, []).append(trial)
    found: dict[str, float] = {}
    for name, those in by_choice.items():
        values = [trial.params[name] for trial in those]
        if len(those) >= ENOUGH and len(set(values)) > 1:
            ranks = _ranks([trial.values[objective] for trial in those])
            categories = isinstance(those[0].distributions[name], CategoricalDistribution)
            found[name] = _between(values, ranks) if categories else _along(values, ranks)
    return found


def _ranks(values: Sequence[float]) -> Ranks:
    """0, 1, ... by value; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Ranks = (ends - 1) - (counts - 1) / 2
    return middle[places]


def _between(values: Sequence[object], ranks: Ranks) -> float:
    groups: Mapping[object, list[float]] = {value: [] for value in values}
    for value, rank in zip(values, ranks, strict=True):
        groups[value].append(float(rank))
    n, k = len(ranks), len(groups)
    whole = float(((ranks - ranks.mean()) ** 2).sum())
    inside = sum(float(np.var(group)) * len(group) for group in groups.values())
    return _less_chance(inside, whole, n, k)


def _along(values: Sequence[float], ranks: Ranks) -> float:
    theirs = _ranks(values)
    a, b = theirs - theirs.mean(), ranks - ranks.mean()
    whole = float((b**2).sum())
    if whole == 0:
        return 0.0
    rho = float((a * b).sum()) / float(np.sqrt((a**2).sum() * (b**2).sum()))
    return _less_chance((1 - rho**2) * whole, whole, len(ranks), 2)


def _less_chance(unexplained: float, whole: float, n: int, k: int) -> float:
    if whole == 0 or n <= k:
        return 0.0
    return max(0.0, 1 - (unexplained / whole) * (n - 1) / (n - k))
