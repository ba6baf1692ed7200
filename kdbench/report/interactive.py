"""Figures that answer to a pointer: `Chart` -> plotly. Words are escaped: it reads HTML in them.

Background is left to the page; text and grid are of a grey that is read on white and on dark.
"""

from html import escape
from math import log10

import plotly.graph_objects as go

from kdbench.report.chart import Axis, Chart, Point, Series, error_bar, rule_points
from kdbench.report.palette import Dash, Look, Shape, look, look_of

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
    "cross": "x",
    "star": "diamond-open",
    "diamond": "diamond",
    "square": "square",
    "triangle": "circle-open",
    "down": "square-open",
    "plus": "cross",
}
_DASHES: dict[Dash, str] = {"solid": "solid", "dash": "dash", "dot": "dot", "dashdot": "dashdot"}
_PATTERNS = ("", "/", "x", "-", ".", "+", "\\", "|")


def plotly_figure(chart: Chart) -> go.Figure:
    """The figure of a chart; `fig.to_json()` and `fig.write_html()` need nothing else."""
    if chart.z is not None:
        return _solid(chart)
    traces = [trace for series in chart.series for trace in _traces(chart, series)]
    traces += [
        go.Scatter(
            x=[x for x, _ in rule_points(chart, rule)],
            y=[y for _, y in rule_points(chart, rule)],
            mode="lines",
            name=_words(rule.label),
            hovertext=_words(rule.label),
            hoverinfo="text",
            line=_line(look(rule.role, rule.place)),
        )
        for rule in chart.rules
    ]
    figure = go.Figure(traces)
    figure.update_layout(
        **_layout(chart, HEIGHT_PX),
        xaxis=_axis(chart.x),
        yaxis=_axis(chart.y),
        barmode="group",
        hovermode="closest",
    )
    return figure


def _words(text: str) -> str:
    """Plain text as plotly reads it."""
    return escape(text, quote=False).replace("\n", "<br>")


def _layout(chart: Chart, height_px: int) -> dict[str, object]:
    return {
        "title": {"text": _words(chart.title), "font": {"size": 15}},
        "height": height_px,
        "margin": {"l": 60, "r": 16, "t": 44, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 12},
        "legend": {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
        "template": "none",
    }


def _axis(axis: Axis) -> dict[str, object]:
    found: dict[str, object] = {
        "title": {"text": _words(axis.title)},
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "automargin": True,
    }
    if axis.log:
        found |= {"type": "log", "dtick": "D2"}
    if axis.categories:
        names = [_words(name) for name in axis.categories]
        found |= {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}
    if axis.low is not None and axis.high is not None:
        ends = (axis.low, axis.high)
        found["range"] = [log10(end) if axis.log else end for end in ends]
    return found


# --- series ----------------------------------------------------------------------------------


def _traces(chart: Chart, series: Series) -> list[go.Scatter | go.Bar]:
    drawn, points = look_of(series), series.points
    common = {
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "name": _words(series.name),
        "hovertext": [_words(point.hover or series.name) for point in points],
        "hoverinfo": "text",
        "customdata": [point.trial for point in points],
    }
    if series.kind == "bars":
        pattern = {"shape": _PATTERNS[series.place % len(_PATTERNS)], "solidity": 0.25}
        return [go.Bar(**common, marker={"color": drawn.colour, "pattern": pattern})]
    if series.kind == "text":
        plain = common | {"hoverinfo": "skip"}
        text = [_words(point.label) for point in points]
        return [go.Scatter(**plain, mode="text", text=text, showlegend=False)]
    if series.kind == "points":
        labels = [_words(point.label) for point in points]
        written = any(labels) and len(labels) <= MAX_LABELS
        return [
            go.Scatter(
                **common,
                mode="markers+text" if written else "markers",
                text=labels,
                textposition="top right",
                marker=_marker(drawn),
                error_x=_bars(points, "x", drawn, log=chart.x.log),
                error_y=_bars(points, "y", drawn, log=chart.y.log),
            )
        ]
    steps = {"shape": "hv"} if series.kind == "steps" else {}
    return [
        go.Scatter(
            **common,
            mode="lines+markers" if series.with_points else "lines",
            line=_line(drawn) | steps,
            marker=_marker(drawn),
            connectgaps=False,
            opacity=0.45 if series.role == "quiet" else 1.0,
        )
    ]


def _marker(drawn: Look) -> dict[str, object]:
    return {"color": drawn.colour, "symbol": _SYMBOLS[drawn.shape], "size": drawn.size_px}


def _line(drawn: Look) -> dict[str, object]:
    return {"color": drawn.colour, "dash": _DASHES[drawn.dash], "width": 1.8}


def _bars(
    points: tuple[Point, ...], along: str, drawn: Look, *, log: bool
) -> dict[str, object] | None:
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


def _solid(chart: Chart) -> go.Figure:
    assert chart.z is not None
    traces = [
        go.Scatter3d(
            x=[point.x for point in series.points],
            y=[point.y for point in series.points],
            z=[point.z for point in series.points],
            name=_words(series.name),
            hovertext=[_words(point.hover or series.name) for point in series.points],
            hoverinfo="text",
            customdata=[point.trial for point in series.points],
            mode="markers",
            marker={
                "color": look_of(series).colour,
                "symbol": _SOLID_SYMBOLS[look_of(series).shape],
                "size": max(look_of(series).size_px // 2, 3),
            },
        )
        for series in chart.series
    ]
    figure = go.Figure(traces)
    axes = {"xaxis": chart.x, "yaxis": chart.y, "zaxis": chart.z}
    scene = {name: _axis(axis) | {"showbackground": False} for name, axis in axes.items()}
    for found in scene.values():
        found.pop("automargin")
    figure.update_layout(**_layout(chart, TALL_PX), scene=scene)
    return figure
