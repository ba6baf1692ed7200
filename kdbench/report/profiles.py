"""Trials side by side: what each saves against the anchor, and which choices made it."""

from collections.abc import Callable, Mapping, Sequence
from math import log

from kdbench.report.axes import axis
from kdbench.report.chart import Axis, Chart, Point, Role, Series
from kdbench.report.overview import Overview
from kdbench.report.paper import Row, energy_change_pct
from kdbench.report.units import change_pct, percent
from kdbench.store import StoredTrial

Measure = Callable[[Row, Row], float | None]


def _of_complexity(name: str) -> Measure:
    def change(row: Row, reference: Row) -> float | None:
        return change_pct(
            getattr(row.complexity, name, None), getattr(reference.complexity, name, None)
        )

    return change


def _energy(row: Row, reference: Row) -> float | None:
    return energy_change_pct(row.energy, reference.energy)


MEASURES: Mapping[str, Measure] = {
    "parameters": _of_complexity("params"),
    "MACs": _of_complexity("kmac_per_px"),
    "decoder's MACs": _of_complexity("decoder_kmac_per_px"),
    "memory": _of_complexity("peak_memory_bytes"),
    "energy": _energy,
}


def savings_chart(found: Overview) -> Chart | None:
    """What every member of the front needs less than the anchor, in percent of the anchor's."""
    if found.anchor is None or not found.front:
        return None
    reference = Row.of_codec(found.anchor)
    rows = [Row.of_trial(number, result, ()) for number, result in found.front_results.items()]
    series = []
    for place, (name, measure) in enumerate(MEASURES.items()):
        points = tuple(
            Point(x=i, y=-change, hover=f"{row.name}\n{name} {percent(change)} %")
            for i, row in enumerate(rows)
            if (change := measure(row, reference)) is not None
        )
        if points:
            series.append(Series(name=name, kind="bars", points=points, role="member", place=place))
    if not series:
        return None
    return Chart(
        name="savings",
        title=f"What the front saves against {found.anchor_name}",
        x=Axis(label="trial", categories=tuple(str(number) for number in found.front)),
        y=Axis(label="saved", unit="% of the anchor's"),
        series=tuple(series),
        note="By ascending first objective. Below 0 a student needs more than the anchor.",
    )


# --- parallel coordinates --------------------------------------------------------------------


def parallel_chart(found: Overview) -> Chart | None:
    """Every complete trial as a line through its choices and its objectives, front above others."""
    trials = [found.by_number[number] for number in found.results]
    if len(trials) < 2:
        return None
    columns = [column for column in _columns(found, trials) if column.varies]
    if len(columns) < 2:
        return None
    groups: tuple[tuple[str, Role, bool], ...] = (
        ("other trials", "quiet", False),
        ("front", "front", True),
    )
    series = []
    for name, role, on_front in groups:
        points: list[Point] = []
        for i, trial in enumerate(trials):
            if (trial.number in found.on_front) == on_front:
                points += _line(columns, i, trial.number)
        if points:
            series.append(Series(name=name, kind="line", points=tuple(points), role=role))
    ends = [
        Point(x=x, y=y, label=text)
        for x, column in enumerate(columns)
        for y, text in zip((-0.06, 1.06), column.ends, strict=True)
    ]
    series.append(Series(name="ends", kind="text", points=tuple(ends), role="quiet"))
    return Chart(
        name="parallel",
        title="Choices and what they gave",
        x=Axis(label="", categories=tuple(column.name for column in columns)),
        y=Axis(label="from lowest to highest", low=-0.12, high=1.12),
        series=tuple(series),
        note="Each axis from its lowest value (below) to its highest; those of a wide range by "
        "their logarithm. A line is broken where a trial has no such choice.",
    )


class _Column:
    """One axis: a value or None of every trial, scaled to 0..1."""

    def __init__(self, name: str, values: Sequence[float | str | None], *, log_scale: bool) -> None:
        self.name = name
        known = [value for value in values if value is not None]
        words = sorted({value for value in known if isinstance(value, str)})
        self.varies = len(set(known)) > 1
        places: list[float | None]
        if words:
            places = [None if v is None else float(words.index(str(v))) for v in values]
            self.ends = (_short(words[0]), _short(words[-1]))
        else:
            numbers = [None if v is None else float(v) for v in values]
            inside = [v for v in numbers if v is not None]
            wide = log_scale and bool(inside) and min(inside) > 0
            places = [None if v is None else (log(v) if wide else v) for v in numbers]
            self.ends = (f"{min(inside):.3g}", f"{max(inside):.3g}") if inside else ("", "")
        reached = [place for place in places if place is not None]
        low, high = min(reached, default=0.0), max(reached, default=1.0)
        span = (high - low) or 1.0
        self.scaled = [None if place is None else (place - low) / span for place in places]


def _short(word: str) -> str:
    """`default` of `teacher:default`."""
    return word.rpartition(":")[2][:12]


def _columns(found: Overview, trials: Sequence[StoredTrial]) -> list[_Column]:
    chosen: dict[str, list[float | str | None]] = {}
    for i, trial in enumerate(trials):
        for name, value in _choices(trial).items():
            if name not in chosen:
                chosen[name] = [None] * len(trials)
            chosen[name][i] = value
    columns = [_Column(name, values, log_scale=_is_wide(values)) for name, values in chosen.items()]
    for name in found.objectives:
        values = [row[name] for row in found.objective_values.values()]
        shown = axis(name, found)
        columns.append(_Column(shown.label, values, log_scale=shown.log))
    return columns


def _is_wide(values: Sequence[float | str | None]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and value > 0]
    return bool(numbers) and max(numbers) / min(numbers) > 10


def _choices(trial: StoredTrial) -> dict[str, float | str]:
    """What a study may have left open of a student and its training."""
    spec = trial.spec
    plan = spec.distillation
    found: dict[str, float | str] = {}
    if spec.codec is not None:
        found |= spec.codec.axes
    else:
        for name, side in (("encoder", spec.encoder), ("decoder", spec.decoder)):
            found |= {
                f"{name} width": side.width,
                f"{name} kernel": side.kernel,
                f"{name} activation": side.activation,
                f"{name} layers": side.layers,
                f"{name} convolution": side.convolution,
            }
        found |= {"hyper width": spec.hyper.width, "prior": spec.hyper.prior}
        found["context"] = spec.hyper.context
        found["latent channels"] = spec.latent.channels
    found["teacher"] = plan.teacher or "none"
    found |= {f"{name} term": weight for name, weight in plan.weights.items()}
    if "entropy" in plan.weights:
        found["temperature"] = plan.temperature
    found["learning rate"] = spec.training.learning_rate
    return found


def _line(columns: Sequence[_Column], i: int, number: int) -> list[Point]:
    said = f"trial {number}"
    points = [
        Point(x=x, y=column.scaled[i], hover=said, trial=number) for x, column in enumerate(columns)
    ]
    return [*points, Point(x=len(columns) - 1, y=None)]
