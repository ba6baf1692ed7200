"""Finished trials as a table, and what searches that were replayed on it found.

Plain records: a table can come from a study's folders or from anywhere else, and whoever renders
the outcome needs no sampler.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.errors import KdbenchError
from kdbench.fronts import Landscape, non_dominated, why_unsound
from kdbench.objectives import QUALITIES
from kdbench.parameters import Choice, FloatRange, Parameter

KNOWN_LAST = (*QUALITIES, "decode_s_per_mpx")  # objectives that only a finished trial has
N_CHOICES = 16  # an axis of more numbers is a range
SHARES_PCT = (50, 90, 95, 99)  # of the table's hypervolume that a search is timed to
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a trial showed at a rung.

    Attributes:
        share: Of the steps of its training, between 0 and 1.
        seconds: Of the trial until there.
        values: What a ladder compares, everything minimised.
    """

    share: float
    seconds: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finished trial.

    Attributes:
        number: What it is called in its study.
        params: What a sampler suggested, by name; what the trial was not asked for is not there.
        objectives: What it found, in the order of the table's.
        seconds: What the whole trial took, training, evaluation and all.
        rungs: What it showed on its way, by ascending share.
        costs: What was known before its training beside the objectives, by name.
        costs_s: Seconds of the trial until its costs were known.
    """

    number: int
    params: Mapping[str, Any]
    objectives: tuple[float, ...]
    seconds: float
    rungs: tuple[Shown, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    costs_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Every trial that a replayed search can run.

    Attributes:
        objectives: Names; all are minimised.
        rows: Two at least.
        axes: Every parameter that a sampler is asked for; read from the rows where none is given
            (`axes_of`).
        setup_s: What a search pays once before its first trial (teachers' outputs).
    """

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    axes: Mapping[str, Parameter] = field(default_factory=dict)
    setup_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises KdbenchError at the first row that no search could run."""
        if len(self.rows) < 2:
            raise KdbenchError(
                f"a table of {len(self.rows)} finished trial(s) has nothing to search",
                fix="let the study finish more trials",
            )
        for row in self.rows:
            self._require_sound(row)
        if not self.axes:
            object.__setattr__(self, "axes", axes_of(self.rows))

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """The rungs that every row was at."""
        first, *others = [{rung.share for rung in row.rungs} for row in self.rows]
        return tuple(sorted(first.intersection(*others)))

    @cached_property
    def front(self) -> frozenset[int]:
        """Places of the rows that no other one beats."""
        kept = non_dominated([row.objectives for row in self.rows])
        return frozenset(i for i, keep in enumerate(kept) if keep)

    @cached_property
    def landscape(self) -> Landscape:
        """What hypervolumes of some rows are compared with."""
        return Landscape(self.objectives, [row.objectives for row in self.rows])

    @property
    def seconds(self) -> float:
        """What all rows take, one after the other."""
        return self.setup_s + sum(row.seconds for row in self.rows)

    def costs(self, row: Row) -> dict[str, float]:
        """What is known of a trial before its training, objectives among it."""
        found = self.found(row)
        return {**row.costs, **{k: v for k, v in found.items() if k not in KNOWN_LAST}}

    def found(self, row: Row) -> dict[str, float]:
        """Its objectives by name."""
        return dict(zip(self.objectives, row.objectives, strict=True))

    def _require_sound(self, row: Row) -> None:
        problem: str | None
        times = [0.0, row.costs_s, *(rung.seconds for rung in row.rungs), row.seconds]
        if len(row.objectives) != len(self.objectives):
            problem = f"{len(row.objectives)} objectives, and the table {len(self.objectives)}"
        elif not all(map(math.isfinite, times)):
            problem = "a figure that is no number"
        elif sorted(times) != times:
            problem = "seconds that do not ascend from rung to rung to its end"
        else:
            problem = why_unsound(self.objectives, row.objectives)
        if problem:
            raise KdbenchError(f"trial {row.number} has {problem}", fix="leave it out of the table")


def axes_of(rows: Sequence[Row]) -> dict[str, Parameter]:
    """The parameters of `rows`: choices of what they hold, ranges where those are many numbers."""
    names = sorted({name for row in rows for name in row.params})
    held = {name: [row.params[name] for row in rows if name in row.params] for name in names}
    return {name: _axis(values) for name, values in held.items()}


def _axis(values: Sequence[Any]) -> Parameter:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers:
        return Choice(values=tuple(dict.fromkeys(values)))
    distinct = sorted(set(values))
    if len(distinct) <= N_CHOICES:
        return Choice(values=tuple(distinct))
    low, high = float(distinct[0]), float(distinct[-1])
    return FloatRange(low=low, high=high, log=low > 0 and high / low > 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One way to search.

    Attributes:
        sampler: Its name.
        eta: Of the ladder, see `search.ladder`; None: every trial runs to its end.
        shares: The rungs where a trial may be stopped; None: all that the table has.
        cost_first: Whether costs may refuse a trial, see `search.prospects`.
        first: Places of rows that are tried before the sampler is asked, as a study's diagonal is.
    """

    sampler: str
    eta: int | None = None
    shares: tuple[float, ...] | None = None
    cost_first: bool = False
    first: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Sampler, ladder and refusals in a few words."""
        ladder = [] if self.eta is None else [f"eta {self.eta}"]
        return ", ".join([self.sampler, *ladder, *(["cost first"] * self.cost_first)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one replayed search found.

    Attributes:
        steps: Seconds since its begin and share of the table's hypervolume, at each gain.
        begun, stopped, refused: Places of rows in the table, in the order they came.
        ended_s: When each of `begun` ended [s].
        wrongly_stopped, wrongly_refused: Those of them on the true front.
        front_share: Part of the true front that it finished.
        seconds: Of all that was begun.
    """

    steps: tuple[tuple[float, float], ...]
    begun: tuple[int, ...]
    ended_s: tuple[float, ...]
    stopped: tuple[int, ...]
    wrongly_stopped: tuple[int, ...]
    refused: tuple[int, ...]
    wrongly_refused: tuple[int, ...]
    front_share: float
    seconds: float

    @property
    def share(self) -> float:
        """Of the table's hypervolume, at its end."""
        return self.steps[-1][1] if self.steps else 0.0

    def seconds_to(self, share: float) -> float | None:
        """Seconds until it had this share of the table's hypervolume; None: it never did."""
        reached = (at for at, has in self.steps if has >= share - TOLERANCE)
        return next(reached, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure over search seeds, with its 95 % interval; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a policy found over all search seeds.

    Attributes:
        seconds_to: By percent of the table's hypervolume: the median; None where more than half
            of the searches never had so much.
        reached: By the same, the part of the searches that had so much, 0 to 1.
        hypervolume: Mean share of the table's at the end, 0 to 1.
        front_found: Mean part of the true front that was finished, 0 to 1.
        stopped: Mean number of trials that the ladder stopped.
        wrongly_stopped: How many of them are on the true front.
        refused, wrongly_refused: Likewise of those that their costs refused.
        seconds: Mean seconds of a search.
    """

    policy: Policy
    n_seeds: int
    seconds_to: Mapping[int, Estimate]
    reached: Mapping[int, float]
    hypervolume: Estimate
    front_found: Estimate
    stopped: Estimate
    wrongly_stopped: Estimate
    refused: Estimate
    wrongly_refused: Estimate
    seconds: Estimate
