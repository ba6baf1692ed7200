"""Fronts and hypervolumes, as their definitions promise."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.errors import KdbenchError
from kdbench.fronts import Landscape, front_at_arrival, hypervolume, non_dominated, why_unsound


def test_no_row_of_the_front_is_dominated_and_every_other_is() -> None:
    rows = np.random.default_rng(0).integers(0, 6, (60, 3))
    front = non_dominated(rows.tolist())
    for i, row in enumerate(rows):
        dominated = any((other <= row).all() and (other < row).any() for other in rows)
        assert front[i] == (not dominated)
    assert 0 < sum(front) < 60


def test_equal_rows_stay_on_the_front_together() -> None:
    assert non_dominated([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]) == [True, True, False]


def test_an_empty_study_has_an_empty_front() -> None:
    assert non_dominated([]) == []


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(KdbenchError, match="row 1 of the objectives"):
        non_dominated([[1.0, 2.0], [0.5, math.nan]])
    with pytest.raises(KdbenchError, match="row 0 of the objectives"):
        hypervolume([[math.nan, 2.0]], [3.0, 3.0])


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_a_staircase_of_n_steps_fills_the_triangle_number(n: int) -> None:
    steps = [[float(i), float(n - 1 - i)] for i in range(n)]
    assert hypervolume(steps, [float(n), float(n)]) == n * (n + 1) // 2


@given(n=st.integers(1, 40), axes=st.integers(2, 4), seed=st.integers(0, 99))
@settings(deadline=None)
def test_hypervolume_agrees_with_optuna(n: int, axes: int, seed: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    # a coarse grid, so that ties and points on or beyond the reference happen
    points = np.random.default_rng(seed).integers(0, 12, (n, axes)) / 10
    reference = np.ones(axes)
    inside = points[(points < reference).all(axis=1)]
    expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert hypervolume(points.tolist(), reference.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_point_without_an_end_dominates_without_end(axis: int) -> None:
    point = [0.0, 0.0, 0.0]
    point[axis] = -math.inf
    assert hypervolume([point, [0.5, 0.5, 0.5]], [1.0, 1.0, 1.0]) == math.inf


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([-50.0, 1.0], None),
        ([0.0, 0.0], "a cost that is not above 0"),
        ([0.0, -1.0], "a cost that is not above 0"),
        ([math.inf, 1.0], "a figure that is no number"),
        ([0.0, math.nan], "a figure that is no number"),
    ],
)
def test_a_landscape_has_finite_rows_and_costs_above_zero(row: list[float], why: str) -> None:
    assert why_unsound(("bd_rate_pct", "params"), row) == why


def test_points_beyond_the_reference_add_nothing() -> None:
    inside: Sequence[Sequence[float]] = [[1.0, 1.0, 1.0]]
    assert hypervolume([*inside, [0.0, 0.0, 5.0]], [2.0, 2.0, 2.0]) == 1.0
    assert hypervolume([], [2.0, 2.0]) == 0.0


@given(n=st.integers(0, 40), axes=st.integers(1, 3), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_row_arrives_on_the_front_of_those_up_to_it(n: int, axes: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 5, (n, axes)).tolist()
    expected = [non_dominated(rows[: i + 1])[-1] for i in range(n)]
    assert front_at_arrival(rows) == expected


@given(n=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None)
def test_what_others_dominate_changes_no_volume(n: int, seed: int) -> None:
    """Of three axes, one a quality, with ties."""
    rows = np.random.default_rng(seed).integers(1, 6, (n, 3)).astype(float).tolist()
    landscape = Landscape(("bd_rate_pct", "params", "kmac_per_px"), rows)
    front = [i for i, kept in enumerate(non_dominated(rows)) if kept]
    arrivals = [i for i, arrived in enumerate(front_at_arrival(rows)) if arrived]
    for places in (front, arrivals):
        assert landscape.volume_of(places) == pytest.approx(landscape.volume, rel=1e-12)
