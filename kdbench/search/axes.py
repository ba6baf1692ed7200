"""The free parameters of a space as Optuna's distributions, all at once.

A trial asks for its parameters one after the other, and not for those that do not matter to it; a
sampler that lays a plan over the whole space has to know them before.
"""

from collections.abc import Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdbench.parameters import Choice, IntRange, Parameter


def distributions(parameters: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    """Every parameter that is free, by its name, as `Parameter.sample` asks a trial for it."""
    return {name: _of(each) for name, each in parameters.items() if not each.fixed}


def _of(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
