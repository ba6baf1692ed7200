"""One Sobol sequence for all workers of a study, over all parameters of its space."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from kdbench.search.samplers import make_sampler, sampler_seed
from tests.support import search as stub
from tests.unit.search.lab import Lab, Recorded

N_AXES = 5  # of the stub's space that are free


def draws(folder: Path, order: list[int], *, enqueue: int = 0) -> list[dict[str, Any]]:
    """Which parameters the workers of `order` draw, in this order; each has its own sampler."""
    cfg = stub.study(folder, "sampler={name: qmc, enqueue: none}")
    samplers = {worker: make_sampler(cfg, worker, n_asked=0) for worker in order}
    study = optuna.create_study(directions=["minimize", "minimize"])
    for params in cfg.space.diagonal()[:enqueue]:
        study.enqueue_trial(params)
    found = []
    for worker in order:
        study.sampler = samplers[worker]
        trial = study.ask()
        cfg.space.sample(trial, plan=cfg.training, seed=0, teacher_coordinates={}, stands_on={})
        found.append(trial.params)
        study.tell(trial, state=TrialState.FAIL)
    return found


def test_workers_share_one_sequence(tmp_path: Path) -> None:
    together = draws(tmp_path, [0, 1, 2, 0, 0, 2, 1, 1])
    assert together == draws(tmp_path, [0] * 8)
    assert len({tuple(point.values()) for point in together}) == 8


def test_the_sequence_is_scipy_s_from_its_first_point_on(tmp_path: Path) -> None:
    engine = qmc.Sobol(N_AXES, scramble=True, seed=sampler_seed(0, 0, 0))
    points = engine.random(16)
    cfg = stub.study(tmp_path)
    names = [name for name, each in cfg.space.parameters.items() if not each.fixed]
    place = names.index("training.learning_rate")
    rates = [point["training.learning_rate"] for point in draws(tmp_path, [0] * 16)]
    assert rates == pytest.approx([1e-4 * 100 ** point[place] for point in points])


def test_every_value_of_a_choice_comes_equally_often(tmp_path: Path) -> None:
    kernels = [point["encoder.kernel"] for point in draws(tmp_path, [0, 1] * 16)]
    assert kernels.count(3) == kernels.count(5) == 16


def test_what_the_queue_holds_takes_no_point_of_the_sequence(tmp_path: Path) -> None:
    cfg = stub.study(tmp_path)
    found = draws(tmp_path, [0] * 6, enqueue=2)
    assert found[:2] == cfg.space.diagonal()[:2]
    assert found[2:] == draws(tmp_path, [0] * 4)


def test_a_study_goes_on_with_the_next_point(lab: Lab) -> None:
    lab.begin("sampler={name: qmc, enqueue: none}", "trials=3")
    lab.work()
    lab.begin("sampler={name: qmc, enqueue: none}", "trials=6")
    run = Recorded()
    lab.work(run, index=1)
    rates = [trial.spec.training.learning_rate for trial in lab.store.trials("demo")]
    known = [point["training.learning_rate"] for point in draws(lab.folder, [0] * 6)]
    assert rates == known
    assert len(run.specs) == 3
