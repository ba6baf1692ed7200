"""What the searches of a policy found together: medians and means with intervals over seeds."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from kdbench.tabular import SHARES_PCT, Estimate, Outcome, Policy, Search

N_RESAMPLES = 1000
Floats = npt.NDArray[np.float64]


def summary(policy: Policy, found: Sequence[Search]) -> Outcome:
    """What several searches of one policy found together."""
    to = {pct: [search.seconds_to(pct / 100) for search in found] for pct in SHARES_PCT}
    return Outcome(
        policy=policy,
        n_seeds=len(found),
        seconds_to={pct: _median(values) for pct, values in to.items()},
        reached={pct: _part(value is not None for value in v) for pct, v in to.items()},
        hypervolume=_mean([search.share for search in found]),
        front_found=_mean([search.front_share for search in found]),
        stopped=_mean([len(search.stopped) for search in found]),
        wrongly_stopped=_mean([len(search.wrongly_stopped) for search in found]),
        refused=_mean([len(search.refused) for search in found]),
        wrongly_refused=_mean([len(search.wrongly_refused) for search in found]),
        seconds=_mean([search.seconds for search in found]),
    )


def _part(each: Iterable[bool]) -> float:
    return float(np.mean(list(each)))


def _mean(values: Sequence[float]) -> Estimate:
    low, high = _interval(values, lambda draws: draws.mean(axis=1))
    return Estimate(value=float(np.mean(values)), low=low, high=high)


def _median(values: Sequence[float | None]) -> Estimate:
    """Of values that may never have come: those are later than any other."""
    known = [float("inf") if value is None else value for value in values]
    low, high = _interval(known, _middle)
    middle = _known(float(_middle(np.array([known]))[0]))
    return Estimate(value=middle, low=low, high=high)


def _middle(draws: Floats) -> Floats:
    """The lower median of each row, which is one of its values, infinity or not."""
    ordered: Floats = np.sort(draws, axis=1)
    return ordered[:, (draws.shape[1] - 1) // 2]


def _interval(
    values: Sequence[float], statistic: Callable[[Floats], Floats]
) -> tuple[float | None, float | None]:
    """95 % by a bootstrap over seeds; None of fewer than three."""
    if len(values) < 3:
        return None, None
    draws = np.random.default_rng(0).choice(values, (N_RESAMPLES, len(values)))
    low, high = np.quantile(statistic(draws), [0.025, 0.975], method="inverted_cdf")
    return _known(float(low)), _known(float(high))


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
