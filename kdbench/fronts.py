"""Which rows nothing beats, and the volume that they dominate; every column is minimised."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kdbench.errors import KdbenchError
from kdbench.objectives import QUALITIES

MARGIN = 0.1  # of an axis's range, from its worst row to the corner: the ends of a front count

Rows = Sequence[Sequence[float]]
Array = npt.NDArray[np.float64]


def non_dominated(values: Rows) -> list[bool]:
    """Whether each row is on the Pareto front.

    A row is off the front when another is no worse anywhere and better somewhere; equal rows stay
    on it together.

    Raises:
        KdbenchError: A value is NaN, which nothing would dominate.
    """
    return _unbeaten(_beats(values))


def front_at_arrival(values: Rows) -> list[bool]:
    """Whether each row is on the Pareto front of the rows up to it.

    Raises:
        KdbenchError: A value is NaN.
    """
    return _unbeaten(np.triu(_beats(values)))


def _unbeaten(beats: npt.NDArray[np.bool_]) -> list[bool]:
    found: list[bool] = (~beats.any(axis=0)).tolist()
    return found


def _beats(values: Rows) -> npt.NDArray[np.bool_]:
    """Whether the row at the first index dominates that at the second."""
    rows = without_nan(values)
    no_worse = np.ones((len(rows), len(rows)), dtype=bool)
    better = np.zeros_like(no_worse)
    for column in rows.T if rows.size else ():  # several times faster than along a short last axis
        no_worse &= column[:, None] <= column
        better |= column[:, None] < column
    beats: npt.NDArray[np.bool_] = no_worse & better
    return beats


def hypervolume(points: Rows, reference: Sequence[float]) -> float:
    """Volume that the points dominate below `reference`.

    Exact. In two and three dimensions by a sweep, which costs little more than sorting; one power
    of n more for each further one. A point that is not better than `reference` on every axis adds
    nothing.

    Raises:
        KdbenchError: A value is NaN.
    """
    rows = without_nan(points).reshape(len(points), len(reference))
    corner = without_nan([reference])[0]
    inside = rows[(rows < corner).all(axis=1)]
    return _volume(inside, corner) if np.isfinite(inside).all() else np.inf


def _volume(points: Array, corner: Array) -> float:
    """Hypervolume of points that are all below `corner`."""
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=corner[-1])
    if points.shape[1] == 2:
        return float(thickness @ (corner[0] - np.minimum.accumulate(points[:, 0])))
    if points.shape[1] == 3:
        return float(thickness @ _areas(points[:, :2].tolist(), *corner[:2].tolist()))
    return sum(
        float(thick) * _volume(points[: i + 1, :-1], corner[:-1])
        for i, thick in enumerate(thickness)
        if thick > 0
    )


def _areas(points: list[list[float]], right: float, top: float) -> list[float]:
    """Area that the first 1, 2, ... of `points` dominate below (`right`, `top`)."""
    xs, ys = [float("-inf"), right], [top, float("-inf")]  # stairs, between what bounds them
    area, areas = 0.0, []
    for x, y in points:
        first = last = bisect_left(xs, x)
        if y < ys[first - 1]:
            left, height = x, ys[first - 1]
            while ys[last] >= y:  # steps that the new one covers
                area += (xs[last] - left) * (height - y)
                left, height = xs[last], ys[last]
                last += 1
            area += (xs[last] - left) * (height - y)
            xs[first:last], ys[first:last] = [x], [y]
        areas.append(area)
    return areas


def why_unsound(objectives: Sequence[str], row: Sequence[float]) -> str | None:
    """What keeps a row out of a `Landscape`; None of a sound one."""
    if not all(map(math.isfinite, row)):
        return "a figure that is no number"
    costs = (v for name, v in zip(objectives, row, strict=True) if name not in QUALITIES)
    return "a cost that is not above 0" if any(value <= 0 for value in costs) else None


@dataclass(frozen=True)
class Landscape:
    """All rows that volumes of some of them are compared with; costs count by their logarithm.

    Attributes:
        objectives: Names of the columns.
        rows: One at least, all sound.
    """

    objectives: tuple[str, ...]
    rows: Rows

    @cached_property
    def volume(self) -> float:
        """Hypervolume of all rows."""
        return self.volume_of(range(len(self.rows)))

    @cached_property
    def corner(self) -> tuple[float, ...]:
        """Where hypervolumes are measured from: beyond the worst row of each axis, fixed."""
        low, high = self._points.min(axis=0), self._points.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        return tuple((high + MARGIN * span).tolist())

    def volume_of(self, places: Sequence[int]) -> float:
        """Hypervolume of the rows at these places."""
        return _volume(self._points[list(places)], np.array(self.corner))

    @cached_property
    def _points(self) -> Array:
        columns = np.array(self.rows, dtype=np.float64).T
        return np.array(
            [
                column if name in QUALITIES else np.log(column)
                for name, column in zip(self.objectives, columns, strict=True)
            ]
        ).T


def without_nan(values: Rows) -> Array:
    """`values` as rows, fp64.

    Raises:
        KdbenchError: One of them is NaN, which compares with nothing.
    """
    rows = np.asarray(values, dtype=np.float64)
    if np.isnan(rows).any():
        row = int(np.argwhere(np.isnan(rows))[0, 0])
        raise KdbenchError(
            f"row {row} of the objectives has no number: {list(values[row])}",
            fix="leave trials without values out of the front",
        )
    return rows
