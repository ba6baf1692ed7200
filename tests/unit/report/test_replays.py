"""What `kdbench replay` prints and sends; the golden files show it byte for byte."""

from typing import Any

import pytest

from kdbench.report.replays import replay_json, replay_text
from kdbench.tabular import SHARES_PCT, Estimate, Outcome, Policy, Row, Shown, Table
from tests.unit.report.test_json_view import sent, validator
from tests.unit.report.test_tables import expect

NONE = Estimate(value=0.0, low=0.0, high=0.0)


def found() -> Table:
    """Three finished trials, two of them on the front, each 20 minutes."""
    rows = [
        Row(
            number=number,
            params={"width": cost},
            objectives=(quality, float(cost)),
            seconds=1200.0,
            rungs=(Shown(share=0.125, seconds=150.0, values=(quality, float(cost))),),
        )
        for number, quality, cost in ((0, 40.0, 2), (3, 12.5, 9), (4, 50.0, 4))
    ]
    return Table(objectives=("bd_rate_pct", "kmac_per_px"), rows=tuple(rows), setup_s=90.0)


def outcome(policy: Policy, **more: Any) -> Outcome:
    seconds = {pct: Estimate(value=600.0 + pct, low=500.0, high=900.0) for pct in SHARES_PCT}
    plain: dict[str, Any] = {
        "n_seeds": 20,
        "seconds_to": seconds,
        "reached": dict.fromkeys(SHARES_PCT, 1.0),
        "hypervolume": Estimate(value=1.0, low=1.0, high=1.0),
        "front_found": Estimate(value=1.0, low=1.0, high=1.0),
        "stopped": NONE,
        "wrongly_stopped": NONE,
        "refused": NONE,
        "wrongly_refused": NONE,
        "seconds": Estimate(value=3690.0, low=3690.0, high=3690.0),
    }
    return Outcome(policy=policy, **(plain | more))


def outcomes() -> list[Outcome]:
    """Random search, a ladder that some searches end under without the front, and refusals."""
    late = {
        50: Estimate(value=240.0, low=240.0, high=390.0),
        90: Estimate(value=1590.0, low=1440.0, high=None),
        95: Estimate(value=None, low=1590.0, high=None),
        99: Estimate(value=None, low=None, high=None),
    }
    ladder = outcome(
        Policy(sampler="tpe", eta=3),
        seconds_to=late,
        reached={50: 1.0, 90: 0.55, 95: 0.25, 99: 0.0},
        hypervolume=Estimate(value=0.8765, low=0.81, high=0.93),
        front_found=Estimate(value=0.5, low=0.4, high=0.6),
        stopped=Estimate(value=1.35, low=1.1, high=1.6),
        wrongly_stopped=Estimate(value=0.75, low=0.5, high=0.95),
        seconds=Estimate(value=1740.5, low=1400.0, high=2100.0),
    )
    refusing = outcome(
        Policy(sampler="random", cost_first=True),
        refused=Estimate(value=0.95, low=0.8, high=1.0),
        wrongly_refused=NONE,
    )
    return [outcome(Policy(sampler="random")), ladder, refusing]


@pytest.mark.parametrize("width", [80, 100])
def test_replay_prints_how_soon_and_what_was_missed(width: int) -> None:
    left_out = {"stopped": 3, "failed": 1}
    text = replay_text("tiny", found(), left_out, outcomes(), budget=0.5, width=width)
    expect(f"replay_{width}", text)
    assert max(map(len, text.splitlines())) <= width


def test_a_whole_budget_and_nothing_left_out_are_not_mentioned() -> None:
    text = replay_text("tiny", found(), {}, outcomes(), budget=1.0, width=100)
    assert "left out" not in text
    assert "a search has" not in text
    alone = replay_text("tiny", found(), {}, outcomes()[:1], budget=1.0, width=100)
    assert ("refused" in text, "refused" in alone) == (True, False)


def test_the_json_follows_its_schema() -> None:
    document = sent(replay_json("tiny", found(), {"stopped": 3}, outcomes(), budget=0.5))
    validator("replay").validate(document)
    assert (document["rows"], document["front"]) == ([0, 3, 4], [0, 3])
    ladder = document["policies"][1]
    assert ladder["seconds_to"]["99"] == {"value": None, "low": None, "high": None, "reached": 0.0}
    assert ladder["wrongly_stopped"]["value"] == 0.75


@pytest.mark.parametrize("key", ["seconds_to", "hypervolume", "eta"])
def test_the_schema_misses_what_is_not_there(key: str) -> None:
    document = sent(replay_json("tiny", found(), {}, outcomes(), budget=1.0))
    del document["policies"][0][key]
    assert not validator("replay").is_valid(document)
