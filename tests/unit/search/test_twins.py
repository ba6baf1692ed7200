"""Twins of the front, for studies that ask: each distilled member once, nobody else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdbench import twin
from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError
from kdbench.records import BDRate, Bench, Coordinates
from kdbench.search import crew, launch
from kdbench.search.front import members
from kdbench.search.locks import StudyLocks
from kdbench.search.storage import connect
from kdbench.search.study import join
from kdbench.search.twins import train_twins, untwinned
from kdbench.seeds import Run, SeedRuns
from kdbench.store import StoredTrial
from kdbench.twin import Control, Match
from tests.support import search as stub
from tests.unit.search.lab import Lab

GAIN = BDRate(pct=-3.0, low_pct=-5.0, high_pct=-1.0, overlap_db=6.0)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(trial, seeds) of each comparison; `tests/e2e/test_trial.py` has a real one."""
    calls: list[tuple[int, int]] = []

    def against_twin(
        trial: StoredTrial, bench: Bench, folder: Path, n_seeds: int, **_: Any
    ) -> Control:
        calls.append((trial.number, n_seeds))
        runs = SeedRuns(runs=tuple(Run(spec=trial.spec, result=trial.result) for _ in range(2)))
        match = Match(student=runs, twin=runs, by_seed=(GAIN, GAIN), bd_rate=GAIN, why_not=None)
        return Control(
            number=trial.number,
            tried=runs.runs,
            kept=0,
            equal_steps=match,
            equal_seconds=None,
            cache_s=1.0,
            wall_s=7.0,
        )

    monkeypatch.setattr(twin, "against_twin", against_twin)
    return calls


TEACHER = "teacher:tiny"
GROUND = replace(
    stub.GROUND,
    teachers={TEACHER: "abad1dea"},
    teacher_coordinates={TEACHER: Coordinates(64, "scale")},
)
DISTILLED = (
    f"space.distillation.teacher=[{TEACHER}, none]",
    "space.distillation.latent=[0.0, 0.3]",
)


def searched(lab: Lab, *overrides: str) -> tuple[optuna.Study, StudyConfig]:
    """A finished study; some of its students are distilled."""
    lab.begin("trials=14", *DISTILLED, *overrides, ground=GROUND)
    lab.work()
    url = lab.store.database_url("demo")
    study, cfg, _ = join("demo", connect(url, create=False))
    return study, cfg


def train(lab: Lab, study: optuna.Study, cfg: StudyConfig) -> None:
    train_twins(
        study,
        cfg,
        GROUND,
        lab.store,
        locks=StudyLocks(lab.store, "demo"),
        tell=lambda number, progress: None,
    )


def test_every_distilled_member_of_the_front_gets_its_twin_once(
    lab: Lab, compared: list[tuple[int, int]]
) -> None:
    study, cfg = searched(lab, "twins=2")
    distilled = [
        number
        for number in members(study)
        if not lab.store.load_trial("demo", number).spec.distillation.is_off
    ]
    assert 0 < len(distilled) < len(members(study))
    assert [trial.number for trial in untwinned(study, cfg, lab.store)] == distilled
    train(lab, study, cfg)
    assert compared == [(number, 2) for number in distilled]
    train(lab, study, cfg)
    assert len(compared) == len(distilled)
    for trial in lab.store.trials("demo"):
        assert (trial.twin is not None) is (trial.number in distilled)
    first = lab.store.load_trial("demo", distilled[0]).twin
    assert first is not None
    assert (first.equal_steps, first.equal_seconds, first.n_seeds) == (GAIN, None, 2)


def test_who_another_worker_is_at_is_left_to_it(lab: Lab, compared: list[tuple[int, int]]) -> None:
    study, cfg = searched(lab, "twins=1")
    taken, *others = (trial.number for trial in untwinned(study, cfg, lab.store))
    lock = StudyLocks(lab.store, "demo").lock(f"twin-{taken}")
    assert lock.take()
    train(lab, study, cfg)
    assert [number for number, _ in compared] == others
    lock.release()
    train(lab, study, cfg)
    assert compared[-1] == (taken, 1)


def test_a_study_that_does_not_ask_trains_none(lab: Lab, compared: list[tuple[int, int]]) -> None:
    study, cfg = searched(lab)
    assert untwinned(study, cfg, lab.store) == []
    train(lab, study, cfg)
    assert compared == []


def test_a_complete_study_that_asks_for_twins_later_starts_workers_for_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(lab)
    started: list[int] = []

    def no_crew(self: object, n: int) -> None:
        started.append(n)

    monkeypatch.setattr(crew.Crew, "start", no_crew)
    cfg = replace(lab.config("trials=14", *DISTILLED, "twins=1"), workers=3)
    assert launch.search(cfg, lab.store, ground=GROUND).ended == "complete"
    assert started == [3]
    launch.search(replace(cfg, twins=0), lab.store, ground=GROUND)
    assert started == [3]


def test_a_member_whose_twin_cannot_be_trained_keeps_the_reason_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def against_twin(trial: StoredTrial, *_: Any, **__: Any) -> Control:
        raise KdbenchError(f"trial {trial.number} has no rate", fix="another one")

    monkeypatch.setattr(twin, "against_twin", against_twin)
    study, cfg = searched(lab, "twins=1")
    left = [trial.number for trial in untwinned(study, cfg, lab.store)]
    train(lab, study, cfg)
    for number in left:
        kept = lab.store.load_trial("demo", number).twin
        assert kept is not None
        assert (kept.n_seeds, kept.why_not) == (0, f"trial {number} has no rate")
    assert untwinned(study, cfg, lab.store) == []
