"""What `kdbench replay` prints: each policy's seconds to the table's front, and what it missed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdbench.records import SCHEMA, plain
from kdbench.report.text import table, wrapped
from kdbench.report.units import UNKNOWN, duration, figure
from kdbench.tabular import SHARES_PCT, Estimate, Outcome, Table

NEVER = "never"


def replay_text(
    study: str,
    found: Table,
    left_out: Mapping[str, int],
    outcomes: Sequence[Outcome],
    *,
    budget: float,
    width: int,
) -> str:
    """Two tables, a row a policy: how soon, and what was there at the end."""
    heads = ["policy", *(f"{pct} %" for pct in SHARES_PCT)]
    soon = [[_policy(each), *(_soon(each, pct) for pct in SHARES_PCT)] for each in outcomes]
    end = [
        [
            _policy(each),
            _cell(each.hypervolume, 100),
            _cell(each.front_found, 100),
            _cell(each.stopped, write="{:.1f}".format),
            _cell(each.wrongly_stopped, write="{:.1f}".format),
            _cell(each.seconds),
        ]
        for each in outcomes
    ]
    end_heads = ["policy", "hypervolume\n%", "front\n%", "stopped", "of the\nfront", "seconds"]
    n = outcomes[0].n_seeds
    refused = [
        [
            _policy(each),
            _cell(each.refused, write="{:.1f}".format),
            _cell(each.wrongly_refused, write="{:.1f}".format),
        ]
        for each in outcomes
        if each.policy.cost_first
    ]
    parts = [
        wrapped("", _head(study, found, left_out, n, budget), width, indent=0),
        "seconds to a part of the table's hypervolume, median [95 % over search seeds]\n"
        + table(heads, soon, left=1),
        "at the end, mean [95 % over search seeds]\n" + table(end_heads, end, left=1),
    ]
    if refused:
        refused_heads = ["policy", "trials", "of the\nfront"]
        parts.append(
            "refused for their costs, mean [95 % over search seeds]\n"
            + table(refused_heads, refused, left=1)
        )
    return "\n\n".join(parts) + "\n"


def replay_json(
    study: str,
    found: Table,
    left_out: Mapping[str, int],
    outcomes: Sequence[Outcome],
    *,
    budget: float,
) -> dict[str, Any]:
    """The same for other programs."""
    numbers = [row.number for row in found.rows]
    return {
        "study": study,
        "schema": SCHEMA,
        "objectives": list(found.objectives),
        "rows": numbers,
        "front": sorted(numbers[i] for i in found.front),
        "left_out": dict(left_out),
        "rungs": list(found.shares),
        "corner": list(found.landscape.corner),
        "seconds": found.seconds,
        "setup_s": found.setup_s,
        "seeds": outcomes[0].n_seeds,
        "budget": budget,
        "policies": [_outcome_json(each) for each in outcomes],
    }


def _outcome_json(each: Outcome) -> dict[str, Any]:
    return {
        "sampler": each.policy.sampler,
        "eta": each.policy.eta,
        "cost_first": each.policy.cost_first,
        "seconds_to": {
            str(pct): {**plain(each.seconds_to[pct]), "reached": each.reached[pct]}
            for pct in SHARES_PCT
        },
        "hypervolume": plain(each.hypervolume),
        "front_found": plain(each.front_found),
        "stopped": plain(each.stopped),
        "wrongly_stopped": plain(each.wrongly_stopped),
        "refused": plain(each.refused),
        "wrongly_refused": plain(each.wrongly_refused),
        "seconds": plain(each.seconds),
    }


def _head(
    study: str, found: Table, left_out: Mapping[str, int], n_seeds: int, budget: float
) -> str:
    others = ", ".join(f"{n} {state}" for state, n in left_out.items())
    rungs = ", ".join(f"{share:.3g}" for share in found.shares)
    part = "" if budget == 1 else f"; a search has {100 * budget:.3g} % of that"
    return "\n".join(
        [
            f"study {study}: {len(found.rows)} finished trials as a table, "
            f"{len(found.front)} of them on its front"
            + (f" ({others} without a result left out)" if others else ""),
            f"minimised: {', '.join(found.objectives)}; rungs: {rungs or 'none'}",
            f"one after the other they took {duration(found.seconds)}{part}; "
            f"{n_seeds} search{'es' * (n_seeds != 1)} of each policy",
        ]
    )


def _policy(each: Outcome) -> str:
    """Its name; what refuses stands below, for narrow terminals."""
    return each.policy.name.replace(", cost", "\ncost")


def _soon(each: Outcome, pct: int) -> str:
    """The median, its interval below; the part of the searches that had so much if not all had."""
    reached = each.reached[pct]
    if reached == 0:
        return NEVER
    cell = _cell(each.seconds_to[pct], unknown=NEVER)
    return cell if reached == 1 else f"{cell}\n{100 * reached:.0f} % did"


def _cell(
    estimate: Estimate,
    scale: float = 1.0,
    *,
    unknown: str = UNKNOWN,
    write: Callable[[float], str] = figure,
) -> str:
    """The figure, its interval below where there is one."""

    def text(value: float | None) -> str:
        return unknown if value is None else write(scale * value) if value else "0"

    if estimate.low is None and estimate.high is None:
        return text(estimate.value)
    return f"{text(estimate.value)}\n[{text(estimate.low)}, {text(estimate.high)}]"
