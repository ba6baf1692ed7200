"""A front drawn in characters, for who looks at a terminal."""

from collections.abc import Callable
from math import log10
from typing import Literal

from kdbench.report.chart import Axis, Chart, Role, ends, log_ticks
from kdbench.report.charts import projection
from kdbench.report.overview import Overview
from kdbench.report.units import figure

Along = Literal["x", "y"]
ROWS, MOST_COLUMNS = 14, 90
MARGIN = 8  # columns of the figures at the left
_MARKS: dict[Role, str] = {"front": "o", "beaten": ".", "anchor": "A", "twin": "t", "codec": "c"}


def front_plot(found: Overview, width: int) -> str | None:
    """The first two objectives that results have, quality upright; None where nothing spreads."""
    chart = projection(found)
    if chart is None:
        return None
    spans = [ends(chart, "x"), ends(chart, "y")]
    if any(span is None or span[0] == span[1] for span in spans):
        return None
    return plot(chart, min(width, MOST_COLUMNS), ROWS)


def plot(chart: Chart, width: int, rows: int) -> str:
    """Points of a chart in `rows` lines of at most `width` characters, axes and legend besides."""
    columns = width - MARGIN - 4
    at_x, at_y = _scale(chart, "x", columns), _scale(chart, "y", rows)
    cells = [[" "] * (columns + 3) for _ in range(rows)]
    drawn = [series for series in chart.series if series.kind == "points" and series.points]
    placed: list[tuple[int, int, str]] = []
    for series in sorted(drawn, key=lambda each: each.role == "front"):  # the front above others
        for point in series.points:
            if point.y is not None:
                row, column = rows - 1 - at_y(point.y), at_x(point.x)
                cells[row][column] = _MARKS.get(series.role, "x")
                if series.role == "front":
                    placed.append((row, column + 1, point.label))
    for row, column, label in placed:
        if all(cell == " " for cell in cells[row][column : column + len(label) + 1]):
            cells[row][column : column + len(label)] = label
    lines = [f"{chart.y.title}"]
    labels = {rows - 1 - at_y(value): figure(value) for value in _ticks(chart, "y")}
    lines += [
        f"{labels.get(row, ''):>{MARGIN}} |{''.join(line).rstrip()}"
        for row, line in enumerate(cells)
    ]
    lines.append(" " * MARGIN + " +" + "-" * columns)
    ruler = [" "] * (columns + 8)
    for value in _ticks(chart, "x"):
        column, text = at_x(value), f"{value:g}"
        if all(cell == " " for cell in ruler[max(column - 1, 0) : column + len(text) + 1]):
            ruler[column : column + len(text)] = text
    lines += [" " * (MARGIN + 2) + "".join(ruler).rstrip(), f"{chart.x.title:>{width - 2}}"]
    names = {_MARKS.get(series.role, "x"): series.name for series in drawn}
    legend = ", ".join(f"{mark} {name}" for mark, name in names.items())
    return "\n".join([*(line.rstrip() for line in lines), legend])


def _scale(chart: Chart, along: Along, cells: int) -> Callable[[float], int]:
    """Cell of a value, from 0."""
    axis: Axis = chart.x if along == "x" else chart.y
    low, high = ends(chart, along) or (0.0, 1.0)

    def place(value: float) -> float:
        return log10(value) if axis.log else value

    span = place(high) - place(low)
    return lambda value: round((place(value) - place(low)) / span * (cells - 1))


def _ticks(chart: Chart, along: Along) -> list[float]:
    """Round places on an axis, none outside."""
    axis = chart.x if along == "x" else chart.y
    low, high = ends(chart, along) or (0.0, 1.0)
    if axis.log:
        return [tick for tick in log_ticks(chart, along) if low <= tick <= high]
    return [low + (high - low) * i / 3 for i in range(4)]
