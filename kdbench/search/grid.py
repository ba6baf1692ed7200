"""Every combination of a space of choices, in one order, shared by all workers.

A trial asks for what matters to it and for nothing else (no weights without a teacher), so the grid
is walked as a trial walks it: each combination is one that a trial can tell from every other. What
comes next is the first combination that no trial of the study has, so workers need no counter, and
a study whose database was made anew from its folders goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.parameters import Suggests
from kdbench.records import Coordinates
from kdbench.search.axes import distributions
from kdbench.search.qmc import FIXED

Point = dict[str, Any]
Key = frozenset[tuple[str, Any]]


@dataclass(slots=True)
class _Path:
    """Answers a space's questions by the index of each answer, 0 where the path is at its end."""

    indexes: Sequence[int]
    taken: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    point: Point = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        value: int = self._answer(name, range(low, high + 1, step))
        return value

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        raise AssertionError(f"{name} is a range of numbers, which `config` refuses for a grid")

    @property
    def following(self) -> list[int] | None:
        """The path to the next combination: its last answer that has a successor, moved on."""
        for i in reversed(range(len(self.taken))):
            if self.taken[i] + 1 < self.sizes[i]:
                return [*self.taken[:i], self.taken[i] + 1]
        return None

    def _answer(self, name: str, values: Sequence[Any]) -> Any:
        n = len(self.taken)
        index = self.indexes[n] if n < len(self.indexes) else 0
        self.taken.append(index)
        self.sizes.append(len(values))
        self.point[name] = values[index]
        return values[index]


class GridSampler(BaseSampler):
    """Suggests the first combination that is not tried yet.

    Args:
        cfg: Its space has choices and ranges of whole numbers only.
        teacher_coordinates: See `SearchSpace.sample`.
    """

    def __init__(
        self, cfg: StudyConfig, teacher_coordinates: Mapping[str, Coordinates] | None = None
    ) -> None:
        self._cfg, self._teacher_coordinates = cfg, teacher_coordinates or {}
        self._space = distributions(cfg.space.parameters)
        self._walk = self._combinations()
        self._seen: list[Point] = []  # of the walk, as far as it has come

    def following(self, trials: Sequence[FrozenTrial]) -> Point | None:
        """The first combination that none of `trials` has or is to have; None where all are."""
        tried = {self._key(trial) for trial in trials}
        return next((point for point in self._points() if _key(point) not in tried), None)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing of a trial whose answers stand in the queue."""
        return {} if FIXED in trial.system_attrs else dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Point:
        """The next combination; where another host has just taken the last one, the first again."""
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        others = [other for other in trials if other.number != trial.number]
        return self.following(others) or next(self._points())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The first value: of a trial whose worker died before all its questions were asked."""
        return _first(param_distribution)

    def _points(self) -> Iterator[Point]:
        yield from self._seen
        for point in self._walk:
            self._seen.append(point)
            yield point

    def _combinations(self) -> Iterator[Point]:
        indexes: list[int] | None = []
        while indexes is not None:
            path = _Path(indexes)
            self._ask(path)
            yield path.point
            indexes = path.following

    def _ask(self, trial: Suggests) -> None:
        self._cfg.space.sample(
            trial,
            plan=self._cfg.training,
            seed=self._cfg.seed,
            teacher_coordinates=self._teacher_coordinates,
            stands_on={},
        )

    def _key(self, trial: FrozenTrial) -> Key:
        """What a trial was asked for, or will be when it leaves the queue."""
        if trial.state != TrialState.WAITING:
            return _key(trial.params)
        firsts = {name: _first(each) for name, each in self._space.items()}
        queued = FixedTrial(firsts | trial.system_attrs[FIXED])
        self._ask(queued)
        return _key(queued.params)


def is_exhausted(sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> bool:
    """Whether there is nothing left to suggest; never of a sampler that draws."""
    return isinstance(sampler, GridSampler) and sampler.following(trials) is None


def _first(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution)
    return distribution.low


def _key(point: Mapping[str, Any]) -> Key:
    return frozenset(point.items())
