"""A study as a document: what its report says, in which order, whatever the format."""

from collections.abc import Sequence

from kdbench.codec_table import CodecTable
from kdbench.report.axes import architecture_text, teaching_text
from kdbench.report.chart import Chart
from kdbench.report.charts import (
    NOTHING_SAID,
    energy_chart,
    front_3d,
    front_charts,
    hovers,
    hypervolume_chart,
    parallel_chart,
    rd_charts,
    savings_chart,
    trial_charts,
)
from kdbench.report.crops import member_crops
from kdbench.report.document import Block, Document, Entries, Figures, Section
from kdbench.report.gather import Gathered
from kdbench.report.overview import Overview, dead_terms
from kdbench.report.paper import Row, codec_rows, cost_cells, quality_cells
from kdbench.report.provenance import machine, measuring, searched, took
from kdbench.report.tables import (
    MODEL_NOTE,
    energy_again,
    figure_cells,
    headline,
    sources_of,
    twin_text,
)
from kdbench.report.text import Cells
from kdbench.report.units import UNKNOWN, bd_rate_cell, count, duration, figure
from kdbench.store import StoredTrial

COLUMNS = 100  # of the tables, whatever the page: no two figures share a column
MEMBERS_WITH_FIGURES = 12  # whose curves and losses are drawn


def study_document(study: Gathered, figures: Figures = "page") -> Document:
    """The report of a study with trials, finished or not.

    Args:
        study: What is known of it.
        figures: Which ones, since they take most of the time. On paper nothing is said of a mark,
            no figure has three dimensions, and members have reconstructions alone.
    """
    found = study.found
    return Document(
        name=found.study,
        title=f"kdbench study {found.study}",
        lead=tuple(headline(found).splitlines()),
        sections=tuple(
            section
            for section in (
                _front(study, figures),
                _against(study, figures),
                _curves(study, figures),
                _distillation(found),
                _search(study, figures),
                _measured(study),
                *([] if figures == "none" else [_members(study, figures)]),
                _every_trial(found),
            )
            if section.blocks
        ),
    )


def codec_document(table: CodecTable) -> Document:
    """The report of a study that lists codecs."""
    n, total = len(table.figures), len(table.codecs)
    blocks: list[Block] = []
    if rows := codec_rows(table):
        reference, *others = rows
        blocks += [quality_cells(reference, others), *cost_cells(reference, others)]
        blocks += _model_note(rows)
    return Document(
        name=table.study,
        title=f"kdbench study {table.study}",
        lead=(f"{n} of {total} codecs measured, compared with {table.anchor}",),
        sections=(Section(title="Codecs", blocks=tuple(blocks)),) if blocks else (),
    )


