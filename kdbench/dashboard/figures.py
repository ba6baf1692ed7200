"""The figures of the study page: those of `report`, and which choice matters."""

import textwrap
from collections.abc import Sequence

import optuna
from optuna_dashboard import save_plotly_graph_object
from plotly.graph_objects import Figure

from kdbench.dashboard.importance import importance_chart
from kdbench.report.chart import Chart
from kdbench.report.charts import study_charts
from kdbench.report.interactive import INK, plotly_figure
from kdbench.report.overview import Overview
from kdbench.report.paper import Row

FRAME_PX = 450  # what the page gives a figure
NOTE_COLUMNS = 95
NOTE_LINE_PX = 13
TITLE_PX = 18
LEGEND_PX = 22
BAR_PX = 40  # plotly's own buttons, upright beside the figure
EYE = {"x": 2.0, "y": 2.0, "z": 1.0}  # far enough to see the ends of the axes


def draw(study: optuna.Study, found: Overview, codecs: Sequence[Row]) -> tuple[str, ...]:
    """Puts every figure that there is something for on the page of `study`; their ids, in order.

    Args:
        study: In memory.
        found: The same from its folders.
        codecs: Others, measured as it was.
    """
    chosen = importance_chart(study)
    charts = [*study_charts(found, codecs), *([] if chosen is None else [chosen])]
    for chart in charts:
        save_plotly_graph_object(study, framed(chart), graph_object_id=chart.name)
    return tuple(chart.name for chart in charts)


def framed(chart: Chart) -> Figure:
    """A chart in the page's frame, its note below its title."""
    figure = plotly_figure(chart)
    lines = textwrap.wrap(chart.note, NOTE_COLUMNS)
    title = figure.layout.title.text + "".join(f"<br><sup>{line}</sup>" for line in lines)
    top = figure.layout.margin.t + NOTE_LINE_PX * len(lines)
    figure.update_layout(
        height=FRAME_PX,
        title={
            "text": title,
            "xref": "container",
            "x": 0.01,
            "xanchor": "left",
            "yref": "container",
            "y": 1.0,
            "yanchor": "top",
            "pad": {"t": TITLE_PX},
        },
        margin={"t": top, "r": BAR_PX},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "orientation": "v"},
    )
    if chart.x.categories:  # their names take the room below
        figure.update_layout(
            margin={"t": top + LEGEND_PX},
            legend={"yref": "paper", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        )
    if chart.z is not None:
        figure.update_layout(scene={"camera": {"eye": EYE}, "aspectmode": "cube"})
    return figure
