"""Searches simulated on a table of finished trials: any sampler, any ladder.

A sampler is asked for every axis of the table; the trial is the row nearest to what it suggests
among those not taken yet, and the sampler is told that row's own parameters, so that it learns of
what was run and not of what it wished for. One trial runs at a time. A ladder decides with
`ladder.goes_on` from what the rows showed on their way, costs refuse with `prospects.hopeless`;
such a row costs the seconds until then and is told as a study tells it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from kdbench.errors import KdbenchError
from kdbench.names import nearest_first
from kdbench.objectives import QUALITIES
from kdbench.search.attributes import COSTS
from kdbench.search.axes import distributions
from kdbench.search.ladder import goes_on
from kdbench.search.objectives import violations
from kdbench.search.places import Places
from kdbench.search.prospects import Hopeless, hopeless
from kdbench.search.recorded import Recording
from kdbench.search.samplers import N_STARTUP, drawing_sampler, population, sampler_seed
from kdbench.search.storage import quiet
from kdbench.search.summary import summary
from kdbench.tabular import (
    KNOWN_LAST,
    Outcome,
    Policy,
    Row,
    Search,
    Shown,
    Table,
)

SAMPLERS = ("random", "tpe", "nsga2", "nsga3", "qmc", "gp")
LADDERS = (None, 2, 3)  # etas to compare where a study has rungs


def policies(
    found: Recording,
    samplers: Sequence[str],
    etas: Sequence[int | None] | None = None,
    *,
    cost_first: bool = False,
) -> list[Policy]:
    """Every sampler with every ladder, random search without one before all others.

    Args:
        found: What is searched.
        samplers: Names, of `SAMPLERS`.
        etas: Ladders, None: no ladder; all of `LADDERS` where nobody says and there are rungs.
        cost_first: Whether each comes a second time, with candidates refused for their costs.

    Raises:
        KdbenchError: A sampler that cannot be replayed, a ladder without rungs, or objectives that
            cannot be told before the training or are all told by then.
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
    if cost_first:
        _require_guess(found)
    asked = [
        Policy(sampler=name, eta=eta, cost_first=refuses)
        for eta in ladders
        for name in samplers
        for refuses in (False, True)[: 1 + cost_first]
    ]
    control = Policy(sampler="random")
    return [control, *(policy for policy in asked if policy != control)]


def _require_guess(found: Recording) -> None:
    """Costs refuse where a quality is to be guessed and all else is known, see `config`."""
    names = set(found.table.objectives)
    costs = names - set(KNOWN_LAST)
    if not costs or not names & set(QUALITIES) or names - costs - set(QUALITIES):
        raise KdbenchError(
            f"costs cannot refuse a trial of study {found.study!r}, which minimises "
            f"{', '.join(found.table.objectives)}",
            fix="leave `--cost-first` away; it needs bd_rate_pct or validation_loss and costs that "
            "are known before the training",
        )


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


@dataclass(slots=True)
class _Simulation:
    """One search: its study, its clock, what is left of the table."""

    table: Table
    policy: Policy
    seed: int
    space: dict[str, BaseDistribution] = field(init=False)
    study: optuna.Study = field(init=False)
    left: list[int] = field(init=False)
    places: Places = field(init=False)
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
        self.places = Places(table)

    def run(self, budget_s: float) -> Search:
        table, clock = self.table, self.table.setup_s
        steps: list[tuple[float, float]] = []
        begun: list[int] = []
        ended_s: list[float] = []
        finished: list[int] = []
        stopped: list[int] = []
        refused: list[int] = []
        while self.left:
            i, attributes = self._next(len(begun))
            row = table.rows[i]
            why = self._refuses(row, finished)
            at = None if why else self._stops(row)
            spent = row.costs_s if why else row.seconds if at is None else at.seconds
            if clock + spent > budget_s * (1 + 1e-12):
                break
            self.left.remove(i)
            begun.append(i)
            clock += spent
            ended_s.append(clock)
            self._tell(row, at, why, attributes)
            if why is not None or at is not None:
                (stopped if why is None else refused).append(i)
                continue
            finished.append(i)
            share = table.landscape.volume_of(finished) / table.landscape.volume
            if not steps or share > steps[-1][1]:
                steps.append((clock, share))
        return Search(
            steps=tuple(steps),
            begun=tuple(begun),
            ended_s=tuple(ended_s),
            stopped=tuple(stopped),
            wrongly_stopped=tuple(i for i in stopped if i in table.front),
            refused=tuple(refused),
            wrongly_refused=tuple(i for i in refused if i in table.front),
            front_share=len(table.front.intersection(finished)) / len(table.front),
            seconds=clock,
        )

    def _next(self, n_begun: int) -> tuple[int, dict[str, Any]]:
        """The place of the row to try, and what the sampler noted if it was asked."""
        if n_begun < len(self.policy.first):
            return self.policy.first[n_begun], {}
        suggested, attributes = self._suggestion()
        return self.places.nearest(suggested, self.left), attributes

    def _suggestion(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the sampler would try, and what it noted about it (its generation)."""
        trial = self.study.ask()
        for name, axis in self.table.axes.items():
            axis.sample(name, trial)
        asked = self.study.get_trials(deepcopy=False)[trial.number]
        params, attributes = dict(asked.params), dict(asked.system_attrs)
        self.study.tell(trial, state=TrialState.FAIL)  # no sampler reads these
        return params, attributes

    def _refuses(self, row: Row, finished: Sequence[int]) -> Hopeless | None:
        if not self.policy.cost_first:
            return None
        table, others = self.table, [self.table.rows[i] for i in finished]
        known = [{**table.costs(other), **table.found(other)} for other in others]
        return hopeless(table.objectives, known, table.costs(row))

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

    def _tell(
        self, row: Row, at: Shown | None, why: Hopeless | None, attributes: Mapping[str, Any]
    ) -> None:
        """What a study tells of a complete trial, a stopped one, or one that is refused."""
        missed = 0.0 if why is None else why.share
        shares = violations(
            {},
            {},
            unfinished=0.0 if at is None else 1 - at.share,
            hopeless=missed if self.policy.cost_first else None,
        )
        complete = at is None and why is None
        params = {name: value for name, value in row.params.items() if name in self.space}
        trial = optuna.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=row.objectives if complete else None,
            params=params,
            distributions={name: self.space[name] for name in params},
            constraints=shares,
            user_attrs={COSTS: self.table.costs(row)},
            system_attrs=dict(attributes),
        )
        self.study.add_trial(trial)
