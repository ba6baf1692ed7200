"""Every combination once, in one order, whoever asks; and an end when there is none left."""

from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdbench.config import StudyConfig
from kdbench.errors import TrainingError
from kdbench.records import Coordinates, TrialSpec
from kdbench.search.budget import Budget
from kdbench.search.grid import GridSampler, is_exhausted
from tests.support import search as stub
from tests.unit.search.lab import Lab, Recorded

FEW = (
    "space.encoder={width: [16, 32], kernel: 5, activation: gdn}",
    "space.decoder={width: {low: 16, high: 32, step: 8}, kernel: 5, activation: gdn}",
    "space.training.learning_rate=1.0e-3",
)
GRID = (*FEW, "sampler={name: grid, enqueue: none}")
WIDTHS = list(product([16, 32], [16, 24, 32]))
TEACHERS = {"teacher:default": Coordinates(64, "scale")}


def widths(lab: Lab) -> list[tuple[int, int]]:
    return [(t.spec.encoder.width, t.spec.decoder.width) for t in lab.store.trials("demo")]


def walked(cfg: StudyConfig, n_workers: int, n: int) -> list[dict[str, Any]]:
    """What `n_workers` samplers suggest in turns, until `n` or all are tried."""
    samplers = [GridSampler(cfg, TEACHERS) for _ in range(n_workers)]
    study = optuna.create_study(directions=["minimize", "minimize"])
    found: list[dict[str, Any]] = []
    while len(found) < n and not is_exhausted(samplers[0], study.get_trials()):
        study.sampler = samplers[len(found) % n_workers]
        trial = study.ask()
        cfg.space.sample(
            trial, plan=cfg.training, seed=0, teacher_coordinates=TEACHERS, stands_on={}
        )
        found.append(trial.params)
        study.tell(trial, state=TrialState.FAIL)
    return found


def test_a_grid_tries_every_combination_once_in_order_and_ends(lab: Lab) -> None:
    lab.begin(*GRID, "trials=50")
    assert lab.work() == "exhausted"
    assert widths(lab) == WIDTHS
    assert lab.states() == ["complete"] * 6


def test_a_grid_ends_at_its_trials_and_goes_on_from_there(lab: Lab) -> None:
    lab.begin(*GRID, "trials=2")
    assert lab.work() == "complete"
    lab.begin(*GRID, "trials=50")
    assert lab.work(index=1) == "exhausted"
    assert widths(lab) == WIDTHS


def test_the_diagonal_comes_first_and_is_not_tried_again(lab: Lab) -> None:
    lab.begin(*FEW, "sampler={name: grid, enqueue: diagonal}", "trials=50")
    assert lab.work() == "exhausted"
    assert widths(lab)[:2] == [(16, 16), (32, 32)]
    assert sorted(widths(lab)) == WIDTHS


def test_a_combination_that_broke_is_not_tried_again(lab: Lab) -> None:
    def breaks(spec: TrialSpec) -> None:
        if spec.encoder.width == 16:
            raise TrainingError(f"NaN at step {spec.decoder.width}", fix="learn slower")

    lab.begin(*GRID, "trials=50")
    assert lab.work(Recorded(breaks)) == "exhausted"
    assert lab.states() == ["failed"] * 3 + ["complete"] * 3


def test_a_combination_that_was_interrupted_is_tried_again(lab: Lab) -> None:
    def stops(spec: TrialSpec) -> None:
        raise KeyboardInterrupt

    lab.begin(*GRID, "trials=50")
    with pytest.raises(KeyboardInterrupt):
        lab.work(Recorded(stops))
    assert lab.work() == "exhausted"
    assert sorted(widths(lab)[1:]) == WIDTHS


def test_a_grid_goes_on_where_its_folders_end(lab: Lab) -> None:
    lab.begin(*GRID, "trials=3")
    lab.work()
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    lab.begin(*GRID, "trials=50")
    run = Recorded()
    assert lab.work(run) == "exhausted"
    assert len(run.specs) == 3
    assert widths(lab) == WIDTHS


def test_workers_share_one_order(tmp_path: Path) -> None:
    cfg = stub.study(tmp_path, *GRID)
    alone = walked(cfg, 1, 99)
    assert [(p["encoder.width"], p["decoder.width"]) for p in alone] == WIDTHS
    assert walked(cfg, 3, 99) == alone


def test_what_does_not_matter_to_a_trial_makes_no_combination(tmp_path: Path) -> None:
    """Two students, each alone or under a teacher with one of three weights: 2 (1 + 3)."""
    cfg = stub.study(
        tmp_path,
        *GRID,
        "space.decoder.width=16",
        "space.distillation={teacher: [none, teacher:default], latent: [0.1, 0.2, 0.3]}",
    )
    found = walked(cfg, 1, 99)
    assert len(found) == 2 * (1 + 3)
    assert [point.get("distillation.latent") for point in found[:4]] == [None, 0.1, 0.2, 0.3]
    assert len({frozenset(point.items()) for point in found}) == len(found)


def test_a_large_grid_is_walked_as_far_as_it_is_asked(tmp_path: Path) -> None:
    wide = "space.{}={{width: {{low: 1, high: 1024}}, kernel: [3, 5], activation: [gdn, relu]}}"
    cfg = stub.study(tmp_path, *GRID, wide.format("encoder"), wide.format("decoder"))
    assert len(walked(cfg, 2, 5)) == 5


def test_a_grid_that_is_through_waits_for_who_is_at_it() -> None:
    budget = Budget(trials=9)
    states = {name: optuna.create_trial(state=TrialState[name]) for name in ("RUNNING", "WAITING")}
    done = optuna.create_trial(state=TrialState.FAIL)
    assert budget.verdict([done, states["RUNNING"]], 0.0, exhausted=True) == "wait"
    assert budget.verdict([done, states["WAITING"]], 0.0, exhausted=True) == "ask"
    assert budget.verdict([done], 0.0, exhausted=True) == "exhausted"
