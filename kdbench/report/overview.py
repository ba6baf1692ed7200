"""What a study found: its trials, and which of them are on the front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import dist

from kdbench.bench import CodecFigures, load_anchor
from kdbench.errors import KdbenchError
from kdbench.fronts import non_dominated
from kdbench.objectives import OBJECTIVES
from kdbench.records import TrialResult
from kdbench.store import Store, StoredTrial

DEAD_SHARE = 0.001  # of the gradient: a term below it does nothing
MAX_DIGITS = 18  # of the number of a trial; Python refuses to read thousands of digits
UNDISTILLED = ("rate", "distortion")  # the terms of the loss that every student has


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One study, read from its files.

    Attributes:
        anchor_name: What BD-rates are against, as the study file names it.
        anchor: Its figures; None where they were never taken.
        trials: Every trial that has begun, by number.
        front: Numbers of the trials that no other one beats, by the first objective.
        protocol: Of every measurement in it; None while nothing is complete.
    """

    study: str
    objectives: tuple[str, ...]
    anchor_name: str
    anchor: CodecFigures | None
    trials: tuple[StoredTrial, ...]
    front: tuple[int, ...]
    protocol: int | None

    @cached_property
    def results(self) -> Mapping[int, TrialResult]:
        """Every complete trial by its number."""
        return {t.number: t.result for t in self.trials if t.result is not None}

    @cached_property
    def by_number(self) -> Mapping[int, StoredTrial]:
        """Every trial by its number."""
        return {trial.number: trial for trial in self.trials}

    @cached_property
    def on_front(self) -> frozenset[int]:
        """The front as a set."""
        return frozenset(self.front)

    @cached_property
    def objective_values(self) -> Mapping[int, Mapping[str, float | None]]:
        """Every objective of every complete trial, by number and name."""
        return {
            number: {name: OBJECTIVES[name](result) for name in self.objectives}
            for number, result in self.results.items()
        }

    @cached_property
    def rows(self) -> Mapping[int, list[float]]:
        """The objectives of every complete trial that has them all, by number."""
        return objective_rows(self.results, self.objectives)

    @cached_property
    def energy_origins(self) -> tuple[str, ...]:
        """Where its joules come from, by name; none of a study without energies."""
        known = (result.energy for result in self.results.values())
        return tuple(sorted({energy.origin for energy in known if energy is not None}))

    @property
    def front_results(self) -> dict[int, TrialResult]:
        """The front by number, in its order."""
        results = self.results
        return {number: results[number] for number in self.front}

    def rd_lambdas(self, number: int) -> tuple[float, ...]:
        """Of the levels of a trial."""
        return self.by_number[number].spec.training.rd_lambdas

    def n(self, state: str) -> int:
        """How many trials are in `state`."""
        return sum(trial.state == state for trial in self.trials)

    def values(self, trial: StoredTrial) -> dict[str, float | None]:
        """Every objective of one trial; costs are known of infeasible trials, too."""
        if trial.result is not None:
            return dict(self.objective_values[trial.number])
        known = trial.failure.values if trial.failure else {}
        return {name: known.get(name) for name in self.objectives}


def overview(store: Store, study: str) -> Overview:
    """What `study` found so far.

    Raises:
        StoreError: No such study, or a damaged file.
        KdbenchError: Its trials were measured by different procedures, or some measured energy
            and others estimated it.
    """
    stored = store.load_study(study)
    if "objectives" not in stored.settings:
        raise KdbenchError(
            f"study {study!r} measured codecs and has no trials",
            fix=f"`kdbench show --study {study}` prints its tables",
        )
    trials = tuple(store.trials(study))
    objectives = tuple(stored.settings["objectives"])
    results = {trial.number: trial.result for trial in trials if trial.result is not None}
    protocol = _only_protocol(study, results)
    if any("_j_per_mpx" in name for name in objectives):
        _refuse_mixed_sources(study, results)
    return Overview(
        study=study,
        objectives=objectives,
        anchor_name=str(stored.settings["anchor"]),
        anchor=load_anchor(store, study),
        trials=trials,
        front=front(results, objectives),
        protocol=protocol,
    )


