"""Where the rows of a table lie on its axes, and which is nearest to what a sampler suggests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdbench.parameters import FloatRange, Parameter
from kdbench.tabular import Table

Floats = npt.NDArray[np.float64]


class Places:
    """Where rows lie on the axes of a table, each from 0 to 1."""

    def __init__(self, table: Table) -> None:
        self._axes = {name: axis for name, axis in table.axes.items() if not axis.fixed}
        self._named = np.array([_is_named(axis) for axis in self._axes.values()], dtype=bool)
        self._rows = np.array([self._place(row.params) for row in table.rows])

    def nearest(self, params: Mapping[str, Any], among: Sequence[int]) -> int:
        """Which of `among` differs least from `params`, mean over the axes that the row has."""
        if not self._axes:
            return among[0]
        rows = self._rows[among]
        apart: Floats = np.abs(rows - np.array(self._place(params)))
        apart = np.where(self._named, np.where(apart > 0, 1.0, apart), apart)
        has = ~np.isnan(rows)
        distance = np.where(has, apart, 0.0).sum(axis=1) / np.maximum(has.sum(axis=1), 1)
        return among[int(distance.argmin())]

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        return [
            _position(axis, params[name]) if name in params else float("nan")
            for name, axis in self._axes.items()
        ]


def _is_named(axis: Parameter) -> bool:
    return not isinstance(axis, FloatRange) and isinstance(axis.values[0], str | bool)


def _position(axis: Parameter, value: Any) -> float:
    """From 0 to 1: a number of a range by its size, one of a list by its rank."""
    if isinstance(axis, FloatRange):
        low, high, here = axis.low, axis.high, float(value)
        if axis.log:
            low, high, here = (float(np.log(each)) for each in (low, high, here))
        return (here - low) / (high - low)
    ranked = axis.values if _is_named(axis) else sorted(axis.values)
    return ranked.index(value) / (len(ranked) - 1)
