"""Figures that answer to a pointer: `Chart` -> plotly. Words are escaped: it reads HTML in them.

Background is left to the page; text and grid are of a grey that is read on white and on dark.
"""

from html import escape
from math import log10
from typing import TYPE_CHECKING, Any

from kdbench.report.chart import Axis, Chart, Point, Series, error_bar, log_ticks, rule_points
from kdbench.report.palette import Dash, Look, Shape, look, look_of

if TYPE_CHECKING:  # who makes a page needs its JavaScript alone
    import plotly.graph_objects as go

Json = dict[str, Any]
INK = "#7A7A7A"  # 4.3:1 on the white page, 4.2:1 on the dark one
GRID = "rgba(127,127,127,0.22)"
HEIGHT_PX, TALL_PX = 430, 560
MAX_LABELS = 30  # beyond which labels beside points would cover one another
_SYMBOLS: dict[Shape, str] = {
    "circle": "circle",
    "cross": "x",
    "star": "star",
    "diamond": "diamond",
    "square": "square",
    "triangle": "triangle-up",
    "down": "triangle-down",
    "plus": "cross",
}
_SOLID_SYMBOLS: dict[Shape, str] = {  # of three dimensions, where plotly has fewer
    "circle": "circle",
    "cross": "square",
    "star": "diamond",
    "diamond": "circle-open",
    "square": "square-open",
    "triangle": "diamond-open",
    "down": "square-open",
    "plus": "circle-open",
}
_DASHES: dict[Dash, str] = {"solid": "solid", "dash": "dash", "dot": "dot", "dashdot": "dashdot"}
_PATTERNS = ("", "/", "x", "-", ".", "+", "\\", "|")


def plotly_figure(chart: Chart) -> "go.Figure":
    """The figure of a chart."""
    import plotly.graph_objects as go

    return go.Figure(figure_json(chart))


def figure_json(chart: Chart) -> Json:
    """What plotly.js is given, `data` and `layout`; makes no use of the package plotly."""
    if chart.z is not None:
        return _solid(chart, chart.z)
    traces = [trace for series in chart.series for trace in _traces(chart, series)]
    traces += [
        {
            "type": "scatter",
            "x": [x for x, _ in rule_points(chart, rule)],
            "y": [y for _, y in rule_points(chart, rule)],
            "mode": "lines",
            "name": _words(rule.label),
            "hovertext": _words(rule.label),
            "hoverinfo": "text",
            "line": _line(look(rule.role, rule.place)),
        }
        for rule in chart.rules
    ]
    layout = _layout(chart, HEIGHT_PX) | {
        "xaxis": _axis(chart.x, log_ticks(chart, "x") if chart.x.log else ()),
        "yaxis": _axis(chart.y, log_ticks(chart, "y") if chart.y.log else ()),
        "barmode": "group",
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout}


def _words(text: str) -> str:
    """Plain text as plotly reads it: HTML, and formulas between two `$`."""
    return escape(text, quote=False).replace("$", "&#36;").replace("\n", "<br>")


