"""What a dead worker ran is marked, failed and tried again, but not for ever."""

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdbench.search.attributes import BY
from kdbench.search.dead import host, settle, slurm_job, who
from kdbench.search.storage import MAX_RETRIES
from tests.support import search as stub
from tests.unit.search.lab import Lab, names
from tests.unit.search.specs import spec as make_spec


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
    assert settle(study, lab.store, lambda index: index == 1) == [dead]
    found = study.get_trials()
    assert names(found) == ["FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert found[3].params == found[dead].params
    assert {alive, elsewhere} == {1, 2}


def test_a_task_that_slurm_starts_again_knows_that_its_predecessor_is_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host, whose locks say nothing of this one."""
    study = lab.begin("sampler.enqueue=none")
    gone = running(study, worker=2, host="another.example", job="7_2")
    running(study, worker=3, host="another.example", job="7_3")
    running(study, worker=2, host="another.example")
    assert slurm_job() is None
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert who(2, lab.store)["job"] == slurm_job() == "7_2"
    assert settle(study, lab.store, lambda index: True, {"7_2"}) == [gone]
    assert names(study.get_trials()) == ["FAIL", "RUNNING", "RUNNING", "WAITING"]


def test_the_retried_trial_inherits_neither_its_worker_nor_its_constraints(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    number = running(study)
    optuna.Trial(study, study.get_trials()[number]._trial_id).set_constraint("params", 5.0)
    settle(study, lab.store, lambda index: False)
    again = study.get_trials()[1]
    assert BY not in again.user_attrs
    assert again.constraints == {}
    assert study.get_trials()[0].constraints == {"params": 5.0}


def test_a_spec_that_kills_its_process_is_not_tried_for_ever(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    running(study)
    for _ in range(10):
        settle(study, lab.store, lambda index: False)
        for trial in study.get_trials(states=(TrialState.WAITING,)):
            study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            again = optuna.Trial(study, trial._trial_id)
            again.set_user_attr(BY, {"worker": 0, "host": host(), "pid": 1})
    assert names(study.get_trials()) == ["FAIL"] * (1 + MAX_RETRIES)


def test_the_folder_of_a_dead_trial_says_so_unless_it_holds_a_result(lab: Lab) -> None:
    study = lab.begin("sampler.enqueue=none")
    for spec in (make_spec(16), make_spec(24)):
        lab.store.begin_trial("demo", running(study), spec)
    lab.store.save_result("demo", 1, stub.result(make_spec(24)))
    settle(study, lab.store, lambda index: False)
    assert lab.states() == ["failed", "complete"]
    assert lab.store.load_trial("demo", 0).reason == "its worker died"
