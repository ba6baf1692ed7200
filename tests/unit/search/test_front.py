"""The front's energy after training: once a member, members only, beside what was there."""

from dataclasses import replace

import pytest
from optuna.storages import RDBStorage
from torch import nn

from kdbench import cost
from kdbench.codecs.weights import codec_bytes, file_sha
from kdbench.config import StudyConfig
from kdbench.files import write_json
from kdbench.guides import joined_sha
from kdbench.records import CodecEnergy, Progress
from kdbench.search.front import measure_front, members
from kdbench.search.storage import connect
from kdbench.search.study import join
from tests.support import search as stub
from tests.support.codecs import architecture, finished
from tests.unit.search.lab import Lab

GROUND = replace(stub.GROUND, meter="replay (replay)")
AFTER = CodecEnergy(
    encode=stub.reading("encode", 2.0), decode=stub.reading("decode", 3.0), device="abacus"
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each measurement was fresh; the meter itself has tests of its own."""
    calls: list[bool] = []

    def energy_of(model: nn.Module, *_: object, fresh: bool) -> CodecEnergy:
        assert not model.training
        calls.append(fresh)
        return AFTER

    monkeypatch.setattr(cost, "energy_of", energy_of)
    return calls


def finished_study(lab: Lab) -> StudyConfig:
    """A study whose complete trials have students."""
    lab.begin("trials=14", ground=GROUND)
    lab.work()
    student = codec_bytes(finished(architecture()), {})
    for trial in lab.store.trials("demo"):
        trial.folder.student.write_bytes(student)
        assert trial.result is not None
        hashes = {**trial.result.hashes, "weights": joined_sha([file_sha(trial.folder.student)])}
        write_json(trial.folder.result, replace(trial.result, hashes=hashes))
    return lab.config("trials=14")


def measure(lab: Lab, cfg: StudyConfig) -> list[int]:
    """Measures the front; the trials that were told."""
    told: list[int] = []
    study, _, ground = join("demo", _connect(lab))

    def tell(number: int, progress: Progress) -> None:
        told.append(number)

    measure_front(study, cfg, ground, lab.store, tell)
    return told


def _connect(lab: Lab) -> RDBStorage:
    return connect(lab.store.database_url("demo"), create=False)


def test_every_member_is_measured_once_and_nobody_else(lab: Lab, measured: list[bool]) -> None:
    cfg = finished_study(lab)
    study, _, _ = join("demo", _connect(lab))
    front = members(study)
    assert 0 < len(front) < 14
    assert measure(lab, cfg) == front
    assert measured == [True] * len(front)
    assert measure(lab, cfg) == []
    for trial in lab.store.trials("demo"):
        assert trial.trained_energy == (AFTER if trial.number in front else None)
        assert trial.result is not None
        assert trial.result.energy is None  # what was there is not touched


def test_the_shift_is_that_of_the_sum(lab: Lab, measured: list[bool]) -> None:
    cfg = finished_study(lab)
    (number, *_) = measure(lab, cfg)
    trial = lab.store.load_trial("demo", number)
    assert trial.energy_shift_pct is None  # nothing was measured before
    before = stub.result(trial.spec, energy_j_per_mpx=4.0)
    assert replace(trial, result=before).energy_shift_pct == pytest.approx(25.0)


def test_a_study_without_a_meter_measures_nothing(lab: Lab, measured: list[bool]) -> None:
    cfg = finished_study(lab)
    study, _, ground = join("demo", _connect(lab))
    measure_front(study, cfg, replace(ground, meter=None), lab.store, lambda *_: None)
    assert measured == []


def test_a_spec_that_came_up_twice_is_one_member(lab: Lab) -> None:
    study = lab.begin("trials=6")
    lab.work()
    again = study.best_trials[0]
    lab.begin("trials=7")
    study.enqueue_trial(again.params)
    lab.work()
    numbers = [trial.number for trial in study.best_trials]
    assert len(members(study)) < len(numbers)
    assert set(members(study)) <= set(numbers)
