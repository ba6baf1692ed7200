"""From what a trial found to what the sampler is told: values to minimise, constraints to keep."""

from collections.abc import Mapping, Sequence

from kdbench.errors import MeterError
from kdbench.objectives import OBJECTIVES
from kdbench.records import TrialResult

OVERLAP = "overlap"
UNFINISHED = "unfinished"
HOPELESS = "hopeless"


def objective_values(objectives: Sequence[str], result: TrialResult) -> list[float]:
    """The objectives of one result, in their order.

    Raises:
        MeterError: One of them was not measured.
    """
    found = {name: OBJECTIVES[name](result) for name in objectives}
    values = [value for value in found.values() if value is not None]
    if len(values) < len(found):
        lacking = next(name for name, value in found.items() if value is None)
        raise MeterError(
            f"objective {lacking} was not measured",
            fix=f"leave {lacking} out of the study's objectives, or set `energy.meter`; "
            "`kdbench doctor` lists the meters that work here",
        )
    return values


def on_the_way(objectives: Sequence[str], values: Mapping[str, float]) -> list[float]:
    """The objectives of a trial that is not finished, as far as they are known, in their order.

    The quality of the finished student is not: its `validation_loss` at a rung stands in its place.
    What an evaluation times is left out.

    Args:
        objectives: Of the study.
        values: What a rung showed, costs among it.
    """
    names = ["validation_loss" if name == "bd_rate_pct" else name for name in objectives]
    return [values[name] for name in dict.fromkeys(names) if name in values]


def costs_of(result: TrialResult) -> dict[str, float]:
    """What a study may limit, by the names of its constraints; energy only where it is known."""
    complexity = result.complexity
    energy = {} if result.energy is None else {"energy_j_per_mpx": result.energy.j_per_mpx}
    return {
        "params": float(complexity.params),
        "kmac_per_px": complexity.kmac_per_px,
        "encoder_kmac_per_px": complexity.encoder_kmac_per_px,
        "decoder_kmac_per_px": complexity.decoder_kmac_per_px,
        **energy,
    }


def violations(
    limits: Mapping[str, float],
    values: Mapping[str, float],
    *,
    overlaps: bool = True,
    unfinished: float = 0.0,
    hopeless: float | None = None,
) -> dict[str, float]:
    """One number for each rule of the study: above 0 if it is broken, and by how much.

    Every trial gets the same keys in the same order, for GP tells constraints apart by their
    place, and a database gives them back sorted. All are shares, for TPE adds them up: a cost is
    weighed by its limit (0.25: a quarter too much), no overlap with the anchor counts as 1. A cost
    that is not known yet breaks nothing.

    Args:
        limits: Upper bounds by the name of the cost.
        values: Costs that are known.
        overlaps: Whether the curve can be compared with the anchor's.
        unfinished: Share of the training steps that a stopped trial did not run.
        hopeless: By how much a refused trial missed the front, 0 of others; None in a study that
            refuses none.
    """
    shares = {name: values.get(name, limit) / limit - 1.0 for name, limit in limits.items()}
    shares |= {OVERLAP: 0.0 if overlaps else 1.0, UNFINISHED: unfinished}
    shares |= {} if hopeless is None else {HOPELESS: hopeless}
    return dict(sorted(shares.items()))


def broken(limits: Mapping[str, float], values: Mapping[str, float]) -> list[str]:
    """One sentence for each limit that `values` exceed."""
    return [
        f"{name} is {values[name]:,.6g}, above the limit of {limit:,.6g}"
        for name, limit in limits.items()
        if values.get(name, limit) > limit
    ]
