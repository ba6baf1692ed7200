"""Who goes on at a rung: laws of the decision, and what a stopped trial leaves behind."""

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdbench.config import Ladder
from kdbench.errors import ConfigError, KdbenchError
from kdbench.fronts import hypervolume, non_dominated
from kdbench.records import Bench, Rung, TrialResult, TrialSpec
from kdbench.search.attributes import RUNGS
from kdbench.search.budget import Budget, n_asked
from kdbench.search.gate import TrialGate
from kdbench.search.ladder import contributions, goes_on, place, ranks
from kdbench.search.restore import restore
from tests.support import search as stub
from tests.unit.search.lab import Lab, Recorded, names

LADDER = "ladder={rungs: [0.2, 0.5], eta: 2}"


def cloud(n: int, seed: int, n_axes: int = 3) -> list[list[float]]:
    rng = random.Random(seed)
    return [[rng.uniform(0, 10) for _ in range(n_axes)] for _ in range(n)]


# --- the decision ---------------------------------------------------------------------------------


def test_who_comes_first_goes_on() -> None:
    assert goes_on([5.0, 5.0], [], eta=3)


@pytest.mark.parametrize("n_axes", [1, 2, 3])
@pytest.mark.parametrize(("n", "eta", "places"), [(9, 3, 3), (10, 3, 4), (4, 2, 2), (2, 4, 1)])
def test_one_of_eta_goes_on_or_the_front_if_it_is_longer(
    n: int, eta: int, places: int, n_axes: int
) -> None:
    values = cloud(n, seed=n * eta, n_axes=n_axes)
    go = [goes_on(own, values[:i] + values[i + 1 :], eta) for i, own in enumerate(values)]
    on_front = non_dominated(values)
    assert sum(go) == max(places, sum(on_front))
    assert all(on for on, best in zip(go, on_front, strict=True) if best)


@pytest.mark.parametrize("seed", range(20))
def test_who_goes_on_beats_who_does_not(seed: int) -> None:
    """No one stops who dominates somebody that goes on."""
    values = cloud(12, seed)
    go = [goes_on(own, values[:i] + values[i + 1 :], 3) for i, own in enumerate(values)]
    for stopped, own in zip(go, values, strict=True):
        if not stopped:
            passed = [v for v, on in zip(values, go, strict=True) if on]
            assert not any(
                all(a <= b for a, b in zip(own, other, strict=True)) and own != other
                for other in passed
            )


def test_equals_go_on_together() -> None:
    assert goes_on([1.0, 2.0], [[1.0, 2.0]] * 5, eta=3)


@pytest.mark.parametrize("n_axes", [1, 2, 3, 4])
@pytest.mark.parametrize("coarse", [False, True])  # then many are equal, on one axis or on all
def test_ranks_peel_one_front_after_the_other(n_axes: int, coarse: bool) -> None:
    values = cloud(40, seed=n_axes, n_axes=n_axes)
    values = [[round(v / 3) for v in row] for row in values] if coarse else values
    found = ranks(values)
    for rank in range(max(found) + 1):
        left = [v for v, r in zip(values, found, strict=True) if r >= rank]
        front = [v for v, r in zip(values, found, strict=True) if r == rank]
        assert front == [v for v, on in zip(left, non_dominated(left), strict=True) if on]


def test_a_value_that_is_no_number_has_no_rank() -> None:
    with pytest.raises(KdbenchError, match="row 1 of the objectives has no number"):
        ranks([[1.0, 2.0], [math.nan, 1.0]])


def test_within_a_rank_the_larger_hypervolume_comes_first() -> None:
    front = [[0.0, 10.0], [1.0, 9.9], [5.0, 5.0], [10.0, 0.0]]
    order = sorted(range(4), key=lambda i: place(front, i))
    assert order[0] == 2
    assert order[-1] == 1  # next to another one
    corner = [11.0, 11.0]
    lost = [
        hypervolume(front, corner) - hypervolume(front[:i] + front[i + 1 :], corner)
        for i in range(4)
    ]
    assert contributions(front, corner) == pytest.approx(lost)


