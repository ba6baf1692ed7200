"""One codec beside another: what `bench` says of the anchor and `rerun` of the first run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.errors import KdbenchError, QualityGapError
from kdbench.records import BDRate, RDCurve, TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """BD-rate against an anchor, or why there is none."""

    anchor: str
    bd_rate: BDRate | None
    why_not: str | None


def compare(curve: RDCurve, anchor: RDCurve, anchor_name: str) -> Comparison:
    """`curve` against `anchor`; too little common quality is an answer, not an error."""
    from kdbench.rd import bd_rate

    try:
        found = bd_rate(curve, anchor)
    except QualityGapError as why:
        return Comparison(anchor=anchor_name, bd_rate=None, why_not=why.problem)
    return Comparison(anchor=anchor_name, bd_rate=found, why_not=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A trial and its second run.

    Attributes:
        same: By hash (`weights`, `bitstreams`), whether both runs gave the same.
        changed: What bit-identity depends on and is not as it was: name -> (then, now).
        difference: BD-rate of the second run against the first; None where they are identical or
            cannot be compared (then `why_not` says so).
    """

    number: int
    same: Mapping[str, bool]
    changed: Mapping[str, tuple[str | None, str | None]]
    first: TrialResult
    second: TrialResult
    difference: BDRate | None
    why_not: str | None

    @property
    def identical(self) -> bool:
        """Weights and bitstreams are the same, bit for bit."""
        return all(self.same.values())

    @property
    def expected(self) -> bool:
        """Whether bit-identity was to be expected: same machine, same versions, same threads."""
        return not self.changed

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.identical:
            return "reproduced: weights and bitstreams are identical, bit for bit"
        parts = ", ".join(name for name, same in self.same.items() if not same)
        if self.expected:
            return f"NOT reproduced: other {parts} on the same machine with the same versions"
        return (
            f"other {parts}, as must be expected: {', '.join(self.changed)} changed since; "
            "compare the BD-rates"
        )


def reproduction(number: int, first: TrialResult, second: TrialResult) -> Reproduction:
    """How the second run of a trial compares with its first."""
    same = {name: second.hashes.get(name) == value for name, value in first.hashes.items()}
    changed = {
        name: (first.environment.get(name), second.environment.get(name))
        for name in sorted({*first.environment, *second.environment})
        if first.environment.get(name) != second.environment.get(name)
    }
    difference, why_not = None, None
    if not all(same.values()):
        try:
            difference = compare(second.rd, first.rd, f"trial {number}")
        except KdbenchError as why:  # e.g. other photos
            why_not = why.problem
    return Reproduction(
        number=number,
        same=same,
        changed=changed,
        first=first,
        second=second,
        difference=difference.bd_rate if difference else None,
        why_not=difference.why_not if difference else why_not,
    )


def reproduction_json(runs: Sequence[Reproduction], study: str) -> dict[str, Any]:
    """What `rerun --json` prints."""
    from kdbench.report.json_view import bd_rate_json

    return {
        "study": study,
        "reruns": [
            {
                "number": run.number,
                "reproduced": run.identical,
                "expected": run.expected,
                "same": dict(run.same),
                "changed": {k: {"then": a, "now": b} for k, (a, b) in run.changed.items()},
                "bd_rate_pct": {"then": run.first.bd_rate.pct, "now": run.second.bd_rate.pct},
                "difference": bd_rate_json(run.difference) if run.difference else None,
                "why_no_difference": run.why_not,
                "hashes": {"then": dict(run.first.hashes), "now": dict(run.second.hashes)},
            }
            for run in runs
        ],
    }
