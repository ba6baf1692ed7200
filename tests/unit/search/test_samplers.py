"""Samplers learn from infeasible and stopped trials, and no two workers draw the same numbers."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from kdbench.search.attributes import COSTS
from kdbench.search.objectives import violations
from kdbench.search.samplers import make_sampler, population, sampler_seed
from tests.support import search as stub

SPACE = {
    "width": IntDistribution(8, 64),
    "rate": FloatDistribution(1e-4, 1e-2, log=True),
    "side": CategoricalDistribution(["a", "b"]),
}
LIMIT = 32
LEARNERS = ["tpe", "gp", "nsga2", "nsga3"]


def told(width: int, rate: float, state: TrialState, **optional: Any) -> FrozenTrial:
    """A trial that is better the wider it is: only the limit speaks against."""
    costs = {"kmac_per_px": float(width)}
    shares = violations({"kmac_per_px": LIMIT}, costs, hopeless=0.0)
    params = {"width": width, "rate": rate, "side": "a", **optional}
    names = {**SPACE, "extra": FloatDistribution(0, 1)}
    return optuna.create_trial(
        state=state,
        values=[100.0 - width, rate] if state == TrialState.COMPLETE else None,
        params=params,
        distributions={name: names[name] for name in params},
        constraints=None if state == TrialState.FAIL else shares,
        user_attrs={COSTS: costs},
    )


def history(infeasible: TrialState, n: int = 6, n_narrow: int = 10) -> list[FrozenTrial]:
    """Narrow ones are complete, wide ones are of the state that is asked about."""
    narrow = [told(10 + i, 1e-3 * (1 + i % 5), TrialState.COMPLETE) for i in range(n_narrow)]
    wide = [told(34 + 2 * i, 1e-3 * (1 + i % 5), infeasible) for i in range(n)]
    return narrow + wide


def stopped(n: int) -> list[FrozenTrial]:
    """Trials that a ladder stopped at a tenth of their steps."""
    return pruned(n, unfinished=0.9, hopeless=0.0)


def refused(n: int) -> list[FrozenTrial]:
    """Trials that their costs left no hope of the front."""
    return pruned(n, hopeless=0.2)


def pruned(n: int, **missed: Any) -> list[FrozenTrial]:
    """Wide trials without values, told apart from infeasible ones by what they missed."""
    return [
        optuna.create_trial(
            state=TrialState.PRUNED,
            params={"width": 50 + i, "rate": 1e-3, "side": "b"},
            distributions=SPACE,
            constraints=violations({"kmac_per_px": 99}, {}, **missed),
            user_attrs={COSTS: {"kmac_per_px": 50.0 + i}},
        )
        for i in range(n)
    ]


def suggestions(
    folder: Path, sampler: str, trials: list[FrozenTrial], n: int, *overrides: str
) -> list[dict[str, Any]]:
    """What comes next; every suggestion fails, so that nothing else is learnt meanwhile."""
    cfg = stub.study(folder, f"sampler.name={sampler}", "trials=16", *overrides)
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=make_sampler(cfg, 0, n_asked=0)
    )
    study.set_metric_names(["loss", "rate"])
    study.add_trials(trials)
    asked = []
    for _ in range(n):
        trial = study.ask(SPACE)
        asked.append(trial.params)
        study.tell(trial, state=TrialState.FAIL)
    return asked


WITHOUT_VALUES = {
    "infeasible": lambda n: history(TrialState.PRUNED, n, n_narrow=0),
    "stopped": stopped,
    "refused": refused,
}


@pytest.mark.parametrize("what", WITHOUT_VALUES)
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_next_suggestion_changes_because_of_trials_without_values(
    tmp_path: Path, sampler: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.search.samplers.N_STARTUP", 3)  # GP takes a second for ten
    narrow = history(TrialState.PRUNED, 0, n_narrow=4)
    wide = WITHOUT_VALUES[what](3)
    failed = history(TrialState.FAIL, 3, n_narrow=0)
    known = suggestions(tmp_path, sampler, narrow + wide, 1)
    unknown = suggestions(tmp_path, sampler, narrow + failed, 1)
    assert known != unknown


MISSED: dict[str, dict[str, Any]] = {
    "infeasible": {"overlaps": False},
    "stopped": {"unfinished": 0.5},
    "refused": {"hopeless": 0.2},
}


@pytest.mark.parametrize("what", MISSED)
@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_a_trial_without_values_is_a_member_of_its_generation(
    tmp_path: Path, sampler: str, what: str
) -> None:
    """They breed from the first generation as soon as it is full, such trials included."""

    def children(state: TrialState) -> list[dict[str, Any]]:
        cfg = stub.study(tmp_path, f"sampler.name={sampler}", "trials=16")
        study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=make_sampler(cfg, 0, n_asked=0)
        )
        study.set_metric_names(["loss", "rate"])
        asked = []
        for i in range(10):
            trial = study.ask(SPACE)
            asked.append(trial.params)
            missed = {"hopeless": 0.0, **(MISSED[what] if i % 2 else {})}
            for key, share in violations({}, {}, **missed).items():
                if state == TrialState.PRUNED or i % 2 == 0:
                    trial.set_constraint(key, share)
            if i % 2:
                study.tell(trial, state=state)
            else:
                study.tell(trial, [trial.params["width"], trial.params["rate"]])
        return asked

    known, unknown = children(TrialState.PRUNED), children(TrialState.FAIL)
    assert known[:4] == unknown[:4]
    assert known[4:] != unknown[4:]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_a_stopped_trial_breeds_less_than_a_finished_one(tmp_path: Path, sampler: str) -> None:
    """Of a generation half of which was stopped, only the finished half has children."""
    cfg = stub.study(tmp_path, f"sampler.name={sampler}", "trials=64")  # generations of 16
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=make_sampler(cfg, 0, n_asked=0)
    )
    study.set_metric_names(["loss", "rate"])
    sides = []
    for _ in range(48):
        trial = study.ask(SPACE)
        sides.append(trial.params["side"])
        left = 0.0 if trial.params["side"] == "a" else 0.5
        for key, share in violations({}, {}, unfinished=left).items():
            trial.set_constraint(key, share)
        if left:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [100.0 - trial.params["width"], trial.params["rate"]])
    assert 3 <= sides[:16].count("b") <= 13
    assert sides[32:].count("b") < sides[:16].count("b")


@pytest.mark.parametrize("what", ["stopped", "refused"])
def test_tpe_keeps_away_from_what_did_not_finish(tmp_path: Path, what: str) -> None:
    complete = TrialState.COMPLETE
    finished = [told(10 + i, 1e-3 * (1 + i % 5), complete, side="ab"[i % 2]) for i in range(10)]
    known = suggestions(tmp_path, "tpe", finished + WITHOUT_VALUES[what](14), 20)
    failed = history(TrialState.FAIL, 14, n_narrow=0)
    unknown = suggestions(tmp_path, "tpe", finished + failed, 20)
    on_their_side = [sum(params["side"] == "b" for params in each) for each in (known, unknown)]
    assert on_their_side[0] < on_their_side[1]


def test_tpe_keeps_away_from_infeasible_trials(tmp_path: Path) -> None:
    known = suggestions(tmp_path, "tpe", history(TrialState.PRUNED, 14), 20)
    unknown = suggestions(tmp_path, "tpe", history(TrialState.FAIL, 14), 20)
    too_wide = [sum(params["width"] > LIMIT for params in each) for each in (known, unknown)]
    assert too_wide[0] < too_wide[1]


@pytest.mark.parametrize("sampler", LEARNERS)
def test_a_study_of_nothing_but_infeasible_trials_goes_on(tmp_path: Path, sampler: str) -> None:
    wide = [told(34 + 2 * i, 1e-3, TrialState.PRUNED) for i in range(12)]
    assert len(suggestions(tmp_path, sampler, wide, 1)) == 1


@pytest.mark.parametrize("sampler", LEARNERS)
def test_trials_may_differ_in_what_they_were_asked(tmp_path: Path, sampler: str) -> None:
    trials = [told(8 + i, 1e-3, TrialState.COMPLETE, extra=0.5) for i in range(12)]
    trials += [told(34 + i, 1e-3, TrialState.PRUNED) for i in range(4)]
    assert len(suggestions(tmp_path, sampler, trials, 1)) == 1


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "nsga3"])
def test_the_same_seed_and_history_suggest_the_same(tmp_path: Path, sampler: str) -> None:
    trials = history(TrialState.PRUNED)
    once = suggestions(tmp_path, sampler, trials, 1)
    assert once == suggestions(tmp_path, sampler, trials, 1)
    assert once != suggestions(tmp_path, sampler, trials, 1, "seed=1")


def test_a_seed_is_the_same_in_every_process() -> None:
    assert sampler_seed(0, 0, 0) == 705206174


def test_no_two_workers_and_no_two_lives_of_one_draw_the_same_numbers() -> None:
    seeds = {sampler_seed(s, w, n) for s in range(3) for w in range(8) for n in range(8)}
    assert len(seeds) == 3 * 8 * 8
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_trials_from_the_queue_count_as_start_up(tmp_path: Path) -> None:
    """With the queue full of them, the sampler speaks from the tenth trial on."""
    cfg = stub.study(tmp_path)
    sampler = make_sampler(cfg, 0, n_asked=0, n_enqueued=5)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert sampler._n_startup_trials == 10
    longer = make_sampler(cfg, 0, n_asked=0, n_enqueued=25)
    assert isinstance(longer, optuna.samplers.TPESampler)
    assert longer._n_startup_trials == 26


@pytest.mark.parametrize(("trials", "size"), [(4, 4), (24, 6), (400, 50)])
def test_a_budget_holds_several_generations(trials: int, size: int) -> None:
    assert population(trials) == size
