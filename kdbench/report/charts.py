"""A study as figures: its front, its curves, what it saves, how the search went on.

Each function is pure and gives a `Chart`, or None where the study has nothing to draw in it.
`study_charts` are those of a study's page, `trial_charts` those of one trial.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import log10

from kdbench.fronts import non_dominated
from kdbench.objectives import OBJECTIVES, QUALITIES
from kdbench.records import BDRate, RDCurve, RDPoint, TrialResult
from kdbench.report.axes import (
    UNKNOWN_INTERVAL,
    Interval,
    axis,
    codec_value,
    energy_interval,
    hover,
    interval,
)
from kdbench.report.chart import Axis, Chart, Point, Role, Rule, Series
from kdbench.report.courses import hypervolume_chart, loss_chart
from kdbench.report.overview import Overview
from kdbench.report.paper import Row
from kdbench.report.profiles import parallel_chart, savings_chart
from kdbench.report.units import figure, percent
from kdbench.store import StoredTrial

__all__ = [
    "NOTHING_SAID",
    "energy_chart",
    "front_3d",
    "front_charts",
    "hovers",
    "hypervolume_chart",
    "loss_chart",
    "parallel_chart",
    "rd_charts",
    "savings_chart",
    "study_charts",
    "trial_charts",
]
MARKS: tuple[Role, ...] = ("anchor", "codec")  # what is no trial
Spread = Callable[[str, TrialResult], Interval]
Quality = Callable[[RDPoint], float | None]
NOTHING_SAID: Mapping[int, str] = {}
MANY = 60  # complete trials beyond which the front alone has bars
MS_SSIM_DB_MAX = 60.0  # of 1 - MS-SSIM, where a float tells no more


def study_charts(found: Overview, codecs: Sequence[Row] = ()) -> tuple[Chart, ...]:
    """Every figure that a study has something for, in the order of its page.

    Args:
        found: The study.
        codecs: Others that were measured on the same photos with the same anchor.
    """
    said = hovers(found)
    charts = [
        *front_charts(found, codecs, said),
        front_3d(found, codecs, said),
        *rd_charts(found, codecs),
        savings_chart(found),
        energy_chart(found, codecs, said),
        hypervolume_chart(found),
        parallel_chart(found),
    ]
    return tuple(chart for chart in charts if chart is not None)


def trial_charts(found: Overview, trial: StoredTrial) -> tuple[Chart, ...]:
    """Of one trial: its curves against the anchor's, and its loss, where it has them."""
    charts = [*_rd_charts(found, [trial], (), f"trial-{trial.number}-"), loss_chart(trial)]
    return tuple(chart for chart in charts if chart is not None)


# --- the front -------------------------------------------------------------------------------


def hovers(found: Overview) -> dict[int, str]:
    """What is said of each trial, by its number: written once for all the figures that say it."""
    return {number: hover(found, found.by_number[number]) for number in found.results}


def front_charts(
    found: Overview, codecs: Sequence[Row] = (), said: Mapping[int, str] | None = None
) -> tuple[Chart, ...]:
    """One figure for each pair of objectives that results have; quality upright, costs along.

    Args:
        found: The study.
        codecs: Reference marks.
        said: What `hovers` says, if others say it, too; on paper nothing.
    """
    said = hovers(found) if said is None else said
    return tuple(_projection(found, pair, codecs, interval, said) for pair in _pairs(found))


def projection(found: Overview) -> Chart | None:
    """The first of `front_charts`, without intervals: they would cost a terminal its quick start.

    None where results have fewer than two objectives.
    """
    pairs = _pairs(found)
    if not pairs:
        return None
    return _projection(found, pairs[0], (), lambda *_: UNKNOWN_INTERVAL, NOTHING_SAID)


def _pairs(found: Overview) -> list[tuple[str, str]]:
    """Objectives two by two, along and upright."""
    return [
        (b, a) if a in QUALITIES and b not in QUALITIES else (a, b)
        for a, b in combinations(_measured_objectives(found), 2)
    ]


