"""What a figure shows, without a library that draws: axes, series, reference marks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, floor, log10
from typing import Any, Literal, NamedTuple

Format = Literal["svg", "png", "pdf"]  # of a still picture
Kind = Literal["points", "line", "steps", "bars", "text"]
Role = Literal["front", "beaten", "anchor", "twin", "codec", "member", "other", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        unit: Empty where a figure has none.
        log: Whether it is drawn by its logarithm; every value is above 0 then.
        categories: Names of the places 0, 1, ... of an axis that has no numbers.
        low, high: Its ends; None: where the values are.
    """

    label: str
    unit: str = ""
    log: bool = False
    categories: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


class Point(NamedTuple):
    """One mark; a tuple, since a figure of many trials has ten thousands.

    Attributes:
        x: On the horizontal axis; of categories their place.
        y: None breaks a line here and draws nothing.
        z: Of a figure in three dimensions.
        x_low, x_high, y_low, y_high: Ends of the 95 % interval; None where it is not known.
        label: A word beside it; empty: none.
        hover: What is said of it, lines of plain text.
        trial: Its number, where it is one.
    """

    x: float
    y: float | None
    z: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    label: str = ""
    hover: str = ""
    trial: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Marks of one look and one entry of the legend.

    Attributes:
        role: What it is; decides its colour and shape (`palette`).
        place: Which one of its role, so that several look different.
        with_points: Whether a line has its points marked.
    """

    name: str
    kind: Kind
    points: tuple[Point, ...]
    role: Role
    place: int = 0
    with_points: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process by column, in a third of the time."""
        looks = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "points"}
        return _series, (looks, tuple(zip(*self.points, strict=True)))


def _series(looks: Mapping[str, Any], columns: tuple[tuple[Any, ...], ...]) -> Series:
    return Series(points=tuple(map(Point._make, zip(*columns, strict=True))), **looks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A straight line across the figure at one value: a codec that has no value on the other axis.

    Attributes:
        along: The axis that `value` is on.
    """

    along: Literal["x", "y"]
    value: float
    label: str
    role: Role = "codec"
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One figure.

    Attributes:
        name: For files and anchors: letters, digits, `-` and `_`.
        note: What a reader must know, one sentence or more.
        z: Of a figure in three dimensions.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    z: Axis | None = None
    rules: tuple[Rule, ...] = ()
    note: str = ""


def ends(chart: Chart, along: Literal["x", "y"]) -> tuple[float, float] | None:
    """Least and greatest value of a figure's points on one axis; None without any."""
    points = [point for series in chart.series for point in series.points]
    values = [value for p in points if (value := p.x if along == "x" else p.y) is not None]
    return (min(values), max(values)) if values else None


_DIGITS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def log_ticks(chart: Chart, along: Literal["x", "y"]) -> tuple[float, ...]:
    """Round places on a logarithmic axis, four at least: 1, 2, 5, 10, ... around its points."""
    low, high = ends(chart, along) or (1.0, 10.0)
    first, last = floor(log10(low)) - 1, ceil(log10(high))
    for digits in _DIGITS:
        places = [float(f"{d}e{k}") for k in range(first, last + 1) for d in digits]
        inside = tuple(place for place in places if low * 0.9 <= place <= high * 1.1)
        if len(inside) >= 4:
            return inside
    step = float(f"{max(high - low, 0.1 * low) / 4:.0e}")  # under an octave: evenly
    return tuple(float(f"{i * step:.6g}") for i in range(ceil(low / step), floor(high / step) + 1))


def rule_points(chart: Chart, rule: Rule) -> tuple[tuple[float, float], tuple[float, float]]:
    """Both ends of a rule, across all points of its figure."""
    low, high = ends(chart, "y" if rule.along == "x" else "x") or (0.0, 1.0)
    if rule.along == "x":
        return (rule.value, low), (rule.value, high)
    return (low, rule.value), (high, rule.value)


def error_bar(
    value: float, low: float | None, high: float | None, *, log: bool
) -> tuple[float, float] | None:
    """Lengths below and above a point; None without an interval. Above 0 where `log` is drawn."""
    if low is None or high is None:
        return None
    below = value - (max(low, value / 1000) if log else low)
    return max(below, 0.0), max(high - value, 0.0)
