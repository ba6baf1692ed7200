"""Which files of a trial the page offers: what its folder holds, and images drawn when asked."""

import threading
from collections.abc import Callable
from functools import lru_cache

from kdbench.dashboard.artifacts import Artifact, artifact
from kdbench.dashboard.strip import strip
from kdbench.report.chart import Chart
from kdbench.report.charts import trial_charts
from kdbench.report.gather import Gathered
from kdbench.store import StoredTrial

_drawing = threading.Lock()  # matplotlib's settings are the process's


def artifacts_of(whole: Gathered, trial: StoredTrial) -> list[Artifact]:
    """Of one trial: images that its page shows, then its files."""
    found, number = whole.found, trial.number
    study = found.study
    drawn = [
        artifact(study, number, f"{chart.name.removeprefix(f'trial-{number}-')}.svg", _svg(chart))
        for chart in trial_charts(found, trial)
    ]
    if trial.folder.crop.is_file():
        drawn.append(artifact(study, number, "reconstructions.png", lambda: strip(whole, trial)))
    kept = [path for path in trial.folder.kept if path.is_file()]
    return [*drawn, *(artifact(study, number, path.name, path.read_bytes) for path in kept)]


def _svg(chart: Chart) -> Callable[[], bytes]:
    return lambda: _drawn(chart)


@lru_cache(maxsize=64)
def _drawn(chart: Chart) -> bytes:
    from kdbench.report.static import image

    with _drawing:
        return image(chart, "svg")
