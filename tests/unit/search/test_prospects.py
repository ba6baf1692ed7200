"""A candidate is refused where no plausible quality would bring it to the front, nowhere else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from kdbench.records import Bench, TrialResult, TrialSpec
from kdbench.search import prospects
from kdbench.search.attributes import COSTS
from kdbench.search.prospects import MIN_FINISHED, Floats, Hopeless, hopeless, optimistic
from tests.support import search as stub
from tests.support.search import Gate, Report
from tests.unit.search.lab import Lab, Recorded, names

OBJECTIVES = ("bd_rate_pct", "kmac_per_px")
REFUSING = ("cost_first=true", "sampler={name: random, enqueue: none}", "trials=14")


def finished(n: int = 12, *, slope: float = 10.0, noise: float = 0.0) -> list[dict[str, float]]:
    """Each 1.2 times as dear as the one before and, with `slope` above 0, worse."""
    rng = np.random.default_rng(0)
    return [
        {
            "kmac_per_px": 1.2**i,
            "params": 1e4 * 1.2**i,
            "bd_rate_pct": slope * i + noise * float(rng.normal()),
        }
        for i in range(n)
    ]


def judged(found: list[dict[str, float]], at: float) -> Hopeless | None:
    """What is said of a candidate between its neighbours at `at`."""
    costs = {"kmac_per_px": 1.2**at, "params": 1e4 * 1.2**at}
    return hopeless(OBJECTIVES, found, costs)


# --- the rule --------------------------------------------------------------------------------


def test_what_is_dearer_and_could_not_be_better_is_hopeless() -> None:
    """At 8.5 about 85 is expected; trial 0 found 0 for less: 85 of a range of 110."""
    found = judged(finished(), 8.5)
    assert found is not None
    assert found.beaten_by == 0
    assert found.bounds["bd_rate_pct"] == pytest.approx(85, abs=6)
    assert found.share == pytest.approx(found.bounds["bd_rate_pct"] / 110)


def test_what_is_cheaper_than_all_has_hope_whatever_its_quality() -> None:
    assert judged(finished(), -0.5) is None


def test_where_cost_buys_quality_everything_has_hope() -> None:
    assert [judged(finished(slope=-10), at) for at in (0.5, 5.5, 10.5)] == [None] * 3


def test_noise_as_large_as_the_trend_leaves_hope() -> None:
    assert judged(finished(noise=100.0), 5.5) is None


def test_a_few_finished_trials_refuse_nobody() -> None:
    assert judged(finished(MIN_FINISHED - 1), 5.5) is None
    assert judged(finished(MIN_FINISHED), 5.5) is not None


def test_a_cost_that_is_an_objective_must_be_known() -> None:
    objectives = (*OBJECTIVES, "energy_j_per_mpx")
    found = [{**each, "energy_j_per_mpx": each["kmac_per_px"]} for each in finished()]
    costs = {"kmac_per_px": 4.0, "params": 4e4}
    assert hopeless(objectives, found, costs) is None
    assert hopeless(objectives, found, {**costs, "energy_j_per_mpx": 4.0}) is not None


def test_who_beats_it_costs_no_more_in_anything() -> None:
    """Cheaper in compute and dearer in energy is another trade, not a better one."""
    objectives = (*OBJECTIVES, "energy_j_per_mpx")
    found = [{**each, "energy_j_per_mpx": 9.0} for each in finished()]
    costs = {"kmac_per_px": 4.0, "params": 4e4, "energy_j_per_mpx": 8.9}
    assert hopeless(objectives, found, costs) is None


def test_better_means_better_and_not_equal() -> None:
    flat = [{**each, "bd_rate_pct": 7.0} for each in finished()]
    assert judged(flat, 5.5) is None


def test_the_unit_of_quality_does_not_matter() -> None:
    found = finished(noise=3.0)
    scaled = [{**each, "bd_rate_pct": 1e-3 * each["bd_rate_pct"] + 5} for each in found]
    one, other = judged(found, 9.5), judged(scaled, 9.5)
    assert one is not None
    assert other is not None
    assert one.share == pytest.approx(other.share)


# --- the bound -------------------------------------------------------------------------------


def test_the_bound_is_that_of_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against solving the linear system (Rasmussen and Williams 2006, equations 2.25, 2.26)."""
    monkeypatch.setattr(prospects, "LENGTHS", (1.5,))
    monkeypatch.setattr(prospects, "NOISES", (0.2,))
    rng = np.random.default_rng(1)
    known, values, own = rng.normal(size=(15, 3)), rng.normal(size=15), rng.normal(size=3)
    scale = 1.5 * known.std(axis=0)

    def kernel(a: Floats, b: Floats) -> Floats:
        made: Floats = np.exp(-0.5 * (((a[:, None] - b) / scale) ** 2).sum(axis=2))
        return made

    among = kernel(known, known) + 0.2 * np.eye(15)
    to_own, centred = kernel(known, own[None])[:, 0], values - values.mean()
    variance = centred @ np.linalg.solve(among, centred) / 14
    mean = values.mean() + to_own @ np.linalg.solve(among, centred)
    left = 1.2 - to_own @ np.linalg.solve(among, to_own)
    assert optimistic(known, values, own) == pytest.approx(mean - 2 * np.sqrt(variance * left))