def _layout(chart: Chart, height_px: int) -> Json:
    return {
        "title": {"text": _words(chart.title), "font": {"size": 15}},
        "height": height_px,
        "margin": {"l": 60, "r": 16, "t": 44, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": INK},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
    }


def _axis(axis: Axis, ticks: tuple[float, ...] = ()) -> Json:
    found: Json = {
        "title": {"text": _words(axis.title)},
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "automargin": True,
    }
    if axis.log:
        found["type"] = "log"
    if ticks:
        names = [f"{tick:g}" for tick in ticks]
        found |= {"tickmode": "array", "tickvals": list(ticks), "ticktext": names}
    if axis.categories:
        names = [_words(name) for name in axis.categories]
        found |= {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}
    if axis.low is not None and axis.high is not None:
        ends = (axis.low, axis.high)
        found["range"] = [log10(end) if axis.log else end for end in ends]
    return found


# --- series ----------------------------------------------------------------------------------


def _traces(chart: Chart, series: Series) -> list[Json]:
    drawn, points = look_of(series), series.points
    common: Json = {
        "type": "scatter",
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "name": _words(series.name),
        "hovertext": [_words(point.hover or series.name) for point in points],
        "hoverinfo": "text",
        "customdata": [point.trial for point in points],
    }
    if series.kind == "bars":
        shape = _PATTERNS[series.place % len(_PATTERNS)]
        pattern = {"shape": shape, "fillmode": "overlay", "solidity": 0.2, "size": 6}
        return [common | {"type": "bar", "marker": {"color": drawn.colour, "pattern": pattern}}]
    labels = [_words(point.label) for point in points]
    if series.kind == "text":
        return [common | {"hoverinfo": "skip", "mode": "text", "text": labels, "showlegend": False}]
    if series.kind == "points":
        written = any(labels) and len(labels) <= MAX_LABELS
        own: Json = {
            "mode": "markers+text" if written else "markers",
            "text": labels,
            "textposition": "top right" if series.role == "front" else "bottom left",
            "cliponaxis": False,
            "marker": _marker(drawn),
        }
        for along, axis in (("x", chart.x), ("y", chart.y)):
            bars = _bars(points, along, drawn, log=axis.log)
            own |= {} if bars is None else {f"error_{along}": bars}
        return [common | own]
    steps = {"shape": "hv"} if series.kind == "steps" else {}
    return [
        common
        | {
            "mode": "lines+markers" if series.with_points else "lines",
            "line": _line(drawn) | steps,
            "marker": _marker(drawn),
            "connectgaps": False,
            "opacity": 0.45 if series.role == "quiet" else 1.0,
        }
    ]


def _marker(drawn: Look) -> Json:
    return {"color": drawn.colour, "symbol": _SYMBOLS[drawn.shape], "size": drawn.size_px}


def _line(drawn: Look) -> Json:
    return {"color": drawn.colour, "dash": _DASHES[drawn.dash], "width": 1.8}


def _bars(points: tuple[Point, ...], along: str, drawn: Look, *, log: bool) -> Json | None:
    """Error bars; None where no point has an interval."""
    lengths = []
    for point in points:
        value = point.x if along == "x" else point.y
        low, high = getattr(point, f"{along}_low"), getattr(point, f"{along}_high")
        lengths.append(None if value is None else error_bar(value, low, high, log=log))
    if not any(lengths):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [None if pair is None else pair[1] for pair in lengths],
        "arrayminus": [None if pair is None else pair[0] for pair in lengths],
        "color": drawn.colour,
        "thickness": 1,
        "width": 3,
    }


# --- three dimensions ------------------------------------------------------------------------


def _solid(chart: Chart, z_axis: Axis) -> Json:
    traces = [
        {
            "type": "scatter3d",
            "x": [point.x for point in series.points],
            "y": [point.y for point in series.points],
            "z": [point.z for point in series.points],
            "name": _words(series.name),
            "hovertext": [_words(point.hover or series.name) for point in series.points],
            "hoverinfo": "text",
            "customdata": [point.trial for point in series.points],
            "mode": "markers",
            "marker": {
                "color": look_of(series).colour,
                "symbol": _SOLID_SYMBOLS[look_of(series).shape],
                "size": max(look_of(series).size_px // 2, 3),
            },
        }
        for series in chart.series
    ]
    axes = {"xaxis": chart.x, "yaxis": chart.y, "zaxis": z_axis}
    scene: Json = {name: _axis(axis) | {"showbackground": False} for name, axis in axes.items()}
    for found in scene.values():
        found.pop("automargin")
    scene |= {"camera": {"eye": {"x": 1.5, "y": -1.7, "z": 0.8}}, "aspectmode": "cube"}
    layout = _layout(chart, TALL_PX) | {"scene": scene, "margin": {"l": 0, "r": 0, "t": 44, "b": 0}}
    return {"data": traces, "layout": layout | {"legend": {"orientation": "h", "y": 0.0}}}
