"""Figures of the study page, made by `report`; which choice matters needs Optuna and is its own."""

import optuna
from optuna.trial import TrialState
from optuna_dashboard import save_plotly_graph_object
from plotly.graph_objects import Figure

from kdbench.report.overview import Overview

IMPORTANCE = "importance"
ENOUGH = 4  # complete trials, under which importances are noise, and may not exist


def draw(study: optuna.Study, found: Overview) -> tuple[str, ...]:
    """Puts every figure that can be drawn on the page of `study`; their ids, in order."""
    drawn: dict[str, Figure] = {}
    if (figure := importance(study)) is not None:
        drawn[IMPORTANCE] = figure
    for name, figure in drawn.items():
        save_plotly_graph_object(study, figure, graph_object_id=name)
    return tuple(drawn)


def importance(study: optuna.Study) -> Figure | None:
    """Which choice matters for which objective (Optuna's PED-ANOVA); None of too few trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < ENOUGH:
        return None
    figure = optuna.visualization.plot_param_importances(study)
    figure.update_layout(title="Which choice matters")
    return figure
