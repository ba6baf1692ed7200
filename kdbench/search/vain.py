"""Why a study ended without one complete trial: which rule its candidates broke, by how much."""

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError
from kdbench.search.objectives import violations
from kdbench.store import Store, StoredTrial


def in_vain(cfg: StudyConfig, store: Store) -> KdbenchError:
    """The error of a study that tried all it may and completed nothing.

    Of candidates above a limit it names the one that is nearest to all limits: what it broke, by
    how much, and what would let it in.
    """
    trials = store.trials(cfg.name)
    limits = cfg.constraints.limits
    over = {t.number: shares for t in trials if (shares := _shares(limits, t))}
    head = f"study {cfg.name!r} ended without one complete trial"
    name = "under another name (`--set name=NAME`)"
    all_of = f"`kdbench show --study {cfg.name} --all` tells why"
    if not over:
        reasons = [f"; trial {t.number}, the last: {t.reason}" for t in trials if t.reason]
        return KdbenchError(
            head + "".join(reasons[-1:]),
            fix=f"{all_of}; loosen its constraints or change its space, {name}",
        )
    number = min(over, key=lambda n: (max(over[n].values()), n))
    costs = next(t.failure.values for t in trials if t.number == number and t.failure)
    missed = [
        f"{key} is {_said(costs[key])}, {_said(100 * share)} % above {key}_max "
        f"({_said(limits[key])})"
        for key, share in over[number].items()
    ]
    let_in = ", ".join(f"constraints.{key}_max={_above(costs[key])}" for key in over[number])
    return KdbenchError(
        f"{head}: {len(over)} of {len(trials)} broke a constraint; of the nearest, trial {number}, "
        + ", and ".join(missed),
        fix=f"{let_in} would let it in; or give the space smaller students, {name}; {all_of}",
    )


def _shares(limits: dict[str, float], trial: StoredTrial) -> dict[str, float]:
    """By how much an infeasible trial is above each limit that it breaks, as a share of it."""
    if trial.failure is None or trial.failure.state != "infeasible":
        return {}
    shares = violations(limits, trial.failure.values)
    return {key: shares[key] for key in limits if shares[key] > 0}


def _said(value: float) -> str:
    """Whole from 1,000 on, else three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _above(cost: float) -> str:
    """Four digits, rounded up."""
    digits = f"{cost:.3e}"
    if float(digits) < cost:
        mantissa, exponent = digits.split("e")
        digits = f"{float(mantissa) + 0.001:.3f}e{exponent}"
    return f"{float(digits):g}"
