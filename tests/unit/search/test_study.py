"""A study begins once, goes on as what it was, and ends when its budget is spent."""

import dataclasses
import shutil
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kdbench.errors import StoreError
from kdbench.search.storage import BY, MAX_RETRIES
from kdbench.search.study import Budget, Verdict, host, n_complete, settle
from tests.support import search as stub
from tests.unit.search.lab import Lab, names

# --- begin ---------------------------------------------------------------------------------------


def test_a_new_study_knows_its_objectives_and_starts_with_the_diagonal(lab: Lab) -> None:
    study = lab.begin()
    assert study.metric_names == ["bd_rate_pct", "kmac_per_px"]
    assert [d.name for d in study.directions] == ["MINIMIZE", "MINIMIZE"]
    queue = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    assert queue == lab.config().space.diagonal()
    assert [params["encoder.width"] for params in queue] == [16, 24, 32, 48, 64]


def test_beginning_twice_queues_the_diagonal_once(lab: Lab) -> None:
    lab.begin()
    assert len(lab.begin().get_trials()) == 5


def test_a_study_without_a_diagonal_leaves_all_to_its_sampler(lab: Lab) -> None:
    assert lab.begin("sampler.enqueue=none").get_trials() == []


def test_what_may_change_while_a_study_goes_on_may_change(lab: Lab) -> None:
    lab.begin("trials=4")
    lab.begin("trials=9", "timeout_s=5.0", "workers=3")


def test_other_settings_are_refused_with_what_differs(lab: Lab) -> None:
    lab.begin("seed=1")
    with pytest.raises(StoreError) as caught:
        lab.begin("seed=2", "training.steps=11")
    assert "study 'demo' in" in caught.value.problem
    assert "training.steps: stored 10, now 11\n  seed: stored 1, now 2" in caught.value.problem
    assert "--set name=NAME" in caught.value.fix


def test_a_database_of_another_study_of_the_same_name_is_refused(lab: Lab) -> None:
    lab.begin("seed=1")
    (lab.store.study_folder("demo") / "study.json").unlink()
    with pytest.raises(StoreError, match=r"the database 'demo' began .*\n  seed: stored 1, now 2"):
        lab.begin("seed=2")


def test_a_database_whose_folders_are_elsewhere_is_refused(lab: Lab) -> None:
    lab.begin()
    (lab.store.study_folder("demo") / "study.json").unlink()
    with pytest.raises(StoreError, match=r"whose folder is not in .*runs\n  fix: .*--root"):
        lab.begin()


def test_another_device_meter_or_teacher_is_refused_with_what_differs(lab: Lab) -> None:
    lab.begin()
    moved = dataclasses.replace(
        stub.GROUND, meter="nvml (counter)", fingerprint={"cpu": "slide rule"}
    )
    with pytest.raises(StoreError) as caught:
        lab.begin(ground=moved)
    assert "meter: then none, now nvml (counter)" in caught.value.problem
    assert "device.cpu: then abacus, now slide rule" in caught.value.problem


def test_the_refused_study_goes_on_as_what_it_was(lab: Lab) -> None:
    lab.begin("seed=1")
    with pytest.raises(StoreError):
        lab.begin("seed=2")
    lab.begin("seed=1")
    assert lab.work() == "complete"


def test_a_complete_study_does_not_ask_what_the_machine_adds(lab: Lab) -> None:
    lab.begin()
    lab.work()
    elsewhere = dataclasses.replace(stub.GROUND, anchor="webp")
    assert n_complete(lab.begin(ground=elsewhere)) == 4


# --- budget --------------------------------------------------------------------------------------


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


# --- the dead ------------------------------------------------------------------------------------


def running(study: optuna.Study, **by: Any) -> int:
    """A trial that somebody runs."""
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id))
    trial.suggest_float("rate", 0, 1)
    trial.set_user_attr(BY, {"worker": 0, "host": host(), "pid": 1, **by})
    return trial.number


def test_trials_of_dead_workers_fail_and_are_queued_again(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    dead, alive = running(study, worker=0), running(study, worker=1)
    elsewhere = running(study, worker=0, host="another.example")
    assert settle(study, lambda index: index == 1) == [dead]
    found = study.get_trials()
    assert names(found) == ["FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert found[3].params == found[dead].params
    assert {alive, elsewhere} == {1, 2}


def test_the_retried_trial_inherits_neither_its_worker_nor_its_constraints(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    number = running(study)
    optuna.Trial(study, study.get_trials()[number]._trial_id).set_constraint("params", 5.0)
    settle(study, lambda index: False)
    again = study.get_trials()[1]
    assert BY not in again.user_attrs
    assert again.constraints == {}
    assert study.get_trials()[0].constraints == {"params": 5.0}


def test_a_spec_that_kills_its_process_is_not_tried_for_ever(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    running(study)
    for _ in range(10):
        settle(study, lambda index: False)
        for trial in study.get_trials(states=(TrialState.WAITING,)):
            study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            again = optuna.Trial(study, trial._trial_id)
            again.set_user_attr(BY, {"worker": 0, "host": host(), "pid": 1})
    assert names(study.get_trials()) == ["FAIL"] * (1 + MAX_RETRIES)


def test_a_lost_folder_is_no_reason_to_lose_the_message(lab: Lab) -> None:
    shutil.rmtree(lab.folder / "runs", ignore_errors=True)
    (lab.folder / "runs").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        lab.begin()
