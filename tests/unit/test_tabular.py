"""A table of finished trials: its front, its hypervolume, what it refuses."""

import math
from typing import Any

import pytest

from kdbench.errors import KdbenchError
from kdbench.fronts import MARGIN
from kdbench.parameters import Choice, FloatRange
from kdbench.tabular import Row, Search, Shown, Table, axes_of

NAMES = ("bd_rate_pct", "kmac_per_px")


def row(number: int, quality: float, cost: float, seconds: float = 10.0, **more: Any) -> Row:
    return Row(
        number=number,
        params={"width": number},
        objectives=(quality, cost),
        seconds=seconds,
        **more,
    )


def staircase(**more: Any) -> Table:
    """Two ends of a front, its middle, and a row that the middle beats."""
    rows = (row(0, 0.0, math.e**2), row(1, 2.0, 1.0), row(2, 1.0, math.e), row(3, 1.5, math.e**1.5))
    return Table(objectives=NAMES, rows=rows, **more)


def test_the_front_is_what_nothing_beats() -> None:
    assert staircase().front == {0, 1, 2}


def test_costs_count_by_their_logarithm_and_the_corner_is_a_tenth_beyond_the_worst() -> None:
    """With e = 2.2, the corner's place: (e - 0)(e - 2) + (e - 2)(2 - 0) + (e - 1)(2 - 1)."""
    landscape = staircase().landscape
    assert landscape.corner == pytest.approx((2 + 2 * MARGIN, 2 + 2 * MARGIN))
    assert landscape.volume == pytest.approx(2.2 * 0.2 + 1.2 * 1 + 0.2 * 1)
    assert landscape.volume_of([0]) == pytest.approx(2.2 * 0.2)
    assert landscape.volume_of([3]) == pytest.approx(0.7 * 0.7)
    assert landscape.volume_of([]) == 0


def test_a_row_behind_the_front_adds_nothing() -> None:
    landscape = staircase().landscape
    assert landscape.volume_of([0, 1, 2]) == pytest.approx(landscape.volume)


def test_an_axis_that_every_row_shares_does_not_flatten_the_volume() -> None:
    table = Table(objectives=NAMES, rows=(row(0, 5.0, 1.0), row(1, 3.0, 1.0)))
    assert table.landscape.volume > 0
    assert table.front == {1}


def test_the_rungs_of_a_table_are_those_that_every_row_has() -> None:
    low, high = (Shown(share=s, seconds=10 * s, values=(1.0,)) for s in (0.1, 0.3))
    rows = (row(0, 1.0, 2.0, rungs=(low, high)), row(1, 2.0, 1.0, rungs=(high,)))
    assert Table(objectives=NAMES, rows=rows).shares == (0.3,)


def test_what_is_known_before_the_end_is_the_cost() -> None:
    table = staircase()
    assert table.costs(table.rows[1]) == {"kmac_per_px": 1.0}


def test_axes_are_choices_of_what_rows_hold_and_ranges_of_many_numbers() -> None:
    rows = [
        Row(
            number=i,
            params={"width": 8 * (1 + i % 3), "rate": 1e-4 * 1.1**i, "side": "ab"[i % 2]},
            objectives=(1.0,),
            seconds=1.0,
        )
        for i in range(40)
    ]
    rows[0] = Row(number=0, params={"only": 1}, objectives=(1.0,), seconds=1.0)
    found = axes_of(rows)
    assert found["width"] == Choice(values=(8, 16, 24))
    assert found["side"] == Choice(values=("b", "a"))
    assert found["only"] == Choice(values=(1,))
    rate = found["rate"]
    assert isinstance(rate, FloatRange)
    assert (rate.low, rate.high, rate.log) == (1e-4 * 1.1, 1e-4 * 1.1**39, True)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (row(7, float("nan"), 1.0), "trial 7 has a figure that is no number"),
        (row(7, 1.0, 0.0), "trial 7 has a cost that is not above 0"),
        (row(7, 1.0, 1.0, seconds=-1.0), "trial 7 has seconds that do not ascend"),
        (
            row(7, 1.0, 1.0, rungs=(Shown(share=0.5, seconds=11.0, values=(1.0,)),)),
            "trial 7 has seconds that do not ascend",
        ),
        (
            Row(number=7, params={}, objectives=(1.0,), seconds=1.0),
            "trial 7 has 1 objectives, and the table 2",
        ),
    ],
)
def test_a_row_that_no_search_could_run_is_refused(broken: Row, why: str) -> None:
    with pytest.raises(KdbenchError, match=f"{why}(?s:.*)fix: leave it out"):
        Table(objectives=NAMES, rows=(row(0, 1.0, 1.0), broken))


@pytest.mark.parametrize("n", [0, 1])
def test_a_table_has_two_rows_at_least(n: int) -> None:
    with pytest.raises(KdbenchError, match="nothing to search"):
        Table(objectives=NAMES, rows=tuple(row(i, 1.0, 1.0) for i in range(n)))


def test_a_search_reaches_a_share_when_it_first_has_it() -> None:
    steps = ((10.0, 0.4), (20.0, 0.9), (40.0, 1.0))
    found = Search(
        steps=steps,
        begun=(),
        ended_s=(),
        stopped=(),
        wrongly_stopped=(),
        refused=(),
        wrongly_refused=(),
        front_share=1.0,
        seconds=50.0,
    )
    asked = [found.seconds_to(share) for share in (0.1, 0.5, 0.9, 0.95, 1.0)]
    assert asked == [10.0, 20.0, 20.0, 40.0, 40.0]
    assert found.share == 1.0
