"""What went on over time: the hypervolume of a search, the loss of a training."""

from kdbench.errors import KdbenchError
from kdbench.files import read_log
from kdbench.fronts import Landscape, front_at_arrival, why_unsound
from kdbench.records import WEIGHTS, TrialResult
from kdbench.report.chart import Axis, Chart, Point, Series
from kdbench.report.overview import Overview
from kdbench.report.units import duration
from kdbench.store import StoredTrial

_TERMS = ("loss", "bpp", *WEIGHTS)


def busy_s(result: TrialResult) -> float:
    """Seconds that a trial's process worked: all parts, less what it waited for others."""
    parts = dict(result.seconds)
    waiting_s = parts.pop("waiting", 0.0)
    return max(sum(parts.values()) - waiting_s, 0.0)


def trial_s(trial: StoredTrial) -> float | None:
    """Seconds of a trial as its folder tells them; None of one that left no time behind."""
    if trial.result is not None:
        return busy_s(trial.result)
    return trial.rungs[-1].seconds if trial.rungs else None


def hypervolume_chart(found: Overview) -> Chart | None:
    """Share of the final hypervolume over the seconds of all trials so far, one after another.

    Costs count by their logarithm, from a corner beyond the worst result of each objective.
    Workers have one thread, so these are CPU seconds; the order is that of the numbers.

    Raises:
        KdbenchError: A figure that is not finite, or a cost that is not above 0.
    """
    rows = found.rows
    if len(rows) < 2:
        return None
    for number, values in rows.items():
        if why := why_unsound(found.objectives, values):
            raise KdbenchError(
                f"trial {number} has {why}",
                fix="move its folder away; the rest of the study is intact",
            )
    landscape = Landscape(found.objectives, tuple(rows.values()))
    arrivals = front_at_arrival(landscape.rows)
    places = {number: i for i, number in enumerate(rows) if arrivals[i]}
    kept: list[int] = []
    points = [Point(x=0.0, y=0.0)]
    at_s, untimed = 0.0, 0
    for trial in found.trials:
        took_s = trial_s(trial)
        untimed += took_s is None
        at_s += took_s or 0.0
        if trial.number in places:
            kept.append(places[trial.number])
            share = 100 * landscape.volume_of(kept) / landscape.volume
            text = f"trial {trial.number}\n{share:.1f} % after {duration(at_s)}"
            points.append(Point(x=at_s, y=share, hover=text, trial=trial.number))
    points.append(Point(x=at_s, y=points[-1].y))
    left_out = f" {untimed} trials that left no seconds count none." if untimed else ""
    return Chart(
        name="hypervolume",
        title="Hypervolume over the seconds of the search",
        x=Axis(label="CPU time of the trials", unit="s"),
        y=Axis(label="hypervolume", unit="% of the end", low=0.0, high=105.0),
        series=(Series(name="search", kind="steps", points=tuple(points), role="front"),),
        note="Trials one after another by number, without what they waited for others; costs by "
        f"their logarithm.{left_out}",
    )


def loss_chart(trial: StoredTrial) -> Chart | None:
    """Every term of the loss over the steps of a training; None where its log is not there."""
    rows = read_log(trial.folder.log)
    models = sorted({int(row.get("model", 0)) for row in rows})
    series = []
    for place, term in enumerate(_TERMS):
        for model in models:
            own = [row for row in rows if int(row.get("model", 0)) == model]
            points = tuple(
                Point(x=row["step"], y=row[term], hover=f"step {row['step']:.0f}\n{row[term]:.4g}")
                for row in own
                if row.get(term, 0.0) > 0
            )
            if points:
                name = term.replace("_", "-") + (f", model {model}" if len(models) > 1 else "")
                series.append(
                    Series(name=name, kind="line", points=points, role="member", place=place)
                )
    if not series:
        return None
    return Chart(
        name=f"trial-{trial.number}-loss",
        title=f"Loss of trial {trial.number}",
        x=Axis(label="step"),
        y=Axis(label="loss and its terms", unit="bit/px", log=True),
        series=tuple(series),
        note=_shares(trial),
    )


def _shares(trial: StoredTrial) -> str:
    """How far it overfits, where that was looked at."""
    losses = {} if trial.result is None else trial.result.losses
    train, held_out = losses.get("train"), losses.get("validation")
    if not train or not held_out:
        return ""
    return f"Estimated at the end: {train:.3f} on training crops, {held_out:.3f} on validation's."