def test_an_axis_on_which_all_are_equal_decides_nothing() -> None:
    assert goes_on([1.0, 3.0], [[2.0, 3.0], [3.0, 3.0]], eta=3)
    assert not goes_on([2.0, 3.0], [[1.0, 3.0], [3.0, 3.0]], eta=3)


def test_ranks_do_not_hang_on_units() -> None:
    values = cloud(20, seed=4)
    scaled = [[1e3 * a, 1e-3 * b, c + 7] for a, b, c in values]
    assert [place(values, i) for i in range(20)] == [place(scaled, i) for i in range(20)]


# --- the gate -------------------------------------------------------------------------------------


def rung(loss: float, step: int = 2) -> Rung:
    return Rung(stage="training", step=step, values={"validation_loss": loss})


def gate(others: list[dict[str, float]], **options: Any) -> TrialGate:
    made = TrialGate(
        limits={},
        objectives=("bd_rate_pct", "kmac_per_px", "decode_s_per_mpx"),
        ladder=Ladder(rungs=(0.2,), eta=2, **options),
        others=lambda step: others,
    )
    made(Rung(stage="cost", step=0, values={"kmac_per_px": 10.0}))
    return made


BETTER = {"kmac_per_px": 5.0, "validation_loss": 1.0}


def test_a_gate_compares_quality_and_costs() -> None:
    assert not gate([BETTER])(rung(1.5))
    assert gate([BETTER])(rung(0.5))  # both are on the front, and equal in what they add to it


def test_a_gate_keeps_what_it_saw_before_it_decides() -> None:
    kept: list[tuple[Rung, ...]] = []
    asked = gate([BETTER])
    asked.keep = kept.append
    asked(rung(1.5))
    assert [r.values for r in kept[0]] == [{"kmac_per_px": 10.0, "validation_loss": 1.5}]
    assert asked.stopped_at == asked.rungs[-1]
    assert asked.n_there == 2


def test_a_gate_that_only_watches_stops_nobody() -> None:
    watching = gate([BETTER] * 5, stop=False)
    assert watching(rung(9.0))
    assert watching.rungs[-1].values["validation_loss"] == 9.0


def test_a_rung_asked_again_replaces_what_it_said_and_what_came_after() -> None:
    asked = gate([], stop=False)
    for loss, step in ((3.0, 2), (2.0, 5), (2.9, 2)):
        asked(rung(loss, step))
    assert [(r.step, r.values["validation_loss"]) for r in asked.rungs] == [(2, 2.9)]


# --- in a study -----------------------------------------------------------------------------------


def test_stopped_trials_are_told_kept_and_not_counted(lab: Lab) -> None:
    study = lab.begin(LADDER, "trials=6")
    assert lab.work() == "complete"
    trials = study.get_trials()
    stored = lab.store.trials("demo")
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert names(trials).count("COMPLETE") == 6
    assert stopped
    assert n_asked(trials) == 6
    for trial in stopped:
        kept = stored[trial.number]
        last = kept.rungs[-1]
        assert kept.state == "stopped"
        assert trial.constraints == {
            "overlap": 0.0,
            "unfinished": pytest.approx(1 - last.step / 10),
        }
        assert trial.user_attrs[RUNGS] == {str(r.step): r.values for r in kept.rungs}
        assert kept.failure is not None
        assert kept.failure.values == last.values
        assert f"after {last.step} of 10 steps" in kept.failure.problem
        assert trial.number not in [best.number for best in study.best_trials]
    for kept in stored:
        if kept.state == "complete":
            assert [r.step for r in kept.rungs] == [2, 5]


