"""The front and the trials that names such as `best` and `knee` stand for."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.errors import KdbenchError, StoreError
from kdbench.report.overview import choose, dead_terms, front, overview
from tests.support.results import OBJECTIVES, STUDY, energy, make_study, result, shares, spec


def test_the_front_is_what_nothing_beats_by_the_first_objective(tmp_path: Path) -> None:
    found = overview(make_study(tmp_path), STUDY)
    assert found.front == (3, 0)
    assert {n: found.n(n) for n in ("complete", "infeasible", "failed", "running")} == {
        "complete": 3,
        "infeasible": 1,
        "failed": 1,
        "running": 1,
    }


def test_the_front_depends_on_what_the_study_minimises() -> None:
    results = {0: result(77.1, 16, 4.5), 1: result(90.0, 32, 7.0), 3: result(12.25, 64, 12.0)}
    assert front(results, ["bd_rate_pct"]) == (3,)
    assert front(results, ["params", "decode_s_per_mpx"]) == (0,)


def test_a_result_that_lacks_an_objective_is_not_on_the_front() -> None:
    results = {0: result(1.0, 16, None), 1: result(90.0, 32, 7.0)}
    assert front(results, OBJECTIVES) == (1,)


@pytest.mark.parametrize(
    ("first", "last", "dead"),
    [
        (0.0002, 0.0001, {"output": 0.0002}),
        (0.0001, 0.0009, {"output": 0.0009}),
        (0.001, 0.0, {}),  # 0.1 % at the start is alive
        (0.0, 0.001, {}),  # or at the end
        (0.0, 0.0, {"output": 0.0}),
    ],
)
def test_a_term_is_dead_that_has_under_a_thousandth_of_every_gradient_at_both_ends(
    first: float, last: float, dead: dict[str, float]
) -> None:
    """Rate never reaches g_s and is not called dead for it, nor would it be elsewhere."""
    made = replace(result(1.0, 16, None), gradient_shares=(shares(0, first), shares(799, last)))
    assert dead_terms(made) == dead


def test_a_term_that_was_off_at_the_last_step_is_judged_by_the_first() -> None:
    off = shares(799, 0.5)
    off = replace(off, shares={k: v for k, v in off.shares.items() if k != "output"})
    made = replace(result(1.0, 16, None), gradient_shares=(shares(0, 0.0002), off))
    assert dead_terms(made) == {"output": 0.0002}


def test_nothing_is_dead_where_nobody_looked() -> None:
    assert dead_terms(replace(result(1.0, 16, None), gradient_shares=())) == {}


def test_costs_of_an_infeasible_trial_are_known(tmp_path: Path) -> None:
    found = overview(make_study(tmp_path), STUDY)
    assert found.values(found.trials[2]) == {
        "bd_rate_pct": None,
        "kmac_per_px": 64.0,
        "energy_j_per_mpx": None,
    }


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ("1", [1]),
        ("4", [4]),
        ("best", [3, 0]),
        ("best:bd_rate_pct", [3]),
        ("best:kmac_per_px", [0]),
    ],
)
def test_trials_have_names(tmp_path: Path, which: str, numbers: list[int]) -> None:
    assert choose(overview(make_study(tmp_path), STUDY), which) == numbers


def test_the_knee_is_good_at_everything(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.save_result(STUDY, 5, result(20.0, 20, 5.0))
    assert choose(overview(store, STUDY), "knee") == [5]


@pytest.mark.parametrize(
    ("which", "problem", "fix"),
    [
        ("7", "no trial 7", "nearest first: 5, 4, 3, 2, 1"),
        ("bets", "`bets` names no trial", "a number, best, best:OBJECTIVE or knee"),
        ("knee:params", "`knee:params` names no trial", "best:OBJECTIVE or knee"),
        ("best:kmacs", "`kmacs` is no objective", "nearest first: kmac_per_px, "),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    tmp_path: Path, which: str, problem: str, fix: str
) -> None:
    found = overview(make_study(tmp_path), STUDY)
    with pytest.raises(KdbenchError, match=f"(?s){re.escape(problem)}.*fix: .*{re.escape(fix)}"):
        choose(found, which)


def test_best_of_nothing_says_what_to_wait_for(tmp_path: Path) -> None:
    found = replace(overview(make_study(tmp_path), STUDY), front=())
    with pytest.raises(KdbenchError, match=r"(?s)no complete trial yet.*fix: let `kdbench search"):
        choose(found, "best")


def test_two_protocols_are_not_mixed(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.save_result(STUDY, 5, replace(result(20.0, 20, 5.0), protocol=1))
    with pytest.raises(
        KdbenchError, match=r"(?s)protocols: 2 \(trial 0\), 1 \(trial 5\).*fix: .*another name"
    ):
        overview(store, STUDY)


def test_measured_and_estimated_energies_are_not_mixed(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.save_result(STUDY, 5, replace(result(20.0, 20, 5.0), energy=energy(3.0, "counter")))
    with pytest.raises(
        KdbenchError, match=r"(?s)model \(trial 0\), counter \(trial 5\).*fix: .*one meter"
    ):
        overview(store, STUDY)


def test_a_study_that_never_began_is_answered_with_those_that_did(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"(?s)no study 'tinny'.*fix: .*nearest first: tiny"):
        overview(make_study(tmp_path), "tinny")


def test_a_trial_that_began_last_is_read_too(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.begin_trial(STUDY, 10, spec(10))
    assert [trial.number for trial in overview(store, STUDY).trials] == [0, 1, 2, 3, 4, 5, 10]
