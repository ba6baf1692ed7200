"""What `show` prints: the front, all trials, and what each saves against the anchor."""

from collections.abc import Iterable, Mapping

from kdbench.codec_table import CodecTable
from kdbench.records import RDCurve, TrialResult, TwinFigures
from kdbench.report.overview import Overview, dead_terms
from kdbench.report.paper import (
    Row,
    codec_rows,
    cost_tables,
    energy_cell,
    energy_head,
    quality_table,
)
from kdbench.report.plot import front_plot
from kdbench.report.text import WIDE, Cells, drawn, wrapped
from kdbench.report.units import (
    UNKNOWN,
    bd_rate_cell,
    count,
    figure,
    percent,
    span,
)
from kdbench.report.verdicts import verdict

MODEL_NOTE = (
    "energy (model) is processor time multiplied by an assumed power, not a measurement: "
    "compare it with nothing that was measured."
)


def show_text(found: Overview, *, all_trials: bool, width: int) -> str:
    """The front, or every trial, with the savings against the anchor below."""
    shown = found.results if all_trials else found.front_results
    parts = [wrapped("", headline(found), width, indent=0)]
    if shown:
        parts += [_figures(found, shown, width), *filter(None, [front_plot(found, width)])]
        parts += _savings(found, shown)
    if all_trials:
        parts += _unfinished(found, width)
    parts += _dead_terms(shown, width)
    parts += [wrapped("", text, width, indent=0) for text in energy_again(found)]
    parts += _twins(shown, found, width)
    if "model" in sources_of(shown.values()):
        parts.append(wrapped("", MODEL_NOTE, width, indent=0))
    return "\n\n".join(parts) + "\n"


def codec_table_text(found: CodecTable, *, width: int) -> str:
    """Quality, size, compute and energy of the codecs that a study lists."""
    n, total = len(found.figures), len(found.codecs)
    head = f"study {found.study}: {n} of {total} codecs measured, compared with {found.anchor}"
    parts = [wrapped("", head, width, indent=0)]
    if rows := codec_rows(found):
        reference, *others = rows
        parts += [quality_table(reference, others), *cost_tables(reference, others)]
        if any(row.energy and row.energy.source == "model" for row in rows):
            parts.append(wrapped("", MODEL_NOTE, width, indent=0))
    return "\n\n".join(parts) + "\n"


def headline(found: Overview) -> str:
    """How many trials are on the front, of how many; what is minimised."""
    others = ", ".join(
        f"{n} {state}"
        for state in ("stopped", "refused", "infeasible", "failed", "running")
        if (n := found.n(state))
    )
    n_complete = found.n("complete")
    lines = [
        f"study {found.study}: {len(found.front)} on the front of {n_complete} complete "
        f"trial{'' if n_complete == 1 else 's'}" + (f" ({others})" if others else ""),
        f"minimised: {', '.join(found.objectives)}; BD-rate against {found.anchor_name}",
    ]
    if not n_complete:
        lines.append(
            f"nothing to show yet: `kdbench search --study {found.study}` goes on from here"
        )
    return "\n".join(lines)


# --- figures ---------------------------------------------------------------------------------


def _figures(found: Overview, results: Mapping[int, TrialResult], width: int) -> str:
    """`figure_cells` as plain text."""
    cells = figure_cells(found, results, width)
    return drawn(cells) + (f"\n{cells.note}" if cells.note else "")


def figure_cells(found: Overview, results: Mapping[int, TrialResult], width: int) -> Cells:
    """One row a trial; where there are few columns, pairs of figures share one."""
    energy, with_source = energy_head(sources_of(results.values()))
    heads = ["trial", "params", "BD-rate %\n[95 %]", "kMAC/px\nencoder", "kMAC/px\ndecoder", energy]
    heads += ["PSNR\ndB", "bpp"] if width >= WIDE else ["quality\nand rate"]
    beaten = [number for number in results if number not in found.on_front]
    rows = tuple(
        (
            f"{'*' if beaten and number in found.on_front else ''}{number}",
            count(result.complexity.params),
            bd_rate_cell(result.bd_rate, " " if width >= WIDE else "\n"),
            figure(result.complexity.encoder_kmac_per_px),
            figure(result.complexity.decoder_kmac_per_px),
            energy_cell(result.energy, with_source),
            *_range_cells(result.rd, width),
            _seconds_cell(result.seconds.get("training")),
        )
        for number, result in results.items()
    )
    return Cells(
        heads=(*heads, "train\ns"), rows=rows, left=0, note="* on the front" if beaten else ""
    )