def front_3d(
    found: Overview, codecs: Sequence[Row] = (), said: Mapping[int, str] | None = None
) -> Chart | None:
    """The first three objectives at once."""
    known = _measured_objectives(found)[:3]
    if len(known) < 3:
        return None
    z, x, y = known if known[0] in QUALITIES else (known[2], known[0], known[1])
    series = [
        *_trial_series(found, (x, y, z), hovers(found) if said is None else said),
        *_marks(found, (x, y, z), codecs),
    ]
    return Chart(
        name="front-3d",
        title="The front in three dimensions",
        x=axis(x, found),
        y=axis(y, found),
        z=axis(z, found),
        series=tuple(series),
    )


def energy_chart(
    found: Overview, codecs: Sequence[Row] = (), said: Mapping[int, str] | None = None
) -> Chart | None:
    """Energy against multiply-accumulates: whether the one can stand for the other."""
    names = ("kmac_per_px", "energy_j_per_mpx")
    if not any(result.energy for result in found.results.values()):
        return None
    if set(names) <= set(found.objectives):
        return None  # it is one of the front's projections
    said = hovers(found) if said is None else said
    return Chart(
        name="energy-macs",
        title="Energy against multiply-accumulates",
        x=axis(names[0], found),
        y=axis(names[1], found),
        series=(*_trial_series(found, names, said), *_marks(found, names, codecs)),
        rules=_rules(found, names, codecs),
    )


def _measured_objectives(found: Overview) -> tuple[str, ...]:
    """Objectives that at least one result has."""
    rows = found.objective_values.values()
    return tuple(name for name in found.objectives if any(row[name] is not None for row in rows))


def _projection(
    found: Overview,
    names: tuple[str, str],
    codecs: Sequence[Row],
    spread: Spread,
    said: Mapping[int, str],
) -> Chart:
    x, y = names
    series = [
        *_staircase(found, names),
        *_trial_series(found, names, said, spread),
        *_marks(found, names, codecs, spread),
    ]
    x_axis, y_axis = axis(x, found), axis(y, found)
    return Chart(
        name=f"front-{y}-{x}",
        title=f"{y_axis.label} over {x_axis.label}",
        x=x_axis,
        y=y_axis,
        series=tuple(series),
        rules=_rules(found, names, codecs),
        note="Bars are 95 % intervals: of BD-rate over photos, of energy over windows"
        + (", of the front alone" if len(found.results) > MANY else "")
        + ". The line joins trials that nothing beats in these two objectives alone.",
    )


def _values(found: Overview, number: int, names: Sequence[str]) -> list[float] | None:
    row = found.objective_values[number]
    values = [
        row[name] if name in row else OBJECTIVES[name](found.results[number]) for name in names
    ]
    known = [value for value in values if value is not None]
    return known if len(known) == len(names) else None


def _trial_series(
    found: Overview, names: Sequence[str], said: Mapping[int, str], spread: Spread = interval
) -> list[Series]:
    """Trials on the front and the others, as points with intervals."""
    kinds: tuple[tuple[str, Role, bool], ...] = (
        ("other trials", "beaten", False),
        ("front", "front", True),
    )
    return [
        Series(name=name, kind="points", points=points, role=role)
        for name, role, on_front in kinds
        if (points := _trial_points(found, names, said, spread, on_front=on_front))
    ]


def _trial_points(
    found: Overview,
    names: Sequence[str],
    said: Mapping[int, str],
    spread: Spread,
    *,
    on_front: bool,
) -> tuple[Point, ...]:
    points = []
    with_bars = on_front or len(found.results) <= MANY
    for number, result in found.results.items():
        if (number in found.on_front) != on_front:
            continue
        values = _values(found, number, names)
        if values is None:
            continue
        x_ends, y_ends = (
            spread(name, result) if with_bars else UNKNOWN_INTERVAL for name in names[:2]
        )
        points.append(
            Point(
                x=values[0],
                y=values[1],
                z=values[2] if len(values) > 2 else None,
                x_low=x_ends[0],
                x_high=x_ends[1],
                y_low=y_ends[0],
                y_high=y_ends[1],
                label=str(number) if on_front else "",
                hover=said.get(number, ""),
                trial=number,
            )
        )
    return tuple(points)


