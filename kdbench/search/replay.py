"""Searches simulated on a table of finished trials: any sampler, any ladder, in seconds.

A sampler is asked for every axis of the table; the trial is the row nearest to what it suggests
among those not taken yet, and the sampler is told that row's own parameters, so that it learns of
what was run and not of what it wished for. One trial runs at a time. A ladder decides with
`ladder.goes_on` from what the rows showed on their way; a stopped row costs the seconds until its
rung and is told as a study tells it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from kdbench.errors import KdbenchError
from kdbench.parameters import FloatRange, Parameter
from kdbench.search.attributes import COSTS
from kdbench.search.axes import distributions
from kdbench.search.ladder import goes_on
from kdbench.search.objectives import violations
from kdbench.search.recorded import Recording
from kdbench.search.samplers import N_STARTUP, drawing_sampler, population, sampler_seed
from kdbench.search.storage import quiet
from kdbench.tabular import SHARES_PCT, Estimate, Outcome, Policy, Row, Search, Shown, Table
from kdbench.yamlfile import nearest_first

N_RESAMPLES = 1000
SAMPLERS = ("random", "tpe", "nsga2", "nsga3", "qmc", "gp")
LADDERS = (None, 2, 3)  # etas to compare where a study has rungs
Floats = npt.NDArray[np.float64]


def policies(
    found: Recording, samplers: Sequence[str], etas: Sequence[int | None] | None = None
) -> list[Policy]:
    """Every sampler with every ladder, random search without one before all others.

    Args:
        found: What is searched.
        samplers: Names, of `SAMPLERS`.
        etas: Ladders, None: no ladder; all of `LADDERS` where nobody says and there are rungs.

    Raises:
        KdbenchError: A sampler that cannot be replayed, or a ladder without rungs.
    """
    for name in samplers:
        if name not in SAMPLERS:
            raise KdbenchError(
                f"there is no sampler {name!r} to replay",
                fix=f"name some of, nearest first: {', '.join(nearest_first(name, SAMPLERS))}",
            )
    has_rungs = bool(found.table.shares)
    ladders = etas or (LADDERS if has_rungs else (None,))
    if not has_rungs and any(ladders):
        raise KdbenchError(
            f"the finished trials of study {found.study!r} share no rung to stop others at",
            fix="`--etas none`, or a study with a ladder: `ladder: {rungs: [0.11, 0.33], stop: "
            "false}` looks and stops nobody",
        )
    asked = [Policy(sampler=name, eta=eta) for eta in ladders for name in samplers]
    control = Policy(sampler="random")
    return [control, *(policy for policy in asked if policy != control)]


def replay(
    table: Table,
    policies: Sequence[Policy],
    *,
    seeds: int = 20,
    budget: float = 1.0,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> list[Outcome]:
    """What each policy finds on `table`, over so many search seeds.

    Args:
        table: What there is to find.
        policies: Ways to search.
        seeds: Searches of each policy; seed i has the same numbers and ties in all of them.
        budget: Seconds of a search, as a part of what the whole table takes; what does not end in
            time is not begun.
        on_progress: Told the searches done and to do.
    """
    outcomes = []
    for k, policy in enumerate(policies):
        found = []
        for seed in range(seeds):
            found.append(simulate(table, policy, seed, budget=budget))
            on_progress(k * seeds + seed + 1, len(policies) * seeds)
        outcomes.append(summary(policy, found))
    return outcomes


def simulate(table: Table, policy: Policy, seed: int, *, budget: float = 1.0) -> Search:
    """One search on `table` until every row is taken or its seconds are spent."""
    with quiet():
        return _Simulation(table, policy, seed).run(budget * table.seconds)


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
        seconds=_mean([search.seconds for search in found]),
    )


@dataclass(slots=True)
class _Simulation:
    """One search: its study, its clock, what is left of the table."""

    table: Table
    policy: Policy
    seed: int
    space: dict[str, BaseDistribution] = field(init=False)
    study: optuna.Study = field(init=False)
    left: list[int] = field(init=False)
    places: "_Places" = field(init=False)
    been_there: dict[float, list[tuple[float, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = self.table
        self.space = distributions(table.axes)
        self.study = optuna.create_study(
            directions=["minimize"] * len(table.objectives),
            sampler=drawing_sampler(
                self.policy.sampler,
                seed=sampler_seed(self.seed, 0, 0),
                n_startup=N_STARTUP,
                population_size=population(len(table.rows)),
                space=self.space,
            ),
        )
        self.study.set_metric_names(list(table.objectives))
        order = np.random.default_rng(self.seed).permutation(len(table.rows))
        self.left = order.tolist()  # of rows equally near the first here is taken
        self.places = _Places(table)

    def run(self, budget_s: float) -> Search:
        table, clock = self.table, self.table.setup_s
        steps: list[tuple[float, float]] = []
        begun: list[int] = []
        ended_s: list[float] = []
        finished: list[int] = []
        stopped: list[int] = []
        while self.left:
            suggested, attributes = self._suggestion()
            i = self.places.nearest(suggested, self.left)
            row = table.rows[i]
            at = self._stops(row)
            spent = row.seconds if at is None else at.seconds
            if clock + spent > budget_s * (1 + 1e-12):
                break
            self.left.remove(i)
            begun.append(i)
            clock += spent
            ended_s.append(clock)
            self._tell(row, at, attributes)
            if at is not None:
                stopped.append(i)
                continue
            finished.append(i)
            share = table.volume_of(finished) / table.volume
            if not steps or share > steps[-1][1]:
                steps.append((clock, share))
        return Search(
            steps=tuple(steps),
            begun=tuple(begun),
            ended_s=tuple(ended_s),
            stopped=tuple(stopped),
            wrongly_stopped=tuple(i for i in stopped if i in table.front),
            front_share=len(table.front.intersection(finished)) / len(table.front),
            seconds=clock,
        )

    def _suggestion(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the sampler would try, and what it noted about it (its generation)."""
        trial = self.study.ask()
        for name, axis in self.table.axes.items():
            axis.sample(name, trial)
        asked = self.study.get_trials(deepcopy=False)[trial.number]
        params, attributes = dict(asked.params), dict(asked.system_attrs)
        self.study.tell(trial, state=TrialState.FAIL)  # no sampler reads these
        return params, attributes

    def _stops(self, row: Row) -> Shown | None:
        """The rung where others did better; None if it goes on to its end."""
        if self.policy.eta is None:
            return None
        asked = self.table.shares if self.policy.shares is None else self.policy.shares
        for rung in row.rungs:
            if rung.share not in asked:
                continue
            others = self.been_there.setdefault(rung.share, [])
            goes = goes_on(rung.values, others, self.policy.eta)
            others.append(rung.values)
            if not goes:
                return rung
        return None

    def _tell(self, row: Row, at: Shown | None, attributes: Mapping[str, Any]) -> None:
        """What a study tells of a complete trial, or of a stopped one."""
        params = {name: value for name, value in row.params.items() if name in self.space}
        trial = optuna.create_trial(
            state=TrialState.COMPLETE if at is None else TrialState.PRUNED,
            values=row.objectives if at is None else None,
            params=params,
            distributions={name: self.space[name] for name in params},
            constraints=violations({}, {}, unfinished=0.0 if at is None else 1 - at.share),
            user_attrs={} if at is None else {COSTS: self.table.costs(row)},
            system_attrs=dict(attributes),
        )
        self.study.add_trial(trial)


