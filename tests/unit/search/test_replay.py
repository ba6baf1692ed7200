"""Replayed searches: what they cost, what they stop, what their samplers are told."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kdbench.errors import KdbenchError
from kdbench.parameters import Choice, FloatRange, Parameter
from kdbench.search import replay as replays
from kdbench.search.ladder import goes_on
from kdbench.search.places import Places
from kdbench.search.prospects import Hopeless
from kdbench.search.recorded import Recording
from kdbench.search.replay import LADDERS, SAMPLERS, policies, replay, simulate
from kdbench.search.summary import summary
from kdbench.tabular import Policy, Row, Search, Shown, Table

NAMES = ("bd_rate_pct", "kmac_per_px")
FAST = tuple(name for name in SAMPLERS if name != "gp")  # a minute a search
RANDOM = Policy(sampler="random")


def table(n: int = 24, *, noise: float = 0.0, seed: int = 0) -> Table:
    """Students of two widths: wide ones are good and dear; rungs show the quality with noise."""
    rng = np.random.default_rng(seed)
    pairs = [(8 * (1 + i % 6), 8 * (1 + i // 6)) for i in range(n)]
    rows = []
    for i, (encoder, decoder) in enumerate(pairs):
        cost = float(encoder + 2 * decoder)
        quality = 400 / cost + (i % 5)
        rungs = tuple(
            Shown(
                share=share,
                seconds=share * cost,
                values=(quality + noise * (1 - share) * float(rng.normal()), cost),
            )
            for share in (0.1, 0.3)
        )
        params = {"encoder": encoder, "decoder": decoder, "side": "ab"[i % 2]}
        rows.append(
            Row(number=i, params=params, objectives=(quality, cost), seconds=cost, rungs=rungs)
        )
    return Table(objectives=NAMES, rows=tuple(rows), setup_s=5.0)


# --- without a ladder ------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", FAST)
def test_a_search_without_a_ladder_takes_every_row_once_and_finds_all(sampler: str) -> None:
    found = table()
    search = simulate(found, Policy(sampler=sampler), seed=0)
    assert sorted(search.begun) == list(range(24))
    assert search.seconds == pytest.approx(found.seconds)
    assert search.share == pytest.approx(1.0)
    assert (search.front_share, search.stopped) == (1.0, ())
    spent = np.cumsum([found.rows[i].seconds for i in search.begun])
    assert list(search.ended_s) == pytest.approx((found.setup_s + spent).tolist())


def test_rows_that_a_policy_names_are_tried_first_and_the_sampler_takes_the_rest() -> None:
    named = simulate(table(9), Policy(sampler="tpe", first=(5, 2)), seed=0)
    assert named.begun[:2] == (5, 2)
    assert sorted(named.begun) == list(range(9))
    assert simulate(table(9), Policy(sampler="tpe"), seed=0).begun[:2] != (5, 2)


def test_gp_can_be_asked_for() -> None:
    assert sorted(simulate(table(6), Policy(sampler="gp"), seed=0).begun) == list(range(6))


def test_time_and_hypervolume_ascend_from_the_first_trial_s_end() -> None:
    found = table()
    search = simulate(found, RANDOM, seed=1)
    first = found.rows[search.begun[0]]
    assert search.steps[0][0] == found.setup_s + first.seconds
    assert list(search.steps) == sorted(search.steps)
    shares = [share for _, share in search.steps]
    assert shares == sorted(set(shares))
    assert search.steps[-1][0] <= search.seconds


@pytest.mark.parametrize("sampler", FAST)
def test_a_seed_repeats_its_search_and_another_does_not(sampler: str) -> None:
    policy, found = Policy(sampler=sampler, eta=2), table(noise=2.0)
    assert simulate(found, policy, seed=3) == simulate(found, policy, seed=3)
    assert simulate(found, policy, seed=3).begun != simulate(found, policy, seed=4).begun


def test_a_budget_ends_a_search_before_what_does_not_end_in_time() -> None:
    found = table()
    whole, half = (simulate(found, RANDOM, seed=2, budget=budget) for budget in (1.0, 0.5))
    assert half.begun == whole.begun[: len(half.begun)]
    following = found.rows[whole.begun[len(half.begun)]]
    assert half.seconds <= found.seconds / 2 < half.seconds + following.seconds


def test_random_search_takes_each_row_first_equally_often() -> None:
    """Where rows lie evenly on their axes; 6 rows, 600 searches: 100 each, give or take 9."""
    rows = tuple(
        Row(number=i, params={"a": i % 3, "b": i // 3}, objectives=(1.0, 1.0), seconds=1.0)
        for i in range(6)
    )
    found = Table(objectives=NAMES, rows=rows)
    firsts = [simulate(found, RANDOM, seed, budget=1 / 6).begun[0] for seed in range(600)]
    counts = [firsts.count(i) for i in range(6)]
    assert sum(counts) == 600
    assert all(60 <= n <= 140 for n in counts)


def test_a_sampler_that_learns_finds_a_smooth_front_sooner_than_chance() -> None:
    rows = [
        Row(
            number=i,
            params={"x": (i % 20) / 19, "y": (i // 20) / 9},
            objectives=(100 * (i // 20) / 9 + 10 * (i % 20) / 19, 2.0 - (i % 20) / 19),
            seconds=1.0,
        )
        for i in range(200)
    ]
    found = Table(objectives=NAMES, rows=tuple(rows))
    outcomes = replay(found, [RANDOM, Policy(sampler="tpe")], seeds=5, budget=0.25)
    chance, tpe = (outcome.hypervolume.value for outcome in outcomes)
    assert chance is not None
    assert tpe is not None
    assert tpe > chance


# --- rows and suggestions --------------------------------------------------------------------


def told(
    monkeypatch: pytest.MonkeyPatch, found: Table, policy: Policy
) -> tuple[Search, list[FrozenTrial]]:
    """A search and what its sampler was told."""
    studies: list[optuna.Study] = []
    create = optuna.create_study

    def remember(**more: Any) -> optuna.Study:
        studies.append(create(**more))
        return studies[-1]

    monkeypatch.setattr("kdbench.search.replay.optuna.create_study", remember)
    search = simulate(found, policy, seed=0)
    trials = studies[0].get_trials()
    return search, [trial for trial in trials if trial.state != TrialState.FAIL]


def test_a_sampler_is_told_what_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table()
    search, trials = told(monkeypatch, found, Policy(sampler="tpe"))
    rows = [found.rows[i] for i in search.begun]
    assert [trial.params for trial in trials] == [row.params for row in rows]
    assert [tuple(trial.values) for trial in trials] == [row.objectives for row in rows]
    assert all(trial.constraints == {"overlap": 0.0, "unfinished": 0.0} for trial in trials)


def test_a_stopped_row_is_told_as_a_study_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(noise=2.0)
    search, trials = told(monkeypatch, found, Policy(sampler="nsga2", eta=3))
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert len(pruned) == len(search.stopped) > 0
    for trial, i in zip(pruned, search.stopped, strict=True):
        assert trial.constraints["unfinished"] in (pytest.approx(0.9), pytest.approx(0.7))
        assert trial.user_attrs["costs"] == {"kmac_per_px": found.rows[i].objectives[1]}


def test_generations_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 rows: generations of 6. Without it NSGA-II would draw its first one for ever."""
    _, trials = told(monkeypatch, table(), Policy(sampler="nsga2"))
    (key,) = {k for trial in trials for k in trial.system_attrs if "generation" in k}
    assert [trial.system_attrs[key] for trial in trials] == [i // 6 for i in range(24)]


def test_the_nearest_row_counts_the_axes_that_it_has() -> None:
    axes: dict[str, Parameter] = {
        "width": Choice(values=(8, 16, 24)),
        "side": Choice(values=("a", "b", "c")),
        "rate": FloatRange(low=1e-4, high=1e-2, log=True),
    }
    held: Sequence[dict[str, Any]] = [
        {"width": 8, "side": "a", "rate": 1e-3},
        {"width": 24, "side": "a", "rate": 1e-3},
        {"width": 8, "side": "c", "rate": 1e-2},
        {"width": 16, "side": "b"},
    ]
    rows = tuple(
        Row(number=i, params=params, objectives=(1.0, 1.0), seconds=1.0)
        for i, params in enumerate(held)
    )
    places = Places(Table(objectives=NAMES, rows=rows, axes=axes))

    def nearest(width: int, side: str, rate: float, among: Sequence[int] = range(4)) -> int:
        return places.nearest({"width": width, "side": side, "rate": rate}, list(among))

    assert nearest(8, "a", 1e-3) == 0
    assert nearest(24, "a", 1e-4) == 1
    assert nearest(16, "a", 1.1e-3, [0, 1]) == 0  # equally near: the first
    assert nearest(16, "a", 1.1e-3, [1, 0]) == 1
    assert nearest(8, "a", 1e-2, [2, 1]) == 2  # a name that differs, against a whole range
    assert nearest(8, "b", 1e-4) == 3  # half a range on one of two axes: 1/4
    assert nearest(8, "b", 1e-4, [0, 2]) == 0


# --- ladders ---------------------------------------------------------------------------------


def test_a_ladder_decides_as_the_search_s_own_and_a_stopped_row_costs_its_rung() -> None:
    found = table(noise=3.0)
    search = simulate(found, Policy(sampler="random", eta=3), seed=5)
    been_there: dict[float, list[tuple[float, ...]]] = {}
    clock, stopped = found.setup_s, []
    for i in search.begun:
        spent = found.rows[i].seconds
        for rung in found.rows[i].rungs:
            others = been_there.setdefault(rung.share, [])
            goes = goes_on(rung.values, others, 3)
            others.append(rung.values)
            if not goes:
                stopped.append(i)
                spent = rung.seconds
                break
        clock += spent
    assert search.stopped == tuple(stopped)
    assert search.seconds == pytest.approx(clock)
    assert 0 < len(stopped) < 24
    assert search.seconds < found.seconds


def test_what_a_ladder_stops_is_wrong_where_the_row_is_on_the_true_front() -> None:
    """Rungs that show the opposite of what comes stop nothing but the front."""
    rows = tuple(
        Row(
            number=i,
            params={"a": i},
            objectives=(float(i), 1.0 + i),
            seconds=10.0,
            rungs=(Shown(share=0.5, seconds=5.0, values=(-float(i), -1.0 - i)),),
        )
        for i in range(12)
    )
    found = Table(objectives=NAMES, rows=rows)
    assert found.front == {0}
    outcomes = [simulate(found, Policy(sampler="random", eta=2), seed) for seed in range(40)]
    wrong = [search.wrongly_stopped for search in outcomes]
    assert set(wrong) == {(0,), ()}
    for search in outcomes:
        assert search.front_share == (0.0 if search.wrongly_stopped else 1.0)


def test_only_the_rungs_of_a_policy_stop() -> None:
    found = table(noise=3.0)
    late = simulate(found, Policy(sampler="random", eta=3, shares=(0.3,)), seed=0)
    never = simulate(found, Policy(sampler="random", eta=3, shares=()), seed=0)
    assert never.stopped == ()
    spent = sum(found.rows[i].seconds for i in late.begun if i not in late.stopped)
    spent += sum(found.rows[i].rungs[1].seconds for i in late.stopped)
    assert late.stopped
    assert late.seconds == pytest.approx(spent + found.setup_s)


# --- over seeds ------------------------------------------------------------------------------


def search(*steps: tuple[float, float], stopped: int = 0) -> Search:
    return Search(
        steps=steps,
        begun=(),
        ended_s=(),
        stopped=tuple(range(stopped)),
        wrongly_stopped=(),
        refused=(),
        wrongly_refused=(),
        front_share=0.5,
        seconds=100.0,
    )


def test_what_half_of_the_searches_never_had_has_no_seconds() -> None:
    found = [search((10.0, 0.6), (50.0 + i, 0.92)) for i in range(3)]
    found += [search((20.0, 0.6)) for _ in range(4)]
    outcome = summary(RANDOM, found)
    assert outcome.seconds_to[50].value == 20.0
    assert outcome.seconds_to[90].value is None
    assert outcome.reached[90] == pytest.approx(3 / 7)
    assert outcome.seconds_to[95].value is None
    assert outcome.reached[95] == 0.0
    assert outcome.seconds_to[90].low in (50.0, 51.0, 52.0)
    assert outcome.seconds_to[90].high is None


def test_a_mean_lies_in_its_interval_and_two_seeds_have_none() -> None:
    found = [search((10.0, 0.5 + 0.05 * i), stopped=i) for i in range(8)]
    share = summary(RANDOM, found).hypervolume
    assert share.value == pytest.approx(0.675)
    assert share.low is not None
    assert share.high is not None
    assert 0.5 < share.low < 0.675 < share.high < 0.85
    assert summary(RANDOM, found[:2]).hypervolume.low is None
    assert summary(RANDOM, found).stopped.value == 3.5


def test_every_policy_is_replayed_with_the_same_seeds_and_progress_is_told() -> None:
    said: list[tuple[int, int]] = []
    chosen = [RANDOM, Policy(sampler="random", eta=2, shares=())]
    one, other = replay(
        table(8), chosen, seeds=3, on_progress=lambda done, n: said.append((done, n))
    )
    assert said == [(i, 6) for i in range(1, 7)]
    assert one.seconds_to == other.seconds_to  # a ladder without rungs changes nothing


# --- which policies --------------------------------------------------------------------------


def recording(n_rungs: int = 2) -> Recording:
    rows = tuple(
        Row(
            number=i,
            params={"a": i},
            objectives=(1.0, 1.0),
            seconds=9.0,
            rungs=tuple(Shown(share=s, seconds=s, values=(1.0,)) for s in (0.1, 0.2)[:n_rungs]),
        )
        for i in range(2)
    )
    return Recording(study="demo", table=Table(objectives=NAMES, rows=rows), left_out={})


def test_every_sampler_meets_every_ladder_beside_random_search() -> None:
    names = [policy.name for policy in policies(recording(), ["tpe", "nsga3"])]
    each = ["", *(f", eta {eta}" for eta in LADDERS if eta is not None)]
    assert names == ["random", *(f"{name}{eta}" for eta in each for name in ("tpe", "nsga3"))]


def test_random_search_is_there_once() -> None:
    asked = policies(recording(), ["tpe", "random"], [None])
    assert [policy.name for policy in asked] == ["random", "tpe"]


def test_without_rungs_there_is_no_ladder() -> None:
    assert [p.name for p in policies(recording(0), ["tpe"])] == ["random", "tpe"]
    with pytest.raises(KdbenchError, match=r"'demo' share no rung(?s:.*)fix: `--etas none`"):
        policies(recording(0), ["tpe"], [None, 2])


def test_a_sampler_that_draws_nothing_cannot_be_replayed() -> None:
    with pytest.raises(KdbenchError, match="no sampler 'grid' to replay"):
        policies(recording(), ["grid"])


# --- costs first -----------------------------------------------------------------------------


def costly(n: int = 24) -> Table:
    """The dearer the worse: once eight are finished nothing dear is worth a training."""
    rows = tuple(
        Row(
            number=i,
            params={"a": i},
            objectives=(10.0 * i, 1.1**i),
            seconds=100.0,
            costs={"params": 1e4 * 1.1**i},
            costs_s=1.0,
        )
        for i in range(n)
    )
    return Table(objectives=NAMES, rows=rows)


def test_what_costs_refuse_costs_its_seconds_until_they_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = Policy(sampler="random", cost_first=True)
    search, trials = told(monkeypatch, costly(), policy)
    n = len(search.refused)
    assert n > 5
    assert search.wrongly_refused == ()
    assert search.share == pytest.approx(1.0)
    assert search.front_share == 1.0
    assert search.seconds == pytest.approx(n * 1.0 + (24 - n) * 100.0)
    missed = [trial.constraints["hopeless"] for trial in trials]
    assert sum(share > 0 for share in missed) == n
    assert all(
        (trial.state == TrialState.PRUNED) == (share > 0)
        for trial, share in zip(trials, missed, strict=True)
    )


def test_a_policy_that_does_not_ask_costs_refuses_nobody() -> None:
    assert simulate(costly(), RANDOM, seed=0).refused == ()


def test_a_front_member_that_is_refused_is_an_error_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replays, "hopeless", lambda *_: Hopeless(beaten_by=0, bounds={}, share=1.0))
    search = simulate(costly(), Policy(sampler="random", cost_first=True), seed=0)
    assert len(search.refused) == 24
    assert search.wrongly_refused == (0,)
    outcome = summary(RANDOM, [search])
    assert (outcome.refused.value, outcome.wrongly_refused.value) == (24.0, 1.0)
    assert outcome.seconds.value == pytest.approx(24.0)


def test_cost_first_brings_each_policy_twice() -> None:
    found = [policy.name for policy in policies(recording(0), ["tpe", "random"], cost_first=True)]
    assert found == ["random", "tpe", "tpe, cost first", "random, cost first"]


def test_costs_cannot_refuse_where_there_is_no_cost() -> None:
    rows = tuple(Row(number=i, params={}, objectives=(1.0,), seconds=1.0) for i in range(2))
    table = Table(objectives=("bd_rate_pct",), rows=rows)
    found = Recording(study="demo", table=table, left_out={})
    with pytest.raises(KdbenchError, match="costs cannot refuse a trial of study 'demo'"):
        policies(found, ["tpe"], cost_first=True)
