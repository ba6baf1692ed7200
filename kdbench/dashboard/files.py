"""Which files of a trial the page offers: what its folder holds, and images drawn when asked."""

import threading
from functools import lru_cache, partial

from kdbench.dashboard.artifacts import Artifact, artifact
from kdbench.dashboard.strip import strip
from kdbench.report.chart import Chart
from kdbench.report.charts import trial_charts
from kdbench.report.gather import Gathered
from kdbench.store import StoredTrial

_drawing = threading.Lock()  # matplotlib's settings are the process's


def artifacts_of(whole: Gathered, trial: StoredTrial) -> list[Artifact]:
    """Of one trial: images that its page shows, then its files."""
    study, number = whole.found.study, trial.number
    drawn = []
    if trial.folder.crop.is_file():
        drawn.append(artifact(study, number, "reconstructions.png", lambda: strip(whole, trial)))
    for name in _figures(trial):
        drawn.append(artifact(study, number, f"{name}.svg", partial(_svg, whole, trial, name)))
    kept = [path for path in trial.folder.kept if path.is_file()]
    return [*drawn, *(artifact(study, number, path.name, path.read_bytes) for path in kept)]


def _figures(trial: StoredTrial) -> list[str]:
    """Names of the figures that there is something for; nothing is read for them yet."""
    names = []
    if trial.result is not None:
        names.append("rd-psnr")
        names += ["rd-ms-ssim"] if any(p.ms_ssim for p in trial.result.rd.points) else []
    return [*names, "loss"] if trial.folder.log.is_file() else names


def _svg(whole: Gathered, trial: StoredTrial, name: str) -> bytes:
    """One figure of a trial.

    Raises:
        FileNotFoundError: Its log has not a line yet.
    """
    charts = {chart.name: chart for chart in trial_charts(whole.found, trial)}
    chart = charts.get(f"trial-{trial.number}-{name}")
    if chart is None:
        raise FileNotFoundError(f"trial {trial.number} has nothing to draw for it yet")
    return _drawn(chart)


@lru_cache(maxsize=64)
def _drawn(chart: Chart) -> bytes:
    from kdbench.report.static import image

    with _drawing:
        return image(chart, "svg")
