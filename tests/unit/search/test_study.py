"""A study begins once, goes on as what it was, and ends when its budget is spent."""

import dataclasses
import json
import shutil

import pytest

from kdbench.errors import StoreError
from kdbench.records import MEASUREMENT_PROTOCOL
from kdbench.search.budget import n_complete
from tests.support import search as stub
from tests.support.edits import without_checksum
from tests.unit.search.lab import Lab


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


@pytest.mark.parametrize("then", ["1", None])  # of a study that began before it was noted
def test_a_study_measured_by_another_protocol_is_refused_to_search_and_workers(
    lab: Lab, then: str | None
) -> None:
    lab.begin()
    path = lab.store.study_folder("demo") / "study.json"
    stored = json.loads(without_checksum(path))
    assert stored["fixed"].pop("protocol") == str(MEASUREMENT_PROTOCOL)
    stored["fixed"] |= {} if then is None else {"protocol": then}
    path.write_text(json.dumps(stored))
    for go_on in (lab.begin, lab.work):
        with pytest.raises(StoreError, match=r"by protocol 1, this .*\n  fix: .*name=NAME"):
            go_on()


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


def test_a_lost_folder_is_no_reason_to_lose_the_message(lab: Lab) -> None:
    shutil.rmtree(lab.folder / "runs", ignore_errors=True)
    (lab.folder / "runs").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        lab.begin()