def test_each_decision_is_the_one_of_all_that_had_been_there(lab: Lab) -> None:
    lab.begin(LADDER, "trials=6")
    lab.work()
    stored = lab.store.trials("demo")
    for i, trial in enumerate(stored):
        for step in (2, 5):
            seen = {t.number: r.values for t in stored[: i + 1] for r in t.rungs if r.step == step}
            if trial.number not in seen:
                continue
            rows = {n: [v["validation_loss"], v["kmac_per_px"]] for n, v in seen.items()}
            own = rows.pop(trial.number)
            went_on = trial.state == "complete" or trial.rungs[-1].step > step
            assert went_on == goes_on(own, list(rows.values()), 2)


def test_without_a_ladder_nobody_is_asked(lab: Lab) -> None:
    lab.begin("trials=6")
    lab.work()
    assert lab.states() == ["complete"] * 6
    assert not any(trial.folder.rungs.exists() for trial in lab.store.trials("demo"))


def test_a_stopped_spec_is_not_trained_again(lab: Lab) -> None:
    study = lab.begin(LADDER, "trials=6")
    lab.work()
    stopped = next(t for t in study.get_trials() if t.state == TrialState.PRUNED)
    study.enqueue_trial(stopped.params)
    lab.begin(LADDER, "trials=7")
    run = Recorded()
    lab.work(run)
    again = next(
        t for t in study.get_trials() if t.user_attrs.get("duplicate_of") == stopped.number
    )
    assert (again.state, again.constraints) == (TrialState.PRUNED, stopped.constraints)
    assert stopped.user_attrs["spec_hash"] not in {spec.hash for spec in run.specs}
    assert n_asked(study.get_trials()) == n_asked_but(study, again.number) + 1


def n_asked_but(study: optuna.Study, number: int) -> int:
    return n_asked([trial for trial in study.get_trials() if trial.number != number])


class Dies:
    """Killed once, at a moment of its choice: the second trial, right after its first rung."""

    def __init__(self, *, before_telling: bool) -> None:
        self.before_telling = before_telling
        self.n = 0
        self.seen: list[tuple[str, int]] = []

    def __call__(
        self, spec: TrialSpec, bench: Bench, gate: stub.Gate, folder: Path, on_progress: stub.Report
    ) -> TrialResult:
        self.n += 1
        gate(Rung(stage="cost", step=0, values=stub.costs(spec)))
        resumed = (folder / "training.checkpoint").exists()
        for step in bench.rungs[1 if resumed else 0 :]:
            self.seen.append((spec.hash, step))
            (folder / "training.checkpoint").write_text("here")
            if self.n == 2 and step == bench.rungs[1] and self.before_telling:
                raise KeyboardInterrupt
            if not gate(stub.shown(spec, step)):
                raise stub.Stopped
            if self.n == 2 and step == bench.rungs[0] and not self.before_telling:
                raise KeyboardInterrupt
        return stub.result(spec)


@pytest.mark.parametrize("before_telling", [False, True])
def test_a_worker_that_dies_between_rungs_loses_none(lab: Lab, *, before_telling: bool) -> None:
    """The next attempt goes on from the checkpoint and knows the rungs it does not visit."""
    study = lab.begin("ladder={rungs: [0.2, 0.5], eta: 2, stop: false}", "trials=3")
    run = Dies(before_telling=before_telling)
    with pytest.raises(KeyboardInterrupt):
        lab.work(run)
    lab.work(run)
    stored = lab.store.trials("demo")
    complete = [trial for trial in stored if trial.state == "complete"]
    assert len(complete) == 3
    assert all([r.step for r in trial.rungs] == [2, 5] for trial in complete)
    first_rungs = [spec for spec, step in run.seen if step == 2]
    assert len(first_rungs) == len(set(first_rungs))
    done = [t for t in study.get_trials() if t.state == TrialState.COMPLETE]
    assert all(set(t.user_attrs[RUNGS]) == {"2", "5"} for t in done)


