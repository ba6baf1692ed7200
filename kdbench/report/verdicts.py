"""What distillation did, in a sentence: of `rerun --twin`, and of the front's twins in `show`."""

from kdbench.rd import outcome
from kdbench.records import BDRate
from kdbench.report.units import bd_rate_cell, interval, percent

ALONE = "one seed: the interval is over photos alone and tells nothing of other seeds"


def verdict(found: BDRate | None, n_seeds: int, why_not: str | None) -> str:
    """One sentence; where distillation helped or hurt, in percent of the twin's bits.

    Args:
        found: BD-rate of the student against its twin; None where they do not compare.
        n_seeds: Of each.
        why_not: Why they do not.
    """
    if found is None:
        return f"whether distillation helped cannot be told: {why_not}"
    came = outcome(found)
    if came == "unknown" or found.low_pct is None or found.high_pct is None:
        return (
            f"whether distillation helped cannot be told: BD-rate {percent(found.pct)} % has no "
            "interval (one photo, or too many resamples that do not compare)"
        )
    if came == "within noise":
        text = f"within noise: BD-rate {bd_rate_cell(found, ' % ')} against the twin"
    else:
        sign = -1 if came == "helped" else 1
        low_pct, high_pct = sorted((sign * found.low_pct, sign * found.high_pct))
        size = f"{percent(sign * found.pct)} % {interval(low_pct, high_pct)}".replace("+", "")
        text = f"distillation {came} by {size} of the twin's bits"
    return f"{text}, {n_seeds} seeds" if n_seeds > 1 else f"{text} ({ALONE})"
