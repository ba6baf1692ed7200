"""A study ends when its budget is spent, neither sooner nor later."""

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kdbench.search.budget import Budget, Verdict


def trials(**counts: int) -> list[FrozenTrial]:
    """So many trials of each state, each of a spec of its own."""
    made = []
    for name, n in counts.items():
        state = TrialState[name.upper()]
        values = [1.0] if state == TrialState.COMPLETE else None
        made += [optuna.create_trial(state=state, values=values) for _ in range(n)]
    for number, trial in enumerate(made):
        trial.number = number
    return made


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "ask"),
        ({"complete": 2, "running": 1}, "ask"),
        ({"complete": 2, "running": 2}, "wait"),
        ({"complete": 3, "running": 1, "fail": 2}, "wait"),
        ({"complete": 3, "pruned": 1, "fail": 2}, "ask"),
        ({"complete": 4}, "complete"),
        ({"complete": 4, "running": 1}, "complete"),
        ({"complete": 1, "pruned": 10, "fail": 4}, "ask"),
        ({"complete": 1, "pruned": 10, "fail": 5}, "asks"),
        ({"pruned": 15, "running": 1}, "wait"),
        ({"waiting": 100}, "ask"),
    ],
)
def test_a_budget_of_four_trials(found: dict[str, int], verdict: Verdict) -> None:
    assert Budget(trials=4).verdict(trials(**found), now_s=0.0) == verdict


def test_after_its_time_a_study_asks_for_nothing_more() -> None:
    budget = Budget(trials=4, until_s=100.0)
    assert budget.verdict(trials(complete=1), now_s=99.0) == "ask"
    assert budget.verdict(trials(complete=1), now_s=100.0) == "timeout"
    assert budget.verdict(trials(complete=4), now_s=100.0) == "complete"


def test_interrupted_trials_and_those_left_to_a_twin_are_not_asks() -> None:
    given_up = trials(fail=30)
    for trial, attribute in zip(given_up, ["interrupted", "duplicate_of"] * 15, strict=True):
        trial.user_attrs[attribute] = 1
    assert Budget(trials=4).verdict(given_up, now_s=0.0) == "ask"


def test_a_spec_that_came_up_twice_counts_once() -> None:
    twice = trials(complete=4)
    for trial in twice:
        trial.user_attrs["spec_hash"] = f"{trial.number // 2}"
    assert Budget(trials=4).verdict(twice, now_s=0.0) == "ask"