class _Places:
    """Where rows lie on the axes of a table, each from 0 to 1."""

    def __init__(self, table: Table) -> None:
        self._axes = {name: axis for name, axis in table.axes.items() if not axis.fixed}
        self._named = np.array([_is_named(axis) for axis in self._axes.values()], dtype=bool)
        self._rows = np.array([self._place(row.params) for row in table.rows])

    def nearest(self, params: Mapping[str, Any], among: Sequence[int]) -> int:
        """Which of `among` differs least from `params`, mean over the axes that the row has."""
        if not self._axes:
            return among[0]
        rows = self._rows[among]
        apart: Floats = np.abs(rows - np.array(self._place(params)))
        apart = np.where(self._named, np.where(apart > 0, 1.0, apart), apart)
        has = ~np.isnan(rows)
        distance = np.where(has, apart, 0.0).sum(axis=1) / np.maximum(has.sum(axis=1), 1)
        return among[int(distance.argmin())]

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        return [
            _position(axis, params[name]) if name in params else float("nan")
            for name, axis in self._axes.items()
        ]


def _is_named(axis: Parameter) -> bool:
    return not isinstance(axis, FloatRange) and isinstance(axis.values[0], str | bool)


def _position(axis: Parameter, value: Any) -> float:
    """From 0 to 1: a number of a range by its size, one of a list by its rank."""
    if isinstance(axis, FloatRange):
        low, high, here = axis.low, axis.high, float(value)
        if axis.log:
            low, high, here = (float(np.log(each)) for each in (low, high, here))
        return (here - low) / (high - low)
    ranked = axis.values if _is_named(axis) else sorted(axis.values)
    return ranked.index(value) / (len(ranked) - 1)


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
