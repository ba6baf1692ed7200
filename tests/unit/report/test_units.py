"""How figures are written."""

import pytest

from kdbench.report.units import (
    change_pct,
    count,
    duration,
    figure,
    interval,
    mebibytes,
    percent,
    span,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.012345, "0.0123"),
        (0.62925, "0.629"),
        (2.5998828125, "2.60"),
        (87.08, "87.1"),
        (184.2, "184"),
        (999.7, "1000"),
        (1767.85, "1768"),
        (-12.34, "-12.3"),
        (None, "-"),
    ],
)
def test_a_figure_has_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(640, "640"), (265_667, "266k"), (999_700, "1.00M"), (1_694_339, "1.69M"), (None, "-")],
)
def test_a_count_has_its_letter(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "+12.3"), (-0.04, "-0.0"), (1234.5, "+1234"), (None, "-")]
)
def test_a_change_has_its_sign(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_an_interval_without_ends_claims_none() -> None:
    assert interval(-1.0, 2.0) == "[-1.0, +2.0]"
    assert interval(None, None) == "[-, -]"


def test_a_span_has_both_ends() -> None:
    assert span([0.111, 0.3, 0.625], 2) == "0.11-0.62"
    assert span([], 2) == "-"


def test_memory_is_in_mebibytes() -> None:
    assert mebibytes(3 << 19) == "1.50"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(38.4, "38 s"), (59.6, "1 min 00 s"), (725, "12 min 05 s"), (93_600, "26 h 00 min")],
)
def test_a_duration_keeps_whole_days(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_change_needs_both_sides_and_a_base() -> None:
    assert change_pct(25.0, 100.0) == pytest.approx(-75.0)
    assert change_pct(None, 100.0) is None
    assert change_pct(1.0, None) is None
    assert change_pct(1.0, 0.0) is None
