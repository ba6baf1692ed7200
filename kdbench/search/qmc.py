"""A scrambled Sobol sequence over all parameters of a space, one for all workers.

Optuna's `QMCSampler` keeps how far the sequence has come in the study's attributes, under a key
made of its seed and its search space, so workers of one seed and one space share it; two that ask
at the same moment from different hosts may draw one point twice, and a spec is never trained twice.
It learns the space from the first trial, which leaves every parameter that that trial was not asked
for to random sampling, and with it the whole first trial. This one is told the space.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler
from optuna.trial import FrozenTrial

FIXED = "fixed_params"  # Optuna's name for what a trial from the queue is to try


class SharedQmc(QMCSampler):
    """Draws every parameter from the sequence, also those that a trial will not ask for.

    Args:
        seed: Of the scrambling; the same for every worker of a study.
        space: Every free parameter.
    """

    def __init__(self, *, seed: int, space: Mapping[str, BaseDistribution]) -> None:
        super().__init__(qmc_type="sobol", scramble=True, seed=seed)
        self._space = dict(space)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space; nothing of a trial whose every answer stands in the queue."""
        fixed = trial.system_attrs.get(FIXED, {})
        return {} if self._space.keys() <= fixed.keys() else dict(self._space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Nothing is sampled apart from the sequence."""
        raise AssertionError(f"{param_name} is not in the space that the sequence was told")
