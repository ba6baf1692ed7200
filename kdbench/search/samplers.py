"""Who suggests the next trial, and what each sampler makes of trials without values.

TPE reads infeasible and stopped trials where Optuna keeps them (PRUNED, with constraints). GP,
NSGA-II and NSGA-III read COMPLETE trials only: left alone, GP asks for the same infeasible student
again and again, since nothing that it sees has changed. They are shown such trials as complete
ones, with the costs that were found and, for what was not, the worst value so far; all weigh
constraints, so that such a value never makes a trial good.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.records import Coordinates, content_hash
from kdbench.search.attributes import COSTS
from kdbench.search.axes import distributions
from kdbench.search.grid import GridSampler
from kdbench.search.qmc import SharedQmc
from kdbench.search.storage import quiet

N_STARTUP = 10  # random ones among them are those that the queue does not fill


def make_sampler(
    cfg: StudyConfig,
    worker: int,
    n_asked: int,
    n_enqueued: int = 0,
    teacher_coordinates: Mapping[str, Coordinates] | None = None,
) -> BaseSampler:
    """The sampler of one worker, for its whole life.

    Args:
        cfg: Names the sampler, the seed and the objectives.
        worker: Index of the worker: no two draw the same numbers.
        n_asked: Trials it asked for in earlier lives, so that it does not draw them again.
        n_enqueued: Trials that were put into the queue to begin with; they count as start-up.
        teacher_coordinates: See `SearchSpace.sample`.
    """
    name = cfg.sampler.name
    if name == "grid":
        return GridSampler(cfg, teacher_coordinates)
    return drawing_sampler(
        "random" if name == "listed" else name,  # a listed study asks for what is queued
        # all workers draw from one sequence, which knows how far it has come
        seed=sampler_seed(cfg.seed, *((0, 0) if name == "qmc" else (worker, n_asked))),
        n_startup=max(N_STARTUP, n_enqueued + 1),
        population_size=population(cfg.trials),
        space=distributions(cfg.space.parameters),
    )


def drawing_sampler(
    name: str,
    *,
    seed: int,
    n_startup: int,
    population_size: int,
    space: Mapping[str, BaseDistribution],
) -> BaseSampler:
    """The sampler called `name`, one of those that draw what they suggest.

    Args:
        name: Not `grid` and not `listed`.
        seed: Of its numbers.
        n_startup: Trials before a model has its say, of TPE and GP.
        population_size: Of a generation of NSGA-II and NSGA-III.
        space: Every parameter that may be asked for.
    """
    with quiet():
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "qmc":
            return SharedQmc(seed=seed, space=space)
        if name == "gp":
            gp = GPSampler(seed=seed, n_startup_trials=n_startup, warn_independent_sampling=False)
            return SeesInfeasible(gp)
        if name in ("nsga2", "nsga3"):
            nsga = NSGAIISampler if name == "nsga2" else NSGAIIISampler
            return SeesInfeasible(nsga(seed=seed, population_size=population_size))
        assert name == "tpe", name
        return TPESampler(
            seed=seed,
            n_startup_trials=n_startup,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def sampler_seed(study_seed: int, worker: int, n_asked: int) -> int:
    """A seed of 32 bits, the same on every machine and in every process."""
    return int(content_hash([study_seed, worker, n_asked])[:8], 16)


def population(trials: int) -> int:
    """Size of a generation: at least four of them fit into the budget, 50 at most."""
    return max(4, min(50, trials // 4))


class _ShownInfeasible:
    """A study in which infeasible trials look complete; everything else is the study's."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=False, states=None, use_cache=use_cache)
        names = self._study.metric_names or []
        rows = [trial.values for trial in trials if trial.state == TrialState.COMPLETE]
        columns = zip(*rows, strict=True) if rows else ([0.0] for _ in names)
        worst = {name: max(column) for name, column in zip(names, columns, strict=True)}
        seen = [_as_complete(trial, worst) for trial in trials]
        return [trial for trial in seen if states is None or trial.state in states]


def _as_complete(trial: FrozenTrial, worst: Mapping[str, float]) -> FrozenTrial:
    """An infeasible trial with values; every other trial as it is."""
    if trial.state != TrialState.PRUNED or not trial.constraints:
        return trial
    known = trial.user_attrs.get(COSTS, {})
    shown = optuna.create_trial(
        state=TrialState.COMPLETE,
        values=[known.get(name, value) for name, value in worst.items()],
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
    )
    shown.number = trial.number
    shown._trial_id = trial._trial_id
    return shown


class SeesInfeasible(BaseSampler):
    """A sampler that reads complete trials only, with infeasible ones shown to it as complete."""

    def __init__(self, inner: BaseSampler) -> None:
        self._inner = inner

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(_shown(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(_shown(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()


def _shown(study: optuna.Study) -> Any:
    return _ShownInfeasible(study)