def _range_cells(rd: RDCurve, width: int) -> list[str]:
    psnr_db = span([point.psnr_db for point in rd.points], 1)
    bpp = span([point.bpp for point in rd.points], 2)
    return [psnr_db, bpp] if width >= WIDE else [f"{psnr_db} dB\n{bpp} bpp"]


def _seconds_cell(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds:.0f}"


def sources_of(results: Iterable[TrialResult]) -> set[str]:
    """Where the joules of some results come from."""
    return {result.energy.origin for result in results if result.energy is not None}


# --- against the anchor ----------------------------------------------------------------------


def _savings(found: Overview, results: Mapping[int, TrialResult]) -> list[str]:
    """What each student saves against the anchor; quality too where there are points alone."""
    anchor = found.anchor
    if anchor is None:
        return [f"{found.anchor_name}: size, compute and energy were not measured in this study"]
    reference = Row.of_codec(anchor)
    rows = [Row.of_trial(n, result, found.rd_lambdas(n)) for n, result in results.items()]
    points = [quality_table(reference, rows)] if any(row.is_point for row in rows) else []
    return [*points, *cost_tables(reference, rows)]


def _dead_terms(results: Mapping[int, TrialResult], width: int) -> list[str]:
    """Distillation terms that pulled at nothing, with the most they ever had of the gradient."""
    dead = [
        f"trial {number} " + ", ".join(f"{term} ({100 * s:.2f} %)" for term, s in terms.items())
        for number, result in results.items()
        if (terms := dead_terms(result))
    ]
    return [wrapped("", f"dead terms: {'; '.join(dead)}", width, indent=0)] if dead else []


def energy_again(found: Overview) -> list[str]:
    """How far the front's energy moved in training; nothing where nobody looked."""
    front = [trial for trial in found.trials if trial.number in found.on_front]
    shifts = {t.number: shift for t in front if (shift := t.energy_shift_pct) is not None}
    if not shifts:
        return []
    number = max(shifts, key=lambda n: abs(shifts[n]))
    return [
        f"energy is measured before training; measured again after it, on {len(shifts)} of the "
        f"{len(front)} students on the front, it moved by {percent(shifts[number])} % at most "
        f"(trial {number})."
    ]


def _twins(numbers: Iterable[int], found: Overview, width: int) -> list[str]:
    """What distillation gave those of `numbers` that have a twin."""
    twins = {trial.number: trial.twin for trial in found.trials if trial.twin is not None}
    lines = [
        wrapped(f"{number:>5}", twin_text(twins[number]), width, indent=7)
        for number in numbers
        if number in twins
    ]
    head = "against their twins, which trained without distillation"
    return ["\n".join([head, *lines])] if lines else []


def twin_text(found: TwinFigures) -> str:
    """What distillation gave, at equal steps and at equal seconds."""
    text = verdict(found.equal_steps, found.n_seeds, found.why_not)
    if found.equal_seconds is None:
        return text
    return f"{text}; at equal seconds {verdict(found.equal_seconds, found.n_seeds, None)}"


# --- trials without a result -----------------------------------------------------------------


def _unfinished(found: Overview, width: int) -> list[str]:
    """One paragraph for all trials that have no result, each with its reason."""
    lines = []
    for trial in found.trials:
        if trial.result is None:
            known = trial.failure.values if trial.failure else {}
            costs = [f"{count(known['params'])} params"] if "params" in known else []
            costs += [f"{figure(known['kmac_per_px'])} kMAC/px"] if "kmac_per_px" in known else []
            reason = "; ".join(filter(None, [trial.reason or "no result yet", ", ".join(costs)]))
            label = f"{trial.number:>5}  {trial.state}"
            lines.append(wrapped(label, reason, width, indent=19))
    return ["without a result\n" + "\n".join(lines)] if lines else []
