"""Figures on paper: `Chart` -> SVG, PNG or PDF by matplotlib, the same bytes for the same chart.

On white; words are taken as they stand (`$` begins no formula).
"""

from functools import cache
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from kdbench.report.chart import (
    Axis,
    Chart,
    Format,
    Point,
    Series,
    error_bar,
    log_ticks,
    rule_points,
)
from kdbench.report.palette import WHITE, Dash, Shape, look, look_of

SIZE_IN = (7.2, 4.4)
PNG_DPI = 110
LEGEND_COLUMNS = 4
SLANTED_LETTER = 0.008  # of the figure's height
MAX_LABELS = 30  # beyond which labels beside points would cover one another
_STYLE = {
    "text.parse_math": False,
    "svg.hashsalt": "kdbench",  # else ids are random
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
}
_UNDATED: dict[Format, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_MARKERS: dict[Shape, str] = {
    "circle": "o",
    "cross": "x",
    "star": "*",
    "diamond": "D",
    "square": "s",
    "triangle": "^",
    "down": "v",
    "plus": "P",
}
_LINES: dict[Dash, str] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_HATCHES = ("", "///", "xxx", "---", "...", "+++", "\\\\\\", "|||")


def image(chart: Chart, kind: Format) -> bytes:
    """A file of the figure; of three dimensions the first two, on which a still picture is read."""
    with rc_context(_STYLE):
        figure = Figure(figsize=SIZE_IN, facecolor=WHITE)
        _draw(figure, chart)
        file = BytesIO()
        figure.savefig(file, format=kind, dpi=PNG_DPI, metadata=_UNDATED[kind])
    return file.getvalue()


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _written(text: str) -> str:
    """Words that the font has; any other character by its number, [U+4E2D]."""
    return "".join(c if ord(c) in _glyphs() or c == "\n" else f"[U+{ord(c):04X}]" for c in text)


def _draw(figure: Figure, chart: Chart) -> None:
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    n_bars = sum(series.kind == "bars" for series in chart.series)
    for series in chart.series:
        if series.kind == "bars":
            _bars(axes, series, n_bars)
        elif series.kind == "text":
            _words(axes, series)
        else:
            _marks(axes, chart, series)
    for rule in chart.rules:
        drawn = look(rule.role, rule.place)
        (x0, y0), (x1, y1) = rule_points(chart, rule)
        line = _LINES[drawn.dash]
        axes.plot(
            [x0, x1],
            [y0, y1],
            color=drawn.colour,
            linestyle=line,
            label=_written(rule.label),
            lw=1.2,
        )
    _set_axis(axes, "x", chart.x, log_ticks(chart, "x") if chart.x.log else ())
    _set_axis(axes, "y", chart.y, log_ticks(chart, "y") if chart.y.log else ())
    axes.set_title(_written(chart.title))
    _legend(figure, axes)


def _words(axes: Any, series: Series) -> None:
    for point in series.points:
        axes.text(point.x, point.y, _written(point.label), ha="center", va="center", fontsize=6)


def _legend(figure: Figure, axes: Any) -> None:
    """Below the axes; margins are set by hand: matplotlib would draw everything twice for them."""
    handles, labels = axes.get_legend_handles_labels()
    n_rows = -(-len(handles) // LEGEND_COLUMNS) if len(handles) > 1 else 0
    slanted = [len(tick.get_text()) for tick in axes.get_xticklabels() if tick.get_rotation()]
    below = 0.12 + SLANTED_LETTER * max(slanted, default=0) + 0.05 * n_rows
    figure.subplots_adjust(left=0.1, right=0.97, top=0.93, bottom=min(below, 0.6))
    if n_rows:
        figure.legend(
            handles,
            labels,
            loc="lower center",
            ncols=LEGEND_COLUMNS,
            frameon=False,
            fontsize=8,
        )


def _set_axis(axes: Any, name: str, axis: Axis, ticks: tuple[float, ...]) -> None:
    """Title, scale, ends and names of one axis."""
    getattr(axes, f"set_{name}label")(_written(axis.title))
    if axis.log:
        getattr(axes, f"set_{name}scale")("log")
        getattr(axes, f"set_{name}ticks")(ticks, [f"{tick:g}" for tick in ticks])
        getattr(axes, f"set_{name}ticks")([], minor=True)
    if axis.categories:
        names, places = list(map(_written, axis.categories)), range(len(axis.categories))
        slanted = sum(map(len, names)) > 60
        kind = {"rotation": 40, "ha": "right"} if slanted and name == "x" else {}
        getattr(axes, f"set_{name}ticks")(list(places), names, fontsize=7, **kind)
    if axis.low is not None and axis.high is not None:
        getattr(axes, f"set_{name}lim")(axis.low, axis.high)


def _bars(axes: Any, series: Series, n_bars: int) -> None:
    """As one collection: a patch a bar takes twice as long."""
    width = 0.8 / n_bars
    corners = []
    for point in series.points:
        left, top = point.x + (series.place - n_bars / 2) * width, point.y or 0.0
        corners.append([(left, 0.0), (left, top), (left + width, top), (left + width, 0.0)])
    bars = PolyCollection(
        corners,
        facecolors=look_of(series).colour,
        edgecolors=WHITE,
        hatch=_HATCHES[series.place % len(_HATCHES)],
        label=_written(series.name),
        linewidths=0.4,
    )
    bars.sticky_edges.y.append(0.0)
    axes.add_collection(bars)
    axes.autoscale_view()


def _marks(axes: Any, chart: Chart, series: Series) -> None:
    drawn, points = look_of(series), series.points
    x = [point.x for point in points]
    y = [float("nan") if point.y is None else point.y for point in points]
    if series.kind == "points":
        axes.errorbar(
            x,
            y,
            xerr=_errors(points, "x", log=chart.x.log),
            yerr=_errors(points, "y", log=chart.y.log),
            fmt=_MARKERS[drawn.shape],
            color=drawn.colour,
            markersize=drawn.size_px * 0.7,
            elinewidth=0.8,
            capsize=2,
            label=_written(series.name),
        )
        if len(points) <= MAX_LABELS:
            for point in points:
                if point.label and point.y is not None:
                    axes.annotate(
                        _written(point.label),
                        (point.x, point.y),
                        xytext=(4, 4) if series.role == "front" else (-4, -4),
                        ha="left" if series.role == "front" else "right",
                        va="bottom" if series.role == "front" else "top",
                        textcoords="offset points",
                        fontsize=7,
                    )
        return
    axes.plot(
        x,
        y,
        color=drawn.colour,
        linestyle=_LINES[drawn.dash],
        drawstyle="steps-post" if series.kind == "steps" else "default",
        marker=_MARKERS[drawn.shape] if series.with_points else "",
        markersize=drawn.size_px * 0.6,
        linewidth=1.2,
        alpha=0.45 if series.role == "quiet" else 1.0,
        label=_written(series.name),
    )


def _errors(points: tuple[Point, ...], along: str, *, log: bool) -> list[list[float]] | None:
    """Lengths below and above; of a point without an interval there is nothing to see."""
    pairs = []
    for point in points:
        value = point.x if along == "x" else point.y
        low, high = getattr(point, f"{along}_low"), getattr(point, f"{along}_high")
        pairs.append(None if value is None else error_bar(value, low, high, log=log))
    if not any(pairs):
        return None
    nan = float("nan")
    return [[nan if pair is None else pair[i] for pair in pairs] for i in (0, 1)]