def test_about_one_in_forty_is_better_than_its_bound() -> None:
    """Two deviations leave 2.3 %: of 400 fresh draws 9, and more since 20 trials are few."""
    rng = np.random.default_rng(2)
    better = 0
    for _ in range(400):
        known = rng.uniform(0, 3, size=(20, 2))
        own = rng.uniform(0.5, 2.5, size=2)
        values = known.sum(axis=1) + 0.5 * rng.normal(size=20)
        better += own.sum() + 0.5 * rng.normal() < optimistic(known, values, own)
    assert 2 <= better <= 30


# --- in a study ------------------------------------------------------------------------------


def wide_is_bad(
    spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
) -> TrialResult:
    """A student that is the worse the dearer it is."""
    found = stub.run(spec, bench, gate, folder, on_progress)
    assert found.bd_rate is not None
    return replace(found, bd_rate=replace(found.bd_rate, pct=found.complexity.kmac_per_px))


def test_a_hopeless_candidate_is_refused_untrained_and_the_sampler_is_told(lab: Lab) -> None:
    study = lab.begin(*REFUSING)
    lab.work(wide_is_bad)
    trials, stored = study.get_trials(), lab.store.trials("demo")
    refused = [trial for trial in stored if trial.state == "refused"]
    assert refused
    for trial in refused:
        told = trials[trial.number]
        assert told.state == TrialState.PRUNED
        assert list(told.constraints) == ["hopeless", "overlap", "unfinished"]
        assert told.constraints["hopeless"] > 0
        assert trial.failure is not None
        assert trial.failure.values["hopeless"] == told.constraints["hopeless"]
        assert told.user_attrs[COSTS] == stub.costs(trial.spec)
        assert "could plausibly be, bd_rate_pct" in str(trial.reason)
        before = [t for t in stored if t.number < trial.number and t.state == "complete"]
        assert len(before) >= MIN_FINISHED
    others = [t for t in trials if t.constraints and t.number not in {r.number for r in refused}]
    assert {t.constraints["hopeless"] for t in others} == {0.0}


def test_a_refusal_names_a_trial_that_costs_no_more_and_is_better(lab: Lab) -> None:
    lab.begin(*REFUSING)
    lab.work(wide_is_bad)
    stored = lab.store.trials("demo")
    for trial in (trial for trial in stored if trial.state == "refused"):
        number = int(str(trial.reason).split("trial ")[1].split()[0])
        other = stored[number].result
        assert other is not None
        assert trial.failure is not None
        assert other.complexity.kmac_per_px <= trial.failure.values["kmac_per_px"]


def test_a_study_that_does_not_ask_refuses_nobody(lab: Lab) -> None:
    study = lab.begin(*REFUSING[1:])
    lab.work(wide_is_bad)
    assert set(lab.states()) == {"complete"}
    assert list(study.get_trials()[0].constraints) == ["overlap", "unfinished"]


def test_refusals_survive_a_lost_database(lab: Lab) -> None:
    lost = lab.begin(*REFUSING)
    lab.work(wide_is_bad)
    before = lost.get_trials()
    assert "PRUNED" in names(before)
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    after = lab.begin(*REFUSING).get_trials()
    for old, new in zip(before, after, strict=True):
        if "duplicate_of" not in old.user_attrs:
            assert (new.state, new.values) == (old.state, old.values)
            assert (new.params, new.constraints) == (old.params, old.constraints)
            assert new.user_attrs[COSTS] == old.user_attrs[COSTS]


def test_a_refused_spec_that_comes_again_is_not_looked_at_again(lab: Lab) -> None:
    study = lab.begin(*REFUSING)
    lab.work(wide_is_bad)
    refused = next(t for t in lab.store.trials("demo") if t.state == "refused")
    study.enqueue_trial(study.get_trials()[refused.number].params)
    lab.begin("cost_first=true", "sampler={name: random, enqueue: none}", "trials=15")
    run = Recorded()
    lab.work(run)
    assert refused.spec not in run.specs