def _drawn(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _front(study: Gathered, figures: Figures) -> Section:
    found = study.found
    if not found.front:
        return Section(title="Front", blocks=())
    blocks: list[Block] = [figure_cells(found, found.front_results, COLUMNS)]
    if "model" in sources_of(found.front_results.values()):
        blocks.append(MODEL_NOTE)
    blocks += energy_again(found)
    if figures != "none":
        said = hovers(found) if figures == "page" else NOTHING_SAID
        solid = front_3d(found, study.codecs, said) if figures == "page" else None
        blocks += front_charts(found, study.codecs, said)
        blocks += _drawn(solid, energy_chart(found, study.codecs, said))
    return Section(title="Front", blocks=tuple(blocks))


def _against(study: Gathered, figures: Figures) -> Section:
    """The paper's tables: absolute figures, and the change against the anchor."""
    found, title = study.found, f"Against {study.found.anchor_name}"
    if not found.front:
        return Section(title=title, blocks=())
    if found.anchor is None:
        text = "Size, compute and energy of the anchor were not measured in this study."
        return Section(title=title, blocks=(text,))
    reference = Row.of_codec(found.anchor)
    rows = [
        Row.of_trial(number, result, found.rd_lambdas(number))
        for number, result in found.front_results.items()
    ]
    rows += study.codecs
    blocks: list[Block] = [quality_cells(reference, rows), *cost_cells(reference, rows)]
    blocks += () if figures == "none" else _drawn(savings_chart(found))
    return Section(title=title, blocks=tuple(blocks))


def _model_note(rows: Sequence[Row]) -> list[Block]:
    modelled = any(row.energy is not None and row.energy.source == "model" for row in rows)
    return [MODEL_NOTE] if modelled else []


def _curves(study: Gathered, figures: Figures) -> Section:
    charts = () if figures == "none" else rd_charts(study.found, study.codecs)
    return Section(title="Rate and distortion", blocks=charts)


def _distillation(found: Overview) -> Section:
    """Twins of the front, and terms that pulled at nothing."""
    front = [trial for trial in found.trials if trial.number in found.on_front]
    pairs = [
        (f"trial {trial.number}", twin_text(trial.twin))
        for trial in front
        if trial.twin is not None
    ]
    blocks: list[Block] = []
    if pairs:
        blocks.append("Against their twins, which trained without distillation:")
        blocks.append(Entries(pairs=tuple(pairs)))
    elif found.front:
        blocks.append(
            "No member of the front has a twin, so whether distillation helped here is not known; "
            f"`kdbench rerun --study {found.study} --trial best --twin` trains them."
        )
    dead = [
        (f"trial {number}", ", ".join(f"{term} ({100 * s:.2f} %)" for term, s in terms.items()))
        for number, result in found.front_results.items()
        if (terms := dead_terms(result))
    ]
    if dead:
        blocks.append("Terms that caused almost nothing of any gradient, with their largest part:")
        blocks.append(Entries(pairs=tuple(dead)))
    return Section(title="Distillation", blocks=tuple(blocks))


def _search(study: Gathered, figures: Figures) -> Section:
    found = study.found
    blocks: list[Block] = [searched(study), took(study), machine(study)]
    if figures != "none":
        blocks += _drawn(hypervolume_chart(found), parallel_chart(found))
    return Section(title="What was searched", blocks=tuple(blocks))


def _measured(study: Gathered) -> Section:
    return Section(title="How it was measured", blocks=(measuring(study),))


# --- trials ----------------------------------------------------------------------------------


def _members(study: Gathered, figures: Figures) -> Section:
    """Each member of the front: what it is, where its folder is, how to train it again."""
    blocks: list[Block] = []
    for i, trial in enumerate(study.front):
        blocks.append(_member(study.found, trial))
        if i < MEMBERS_WITH_FIGURES:
            blocks += member_crops(study, trial)
            blocks += trial_charts(study.found, trial) if figures == "page" else ()
    rest = len(study.front) - MEMBERS_WITH_FIGURES
    if rest > 0:
        blocks.append(f"Figures of {rest} further members are left out; see their folders.")
    return Section(title="Members of the front", blocks=tuple(blocks), long=True)


def _member(found: Overview, trial: StoredTrial) -> Entries:
    result = trial.result
    assert result is not None
    return Entries(
        pairs=(
            (f"trial {trial.number}", bd_rate_cell(result.bd_rate, " % ") + " BD-rate"),
            ("student", architecture_text(trial)),
            ("distillation", teaching_text(trial)),
            ("learning rate", figure(trial.spec.training.learning_rate)),
            ("folder", f"{found.study}/trials/{trial.number}, spec {trial.spec.hash}"),
            ("weights", result.hashes.get("weights", "not recorded")),
            ("bitstreams", result.hashes.get("bitstreams", "not recorded")),
            ("again", f"kdbench rerun --study {found.study} --trial {trial.number}"),
        )
    )


def _every_trial(found: Overview) -> Section:
    """One row a trial, whatever its state."""
    heads = ("trial", "state", "params", "BD-rate %\n[95 %]", "kMAC/px", "energy\nJ/Mpx", "seconds")
    rows = []
    for trial in found.trials:
        result = trial.result
        if result is None:
            known = trial.failure.values if trial.failure else {}
            figures = [
                count(known.get("params")),
                UNKNOWN,
                figure(known.get("kmac_per_px")),
                figure(known.get("energy_j_per_mpx")),
                UNKNOWN,
            ]
        else:
            figures = [
                count(result.complexity.params),
                bd_rate_cell(result.bd_rate, " "),
                figure(result.complexity.kmac_per_px),
                figure(result.energy.j_per_mpx if result.energy else None),
                duration(result.seconds.get("training")),
            ]
        mark = "*" if trial.number in found.on_front else ""
        rows.append((f"{mark}{trial.number}", str(trial.state), *figures, trial.reason or ""))
    cells = Cells(heads=(*heads, "why"), rows=tuple(rows), left=2, note="* on the front")
    return Section(title="Every trial", blocks=(cells,) if rows else (), long=True)
