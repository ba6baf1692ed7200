"""How sure a mean of few values is."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from kdbench.intervals import relative_interval, student_quantile


def test_the_interval_is_students() -> None:
    # t(0.975, 2) = 4.302653 (tables); 4.302653 x 1 / sqrt(3) / 10
    assert relative_interval((9.0, 10.0, 11.0)) == pytest.approx(0.248414, abs=1e-6)


@given(st.lists(st.floats(1.0, 2.0), min_size=2, max_size=9), st.floats(0.1, 10.0))
def test_the_interval_does_not_depend_on_the_unit(values: Sequence[float], unit: float) -> None:
    scaled = relative_interval(tuple(unit * value for value in values))
    assert scaled == pytest.approx(relative_interval(tuple(values)), rel=1e-6, abs=1e-9)


def test_quantiles_are_those_of_scipy() -> None:
    for freedom in range(1, 40):
        assert student_quantile(freedom) == pytest.approx(stdtrit(freedom, 0.975), abs=1e-6)


def test_one_value_has_no_interval() -> None:
    assert relative_interval((1.0,)) is None