def _staircase(found: Overview, names: Sequence[str]) -> list[Series]:
    """The front of two objectives alone, by ascending x."""
    rows = [row for number in found.results if (row := _values(found, number, names))]
    kept = [row for row, keep in zip(rows, non_dominated(rows), strict=True) if keep]
    if len(kept) < 2:
        return []
    points = tuple(Point(x=x, y=y) for x, y in sorted(kept))
    return [Series(name="front of these two", kind="steps", points=points, role="front")]


# --- reference marks -------------------------------------------------------------------------


def anchor_row(found: Overview) -> Row | None:
    """The anchor among codecs: its BD-rate is 0, since it is compared with itself."""
    if found.anchor is None:
        return None
    own = BDRate(pct=0.0, low_pct=None, high_pct=None, overlap_db=0.0)
    row = Row.of_codec(found.anchor)
    return Row(
        name=row.name,
        rd=row.rd,
        complexity=row.complexity,
        energy=row.energy,
        rd_lambdas=row.rd_lambdas,
        bd_rate=own,
    )


def _others(found: Overview, codecs: Sequence[Row]) -> list[tuple[Row, Role, int]]:
    """Anchor and codecs, with their looks."""
    anchor = anchor_row(found)
    own: list[tuple[Row, Role, int]] = [] if anchor is None else [(anchor, "anchor", 0)]
    return [*own, *((row, "codec", i) for i, row in enumerate(codecs))]


def _marks(
    found: Overview, names: Sequence[str], codecs: Sequence[Row], spread: Spread = interval
) -> list[Series]:
    """Anchor, codecs and twins that have all of these objectives."""
    series = []
    for row, role, place in _others(found, codecs):
        values = [codec_value(name, row) for name in names]
        known = [value for value in values if value is not None]
        if len(known) < len(names):
            continue
        ends = dict.fromkeys(names, UNKNOWN_INTERVAL)
        ends |= _codec_intervals(row) if spread is interval else {}
        (x_low, x_high), (y_low, y_high) = ends[names[0]], ends[names[1]]
        lines = [row.name, *(f"{n} {figure(v)}" for n, v in zip(names, known, strict=True))]
        point = Point(
            x=known[0],
            y=known[1],
            z=known[2] if len(known) > 2 else None,
            x_low=x_low,
            x_high=x_high,
            y_low=y_low,
            y_high=y_high,
            label=row.name,
            hover="\n".join(lines),
        )
        series.append(Series(name=row.name, kind="points", points=(point,), role=role, place=place))
    return [*series, *_twins(found, names)]


def _codec_intervals(row: Row) -> dict[str, Interval]:
    ends: dict[str, Interval] = {}
    if row.bd_rate is not None:
        ends["bd_rate_pct"] = (row.bd_rate.low_pct, row.bd_rate.high_pct)
    if row.energy is not None:
        ends["energy_j_per_mpx"] = energy_interval(row.energy)
    return ends


def _rules(found: Overview, names: Sequence[str], codecs: Sequence[Row]) -> tuple[Rule, ...]:
    """Codecs that have one of two objectives: JPEG has a BD-rate, and nobody counts its MACs."""
    rules = []
    for row, role, place in _others(found, codecs):
        x, y = (codec_value(name, row) for name in names)
        if (x is None) == (y is None):
            continue
        value = y if x is None else x
        assert value is not None
        rules.append(
            Rule(
                along="y" if x is None else "x",
                value=value,
                label=row.name,
                role=role,
                place=place,
            )
        )
    return tuple(rules)


