"""Which choice matters: known answers, and no share where there is only chance."""

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from kdbench.dashboard.importance import ENOUGH, explained, importance_chart

KINDS: dict[str, BaseDistribution] = {
    "width": CategoricalDistribution([16, 32, 64]),
    "rate": FloatDistribution(0.0, 1.0),
    "same": CategoricalDistribution([5]),
}


def trial(values: list[float], **params: float) -> FrozenTrial:
    return optuna.create_trial(
        values=values, params=params, distributions={name: KINDS[name] for name in params}
    )


def test_a_choice_that_orders_all_trials_explains_everything() -> None:
    trials = [trial([2.0 * i], rate=i / 20) for i in range(12)]
    assert explained(trials, 0) == {"rate": pytest.approx(1.0)}


def test_it_is_the_order_that_counts_and_not_its_direction_or_scale() -> None:
    trials = [trial([-np.exp(i)], rate=i / 20) for i in range(12)]
    assert explained(trials, 0)["rate"] == pytest.approx(1.0)


def test_three_widths_with_ranks_in_blocks() -> None:
    """By hand, n = 12, k = 3: whole 143, inside 3 x 5 = 15; 1 - (15 / 143) (11 / 9)."""
    trials = [trial([float(i)], width=(16, 32, 64)[i // 4]) for i in range(12)]
    assert explained(trials, 0)["width"] == pytest.approx(1 - 15 / 143 * 11 / 9)


def test_chance_explains_about_nothing() -> None:
    random = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        values = random.permutation(24)
        trials = [trial([float(v)], width=(16, 32, 64)[i % 3]) for i, v in enumerate(values)]
        shares.append(explained(trials, 0)["width"])
    assert np.mean(shares) < 0.05


def test_choices_without_alternatives_or_with_few_trials_are_left_out() -> None:
    trials = [trial([float(i)], rate=i / 20, same=5) for i in range(ENOUGH)]
    trials += [trial([float(i)], width=16) for i in range(ENOUGH - 1)]
    assert explained(trials, 0).keys() == {"rate"}


def test_equal_values_explain_nothing_and_break_nothing() -> None:
    trials = [trial([1.0], rate=i / 20, width=(16, 32)[i % 2]) for i in range(12)]
    assert explained(trials, 0) == {"rate": 0.0, "width": 0.0}


def study(n: int) -> optuna.Study:
    made = optuna.create_study(storage=InMemoryStorage(), directions=["minimize"] * 2)
    made.set_metric_names(["bits", "cost"])
    for i in range(n):
        made.add_trial(trial([float(i), 1.0 * (i % 3)], rate=i / 20, width=(16, 32, 64)[i % 3]))
    return made


def test_a_chart_has_a_bar_for_each_choice_and_objective() -> None:
    chart = importance_chart(study(12))
    assert chart is not None
    assert [series.name for series in chart.series] == ["bits", "cost"]
    bits, cost = (
        {chart.x.categories[int(point.x)]: point.y for point in series.points}
        for series in chart.series
    )
    assert bits["rate"] == cost["width"] == pytest.approx(1.0)
    assert bits["width"] == pytest.approx(0.0, abs=0.1)


def test_there_is_no_chart_of_few_trials() -> None:
    assert importance_chart(study(ENOUGH - 1)) is None