def front(results: Mapping[int, TrialResult], objectives: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the results that no other one beats, by the first objective.

    A result that lacks an objective is not on the front: nothing says that it is beaten, and
    nothing that it is not.
    """
    rows = objective_rows(results, objectives)
    kept = non_dominated(list(rows.values()))
    numbers = [number for number, keep in zip(rows, kept, strict=True) if keep]
    return tuple(sorted(numbers, key=lambda number: (rows[number], number)))


def dead_terms(result: TrialResult) -> dict[str, float]:
    """Distillation terms that did nothing: name and largest share of the gradient, 0 to 1.

    Their share was under `DEAD_SHARE` in every part, at the first step and at the last. A term
    that its schedule had switched off at the last step is judged by the first.
    """
    largest: dict[str, float] = {}
    for found in result.gradient_shares:
        for term, parts in found.shares.items():
            largest[term] = max([largest.get(term, 0.0), *parts.values()])
    return {
        term: share
        for term, share in largest.items()
        if term not in UNDISTILLED and share < DEAD_SHARE
    }


def objective_rows(
    results: Mapping[int, TrialResult], objectives: Sequence[str]
) -> dict[int, list[float]]:
    """The objectives of every result that has them all."""
    rows: dict[int, list[float]] = {}
    for number, result in results.items():
        values = [OBJECTIVES[name](result) for name in objectives]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            rows[number] = known
    return rows


def choose(found: Overview, which: str) -> list[int]:
    """Numbers of the trials that `which` names.

    Args:
        found: The study.
        which: A number; `best`: the whole front; `best:OBJECTIVE`: its lowest value on the front;
            `knee`: the front's member closest to the best of every objective, each scaled to the
            front's own range.

    Raises:
        KdbenchError: No such trial or objective, or nothing is complete.
    """
    if which.isdecimal() and len(which) <= MAX_DIGITS:
        return [_existing(found, int(which))]
    kind, colon, objective = which.partition(":")
    if kind not in ("best", "knee") or (colon and kind == "knee"):
        raise KdbenchError(
            f"`{which}` names no trial",
            fix="use a number, best, best:OBJECTIVE or knee; "
            f"`kdbench show --study {found.study} --all` lists the trials",
        )
    if not found.front:
        raise KdbenchError(
            f"study {found.study!r} has no complete trial yet",
            fix=f"let `kdbench search --study {found.study}` finish one, or name a trial by number",
        )
    if kind == "knee":
        return [_knee(found)]
    if not colon:
        return list(found.front)
    if objective not in found.objectives:
        near = get_close_matches(objective, found.objectives, n=len(found.objectives), cutoff=0.0)
        raise KdbenchError(
            f"`{objective}` is no objective of study {found.study!r}",
            fix=f"use best:OBJECTIVE with one of, nearest first: {', '.join(near)}",
        )
    column = found.objectives.index(objective)
    return [min(found.front, key=lambda number: found.rows[number][column])]


def _existing(found: Overview, number: int) -> int:
    numbers = [trial.number for trial in found.trials]
    if number in numbers:
        return number
    near = sorted(numbers, key=lambda n: (abs(n - number), n))[:5]
    listed = f"there is, nearest first: {', '.join(map(str, near))}" if near else "it has none"
    raise KdbenchError(
        f"study {found.study!r} has no trial {number}",
        fix=f"{listed}; `kdbench show --study {found.study} --all` lists its trials",
    )


def _knee(found: Overview) -> int:
    rows = {number: found.rows[number] for number in found.front}
    columns = list(zip(*rows.values(), strict=True))
    lows = [min(column) for column in columns]
    spans = [(max(column) - low) or 1.0 for column, low in zip(columns, lows, strict=True)]

    def distance(number: int) -> float:
        scaled = [(v - low) / s for v, low, s in zip(rows[number], lows, spans, strict=True)]
        return dist(scaled, [0.0] * len(scaled))

    return min(found.front, key=distance)


def _only_protocol(study: str, results: Mapping[int, TrialResult]) -> int | None:
    first: dict[int, int] = {}
    for number, result in results.items():
        first.setdefault(result.protocol, number)
    if len(first) > 1:
        which = ", ".join(f"{protocol} (trial {number})" for protocol, number in first.items())
        raise KdbenchError(
            f"the trials of study {study!r} follow different measurement protocols: {which}",
            fix="their figures do not compare; begin a study of another name with this kdbench",
        )
    return next(iter(first), None)


def _refuse_mixed_sources(study: str, results: Mapping[int, TrialResult]) -> None:
    first: dict[str, int] = {}
    for number, result in results.items():
        if result.energy is not None:
            first.setdefault(result.energy.source, number)
    if "model" in first and len(first) > 1:
        which = ", ".join(f"{source} (trial {number})" for source, number in first.items())
        raise KdbenchError(
            f"study {study!r} mixes measured and estimated energies: {which}",
            fix="they do not compare; search again under another study name with one meter",
        )
