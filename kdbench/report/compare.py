"""Two studies on one figure and in one table, where their figures compare."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kdbench.errors import KdbenchError
from kdbench.report.chart import Chart, Point, Role, Series
from kdbench.report.charts import MARKS, NOTHING_SAID, front_charts, rd_charts
from kdbench.report.document import Block, Document, Entries, Figures, Section
from kdbench.report.gather import Gathered
from kdbench.report.paper import Row, cost_cells, quality_cells
from kdbench.report.provenance import machine, measuring, took
from kdbench.report.tables import MODEL_NOTE, headline, sources_of

OTHER_METERS = (
    "Their energies are of two devices, meters or kinds of figure, and are on no figure together."
)
_ROLES: tuple[Role, Role] = ("front", "other")


def comparison_document(first: Gathered, second: Gathered, figures: Figures = "page") -> Document:
    """Both fronts against the anchor that they share, of studies that `require_alike`.

    Args:
        first: One study.
        second: The other.
        figures: As of `study_document`.
    """
    studies = (first, second)
    names = tuple(study.found.study for study in studies)
    sections = (
        Section(title="Fronts", blocks=_fronts(first, second, figures)),
        Section(title=f"Against {first.found.anchor_name}", blocks=_tables(studies)),
        *(
            Section(title=f"Study {name}", blocks=(took(study), machine(study), measuring(study)))
            for name, study in zip(names, studies, strict=True)
        ),
    )
    return Document(
        name=f"{names[0]}-{names[1]}",
        title=f"kdbench studies {names[0]} and {names[1]}",
        lead=tuple(line for study in studies for line in headline(study.found).splitlines()),
        sections=tuple(section for section in sections if section.blocks),
    )


def require_alike(first: Gathered, second: Gathered) -> None:
    """That protocol, anchor and photos are the same, and joules of one kind.

    Raises:
        KdbenchError: One line for each that is not.
    """
    names = (first.found.study, second.found.study)
    if names[0] == names[1]:
        raise KdbenchError(
            f"study {names[0]!r} would be compared with itself", fix="name two studies"
        )
    for study in (first, second):
        if not study.found.front:
            name = study.found.study
            raise KdbenchError(
                f"study {name!r} has no complete trial yet, and nothing to compare",
                fix=f"let `kdbench search --study {name}` finish one",
            )
    told = [
        {
            "measurement protocol": str(study.found.protocol),
            "anchor": f"{study.found.anchor_name}, sha256 {study.anchor_sha or 'not recorded'}",
            "evaluation photos": _photos(study, other),
        }
        for study, other in ((first, second), (second, first))
    ]
    differ = [
        f"  {name}: {told[0][name]} in {names[0]}, {told[1][name]} in {names[1]}"
        for name in told[0]
        if told[0][name] != told[1][name]
    ]
    if differ:
        raise KdbenchError(
            f"studies {names[0]!r} and {names[1]!r} were not measured alike:\n" + "\n".join(differ),
            fix="search again under another study name, with the anchor and photos of the other",
        )


def _photos(study: Gathered, other: Gathered) -> str:
    """How many, and the first that the other has not (or in another place)."""
    own, theirs = study.photos, other.photos
    odd = next((a for i, a in enumerate(own) if i >= len(theirs) or theirs[i] != a), None)
    return f"{len(own)}" + (f" (with {odd})" if odd else "")


def _meters(study: Gathered) -> set[tuple[str, str, str]]:
    """Source, meter and device of its joules."""
    energies = [r.energy for r in study.found.results.values() if r.energy is not None]
    return {(energy.source, energy.decode.meter, energy.device) for energy in energies}


def _fronts(first: Gathered, second: Gathered, figures: Figures) -> tuple[Block, ...]:
    """Figures of both, and what must be said of their energies."""
    alike = _meters(first) == _meters(second)
    blocks: list[Block] = []
    if figures != "none":
        said = NOTHING_SAID if figures == "paper" else None
        blocks += [
            chart
            for chart in _projections(first, second, said)
            if alike or "_j_per_mpx" not in chart.name
        ]
    if not alike:
        blocks.append(OTHER_METERS)
    if figures != "none":
        blocks += _rd_charts(first, second)
    sources = {
        s for study in (first, second) for s in sources_of(study.found.front_results.values())
    }
    if "model" in sources:
        blocks.append(MODEL_NOTE)
    return tuple(blocks)


def _projections(
    first: Gathered, second: Gathered, said: Mapping[int, str] | None
) -> Iterator[Chart]:
    """Those that both have, each study in a colour and a shape of its own."""
    theirs = {chart.name: chart for chart in front_charts(second.found, said=said)}
    for chart in front_charts(first.found, first.codecs, said):
        if chart.name in theirs:
            yield _joined(chart, theirs[chart.name], first.found.study, second.found.study)


def _rd_charts(first: Gathered, second: Gathered) -> Iterator[Chart]:
    theirs = {chart.name: chart for chart in rd_charts(second.found)}
    for chart in rd_charts(first.found, first.codecs):
        if chart.name in theirs:
            yield _curves(chart, theirs[chart.name], first.found.study, second.found.study)


def _joined(first: Chart, second: Chart, one: str, two: str) -> Chart:
    series = [s for s in first.series if s.role in MARKS]
    for chart, name, role in ((first, one, _ROLES[0]), (second, two, _ROLES[1])):
        for own in chart.series:
            if own.role == "front":
                points = tuple(_of(point, name) for point in own.points)
                label = f"{name}: {own.name}"
                series.append(replace(own, name=label, role=role, points=points))
    return replace(first, series=tuple(series))


def _curves(first: Chart, second: Chart, one: str, two: str) -> Chart:
    series: list[Series] = [own for own in first.series if own.role != "member"]
    n = 0
    for chart, name in ((first, one), (second, two)):
        for own in chart.series:
            if own.role == "member":
                points = tuple(_of(point, name) for point in own.points)
                series.append(replace(own, name=f"{name}: {own.name}", place=n, points=points))
                n += 1
    return replace(first, series=tuple(series))


def _of(point: Point, study: str) -> Point:
    """Which study it is of; its number alone would lead to a trial of the wrong one."""
    return point._replace(hover=f"{study}\n{point.hover}" if point.hover else "", trial=None)


def _tables(studies: tuple[Gathered, Gathered]) -> tuple[Block, ...]:
    anchor = studies[0].found.anchor
    if anchor is None:
        return (Entries(pairs=(("anchor", "its costs were not measured"),)),)
    reference = Row.of_codec(anchor)
    rows = [
        replace(
            Row.of_trial(number, result, study.found.rd_lambdas(number)),
            name=f"{study.found.study}, trial {number}",
        )
        for study in studies
        for number, result in study.found.front_results.items()
    ]
    return (quality_cells(reference, rows), *cost_cells(reference, rows))