def test_an_attempt_that_died_is_not_compared_with_the_next_one(lab: Lab) -> None:
    """Whoever is stopped was compared with each spec once, however often it was begun."""
    lab.begin(LADDER, "trials=12")
    run = Dies(before_telling=True)
    with pytest.raises(KeyboardInterrupt):
        lab.work(run)
    lab.work(run)
    stored = lab.store.trials("demo")
    stopped = [trial for trial in stored if trial.state == "stopped"]
    assert len({trial.spec.hash for trial in stored}) < len(stored)
    assert any(trial.number > 2 for trial in stopped)
    for trial in stopped:
        assert trial.failure is not None
        step = trial.rungs[-1].step
        there = {
            other.spec.hash
            for other in stored[: trial.number + 1]
            if step in [rung.step for rung in other.rungs]
        }
        assert f" of {len(there)} trials that came so far " in trial.failure.problem


def test_a_database_made_from_the_folders_knows_the_rungs(lab: Lab) -> None:
    study = lab.begin(LADDER, "trials=6")
    lab.work()
    cfg = lab.config(LADDER, "trials=6")
    again = optuna.create_study(directions=["minimize", "minimize"])
    restore(again, cfg, stub.GROUND, lab.store)
    for told, found in zip(study.get_trials(), again.get_trials(), strict=True):
        assert (told.state, told.constraints) == (found.state, found.constraints)
        assert told.user_attrs[RUNGS] == found.user_attrs[RUNGS]
        assert told.user_attrs.get("costs") == (
            found.user_attrs.get("costs")
            and {k: v for k, v in found.user_attrs["costs"].items() if k != "validation_loss"}
        )


def test_a_study_whose_every_trial_is_stopped_late_still_ends(lab: Lab) -> None:
    """One of eta always goes on, so complete trials come."""
    lab.begin("ladder={rungs: [0.1, 0.2, 0.5], eta: 4}", "trials=3")
    assert lab.work() == "complete"
    assert lab.states().count("complete") == 3


def test_budget_reads_stopped_trials_as_no_failure() -> None:
    stopped = optuna.create_trial(
        state=TrialState.PRUNED, constraints={"overlap": 0.0, "unfinished": 0.5}
    )
    infeasible = optuna.create_trial(
        state=TrialState.PRUNED, constraints={"overlap": 1.0, "unfinished": 0.0}
    )
    budget = Budget(trials=2)
    assert budget.verdict([stopped] * 20, 0.0) == "ask"
    assert budget.verdict([infeasible] * 8, 0.0) == "asks"


# --- what may be written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ladder", "rule"),
    [
        ("{rungs: [0.5, 0.2]}", "must ascend"),
        ("{rungs: [0.2, 0.2]}", "must ascend"),
        ("{rungs: []}", "at least one value"),
        ("{rungs: [0.2, 1.0]}", "between 0 and 1"),
        ("{rungs: [3]}", "between 0 and 1"),
        ("{rungs: [0.2], eta: 1}", "at least 2"),
        ("{rungs: [0.01]}", "lie at the steps 0 of 10"),
        ("{rungs: [0.2, 0.21]}", "lie at the steps 2, 2 of 10"),
        ("{rungs: [0.2, 0.99]}", "lie at the steps 2, 10 of 10"),
        ("{eta: 3}", "is missing"),
        ("{rungs: [0.2], eat: 3}", "did you mean eta?"),
    ],
)
def test_a_ladder_that_cannot_stand_is_refused(tmp_path: Path, ladder: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule.replace("?", r"\?")):
        stub.study(tmp_path, f"ladder={ladder}")


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("training.rate=per_lambda", "ladder: needs rate: variable"),
        ("objectives=[params]", "ladder: needs bd_rate_pct or validation_loss"),
    ],
)
def test_a_ladder_that_says_nothing_is_refused(tmp_path: Path, override: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        stub.study(tmp_path, LADDER, override)


def test_a_study_goes_on_with_the_ladder_it_began_with(lab: Lab) -> None:
    lab.begin("trials=2")
    lab.work()
    with pytest.raises(Exception, match="began with other settings"):
        lab.begin("trials=4", LADDER)