def _twins(found: Overview, names: Sequence[str]) -> list[Series]:
    """Where a student would be without distillation: its costs are the same, its bits are not.

    The twin's BD-rate is the student's divided by the student's against the twin: quotients of
    bits, which is exact where the three share their quality interval and close elsewhere.
    """
    if "bd_rate_pct" not in names:
        return []
    points = []
    for trial in found.trials:
        result, twin = trial.result, trial.twin
        if result is None or twin is None or twin.equal_steps is None or result.bd_rate is None:
            continue
        values = _values(found, trial.number, names)
        if values is None:
            continue
        gain = 1 + twin.equal_steps.pct / 100
        pct = 100 * ((1 + result.bd_rate.pct / 100) / gain - 1)
        values[names.index("bd_rate_pct")] = pct
        said = [
            f"twin of trial {trial.number}: trained without distillation",
            f"BD-rate {percent(pct)} %, from the student's {percent(result.bd_rate.pct)} % and "
            f"{percent(twin.equal_steps.pct)} % against the twin",
        ]
        points.append(
            Point(
                x=values[0],
                y=values[1],
                z=values[2] if len(values) > 2 else None,
                hover="\n".join(said),
                trial=trial.number,
            )
        )
    if not points:
        return []
    return [Series(name="twins", kind="points", points=tuple(points), role="twin")]


# --- curves ----------------------------------------------------------------------------------


def rd_charts(found: Overview, codecs: Sequence[Row] = ()) -> tuple[Chart, ...]:
    """Curves of the front, the anchor and `codecs`: PSNR, and MS-SSIM where photos allow it."""
    return _rd_charts(found, [found.by_number[number] for number in found.front], codecs, "")


def _rd_charts(
    found: Overview, trials: Sequence[StoredTrial], codecs: Sequence[Row], prefix: str
) -> tuple[Chart, ...]:
    curves: list[tuple[str, RDCurve, Role, int]] = [
        (row.name, row.rd, role, place) for row, role, place in _others(found, codecs)
    ]
    curves += [
        (f"trial {trial.number}", trial.result.rd, "member", place)
        for place, trial in enumerate(trials)
        if trial.result is not None
    ]
    qualities: tuple[tuple[str, str, Quality], ...] = (
        ("psnr", "PSNR", _psnr_db),
        ("ms-ssim", "MS-SSIM", ms_ssim_db),
    )
    charts = []
    for name, label, quality in qualities:
        series = [_curve(*curve, quality) for curve in curves]
        drawn = tuple(each for each in series if each.points)
        if any(each.role == "member" for each in drawn):
            charts.append(
                Chart(
                    name=f"{prefix}rd-{name}",
                    title=f"{label} over rate",
                    x=Axis(label="rate", unit="bit/px"),
                    y=Axis(label=label, unit="dB"),
                    series=drawn,
                    note="Means over the evaluation photos, from real bitstreams."
                    + (" MS-SSIM m as -10 log10(1 - m)." if name == "ms-ssim" else ""),
                )
            )
    return tuple(charts)


def _psnr_db(point: RDPoint) -> float | None:
    return point.psnr_db


def ms_ssim_db(point: RDPoint) -> float | None:
    """MS-SSIM m as -10 log10(1 - m) [dB], 60 at most; None where there is none."""
    if point.ms_ssim is None:
        return None
    return -10 * log10(max(1 - point.ms_ssim, 10 ** (-MS_SSIM_DB_MAX / 10)))


def _curve(name: str, curve: RDCurve, role: Role, place: int, quality: Quality) -> Series:
    points = tuple(
        Point(
            x=point.bpp,
            y=y,
            hover=f"{name}, level {point.level}\n{point.bpp:.3f} bpp, {y:.2f} dB",
        )
        for point in sorted(curve.points, key=lambda point: point.bpp)
        if (y := quality(point)) is not None
    )
    return Series(name=name, kind="line", points=points, role=role, place=place, with_points=True)
