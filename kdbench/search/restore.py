"""Optuna's memory from the folders, for a database that was lost or left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.parameters import NO_TEACHER
from kdbench.records import FamilyCodec, TrialSpec
from kdbench.search.attributes import COSTS, INTERRUPTED, RUNGS, SPEC_HASH
from kdbench.search.ground import Ground
from kdbench.search.objectives import HOPELESS, broken, costs_of, objective_values, violations
from kdbench.store import Store, StoredTrial


@dataclass(slots=True)
class Answers:
    """Answers a space's questions as `spec` has them; remembers what was asked."""

    spec: TrialSpec
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        value: int = self._answer(name, IntDistribution(low, high, step=step))
        return value

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        value: float = self._answer(name, FloatDistribution(low, high, log=log))
        return value

    def _answer(self, name: str, distribution: BaseDistribution) -> Any:
        value: Any = self.spec
        for part in name.split("."):
            if isinstance(value, FamilyCodec):
                value = value.axes
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        self.params[name] = NO_TEACHER if value is None else value
        self.distributions[name] = distribution
        return self.params[name]


def restore(study: optuna.Study, cfg: StudyConfig, ground: Ground, store: Store) -> int:
    """Tell a database every trial that has a folder, under its number; says how many.

    Specs that were begun and never decided are queued again. A database that is not empty is one
    that was not told all: who told it died, and it is told the rest.
    """
    n_told = len(study.get_trials(deepcopy=False))
    stored = {trial.number: trial for trial in store.trials(cfg.name)}
    undecided: dict[str, Mapping[str, Any]] = {}
    for number in range(max(stored, default=-1) + 1):
        trial = told_by(stored[number], cfg, ground) if number in stored else _without_folder()
        if number >= n_told:
            study.add_trial(trial)
        if INTERRUPTED in trial.user_attrs and trial.params:
            undecided[trial.user_attrs[SPEC_HASH]] = trial.params
        else:
            undecided.pop(trial.user_attrs.get(SPEC_HASH, ""), None)
    for params in undecided.values():
        study.enqueue_trial(dict(params))
    return len(stored)


def _without_folder() -> FrozenTrial:
    """It never had a result."""
    return optuna.create_trial(state=TrialState.FAIL, user_attrs={INTERRUPTED: True})


def told_by(stored: StoredTrial, cfg: StudyConfig, ground: Ground) -> FrozenTrial:
    """One trial as a worker would have told it."""
    answers = Answers(stored.spec)
    cfg.space.sample(
        answers,
        plan=cfg.training,
        seed=cfg.seed,
        teacher_coordinates=ground.teacher_coordinates,
        stands_on={},
    )
    attributes: dict[str, Any] = {SPEC_HASH: stored.spec.hash}
    if stored.rungs:
        attributes[RUNGS] = {str(rung.step): dict(rung.values) for rung in stored.rungs}
    constraints, limits, values = None, cfg.constraints.limits, None
    state = TrialState.FAIL
    costs: Mapping[str, float]
    none_missed = 0.0 if cfg.cost_first else None
    if stored.result is not None:
        state = TrialState.COMPLETE
        values = objective_values(cfg.objectives, stored.result)
        costs = costs_of(stored.result)
        constraints = violations(limits, costs, hopeless=none_missed)
        attributes[COSTS] = costs
    elif stored.failure is not None and stored.failure.state == "stopped":
        costs = stored.failure.values
        state = TrialState.PRUNED
        left = 1 - stored.rungs[-1].step / cfg.training.steps
        constraints = violations(limits, costs, unfinished=left, hopeless=none_missed)
        attributes[COSTS] = dict(costs)
    elif stored.failure is not None and stored.failure.state == "infeasible":
        costs = stored.failure.values
        state = TrialState.PRUNED
        overlaps = bool(broken(limits, costs))
        constraints = violations(limits, costs, overlaps=overlaps, hopeless=none_missed)
        attributes[COSTS] = dict(costs)
    elif stored.failure is not None and stored.failure.state == "refused":
        costs = {name: cost for name, cost in stored.failure.values.items() if name != HOPELESS}
        state = TrialState.PRUNED
        constraints = violations(limits, costs, hopeless=stored.failure.values[HOPELESS])
        attributes[COSTS] = dict(costs)
    elif stored.failure is None or stored.reason == INTERRUPTED:
        attributes[INTERRUPTED] = True
    return optuna.create_trial(
        state=state,
        values=values,
        params=answers.params,
        distributions=answers.distributions,
        constraints=constraints,
        user_attrs=attributes,
    )
