"""The tables of arXiv 2509.10366: size, compute, energy and quality, each with its change.

Against a reference (its teacher, a study's anchor), which has the first row. Parameters are printed
whole and MACs to the hundredth of a GMAC, as they stand in the paper; frames are 768x512.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from kdbench.bench import CodecFigures, compared
from kdbench.codec_table import CodecTable
from kdbench.records import BDRate, CodecEnergy, Complexity, RDCurve, RDPoint, TrialResult
from kdbench.report.text import Cells, drawn
from kdbench.report.units import UNKNOWN, change_pct, figure, interval, mebibytes, percent, span

FRAME_PX = 768 * 512
CHANGE = "Δ%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec of the tables.

    Attributes:
        rd_lambdas: What each level was trained for; empty where nobody knows.
        bd_rate: Against the reference; None where one of them is no curve.
    """

    name: str
    rd: RDCurve
    complexity: Complexity | None
    energy: CodecEnergy | None
    rd_lambdas: tuple[float, ...] = ()
    bd_rate: BDRate | None = None

    @classmethod
    def of_codec(cls, figures: CodecFigures, reference: CodecFigures | None = None) -> "Row":
        """A codec that was measured, compared with `reference` if there is one."""
        return cls(
            name=figures.codec,
            rd=figures.rd,
            complexity=figures.complexity,
            energy=figures.energy,
            rd_lambdas=figures.rd_lambdas,
            bd_rate=None
            if reference is None
            else compared(figures, reference.codec, reference.rd).bd_rate,
        )

    @classmethod
    def of_trial(cls, number: int, result: TrialResult, rd_lambdas: tuple[float, ...]) -> "Row":
        """A student."""
        return cls(
            name=f"trial {number}",
            rd=result.rd,
            complexity=result.complexity,
            energy=result.energy,
            rd_lambdas=rd_lambdas,
            bd_rate=result.bd_rate,
        )

    @property
    def is_point(self) -> bool:
        """It has a single rate."""
        return len(self.rd.points) == 1


def codec_rows(table: CodecTable) -> list[Row]:
    """What the listed codecs are compared with, then each of them; none until that is measured."""
    if table.reference is None:
        return []
    others = (figures for name, figures in table.figures.items() if name != table.anchor)
    reference = Row.of_codec(table.reference)
    return [reference, *(Row.of_codec(figures, table.reference) for figures in others)]


# --- costs -----------------------------------------------------------------------------------


def cost_tables(reference: Row, rows: Sequence[Row]) -> list[str]:
    """Size, compute and energy as plain text."""
    return [drawn(cells) for cells in cost_cells(reference, rows)]


def cost_cells(reference: Row, rows: Sequence[Row]) -> list[Cells]:
    """Size, compute and energy; a codec whose figure nobody knows has a dash."""
    return [_size(reference, rows), _compute(reference, rows), _energy(reference, rows)]


Column = tuple[str, Callable[[Row], str], Callable[[Row], float | None]]  # head, cell, value


def _table(title: str, reference: Row, rows: Sequence[Row], columns: Sequence[Column]) -> Cells:
    """Every column with its change against the reference."""

    def cells(row: Row) -> tuple[str, ...]:
        pairs = (
            (cell(row), "" if row is reference else percent(_change(value, row, reference)))
            for _, cell, value in columns
        )
        return (row.name, *chain.from_iterable(pairs))

    heads = ("codec", *chain.from_iterable((head, CHANGE) for head, _, _ in columns))
    return Cells(title=title, heads=heads, rows=tuple(cells(row) for row in (reference, *rows)))


def _change(value: Callable[[Row], float | None], row: Row, reference: Row) -> float | None:
    return change_pct(value(row), value(reference))


def _size(reference: Row, rows: Sequence[Row]) -> Cells:
    def params(row: Row) -> float | None:
        return None if row.complexity is None else row.complexity.params

    def memory(row: Row) -> int | None:
        return None if row.complexity is None else row.complexity.peak_memory_bytes

    columns: list[Column] = [
        ("params", lambda row: _or_dash(params(row), "{:,.0f}"), params),
        ("memory\nMiB", lambda row: mebibytes(memory(row)), memory),
    ]
    return _table("Size", reference, rows, columns)


def gmac(complexity: Complexity | None) -> float | None:
    """Of one frame, encoder and decoder [GMAC]."""
    return None if complexity is None else complexity.kmac_per_px * FRAME_PX / 1e6


def _compute(reference: Row, rows: Sequence[Row]) -> Cells:
    columns: list[Column] = [
        (
            "GMAC at\n768x512",
            lambda row: _or_dash(gmac(row.complexity), "{:.2f}"),
            lambda row: gmac(row.complexity),
        )
    ]
    for side in ("encode", "decode"):
        per_s = _frames_per_s(side)
        columns.append((f"{side}\nframes/s", lambda row, f=per_s: figure(f(row)), per_s))  # type: ignore[misc]
    return _table("Compute", reference, rows, columns)


def _frames_per_s(side: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        s_per_mpx: float | None = getattr(row.rd, f"{side}_s_per_mpx")
        return 1e6 / (s_per_mpx * FRAME_PX) if s_per_mpx else None

    return of


def _energy(reference: Row, rows: Sequence[Row]) -> Cells:
    """Joules of a megapixel, and of a frame for who has the paper beside it."""
    heads, with_source = energy_head(
        {row.energy.origin for row in (reference, *rows) if row.energy}
    )

    def cells(row: Row) -> tuple[str, ...]:
        change = None if row is reference else energy_change_pct(row.energy, reference.energy)
        frame_mj = None if row.energy is None else row.energy.j_per_mpx * FRAME_PX / 1e3
        text = "" if row is reference else percent(change)
        return (row.name, energy_cell(row.energy, with_source), text, figure(frame_mj))

    return Cells(
        title="Energy",
        heads=("codec", heads, CHANGE, "mJ/frame"),
        rows=tuple(cells(row) for row in (reference, *rows)),
    )


def energy_head(sources: set[str]) -> tuple[str, bool]:
    """Head of the energy column, and whether each figure must name its own source."""
    if len(sources) == 1:
        return f"energy\n({next(iter(sources))})\nJ/Mpx", False
    return "energy\nJ/Mpx", len(sources) > 1


def energy_cell(energy: CodecEnergy | None, with_source: bool) -> str:
    """Encode plus decode [J/Mpx], with its source where the head does not name it."""
    if energy is None:
        return UNKNOWN
    return figure(energy.j_per_mpx) + (f" {energy.origin}" if with_source else "")


def energy_change_pct(ours: CodecEnergy | None, theirs: CodecEnergy | None) -> float | None:
    """Change of energy [%]; None between two devices, meters or kinds of figure."""
    if ours is None or theirs is None or ours.device != theirs.device:
        return None
    if (ours.source, ours.decode.meter) != (theirs.source, theirs.decode.meter):
        return None
    return change_pct(ours.j_per_mpx, theirs.j_per_mpx)


def _or_dash(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


# --- quality ---------------------------------------------------------------------------------


def quality_table(reference: Row, rows: Sequence[Row]) -> str:
    """`quality_cells` as plain text."""
    return drawn(quality_cells(reference, rows))


def quality_cells(reference: Row, rows: Sequence[Row]) -> Cells:
    """Rate and quality of points against the reference's of their rd_lambda; BD-rate of curves.

    A change is left open where the reference has no such point: rates of two trades do not compare.
    """
    return Cells(
        title="Quality and rate",
        heads=("codec", "bpp", CHANGE, "PSNR dB", "Δ dB", "BD-rate %\n[95 %]"),
        rows=tuple(_quality(row, reference) for row in (reference, *rows)),
    )


def _quality(row: Row, reference: Row) -> tuple[str, ...]:
    points = row.rd.points
    if row.is_point:
        text = [f"{points[0].bpp:.3f}", f"{points[0].psnr_db:.2f}"]
    else:
        text = [span([p.bpp for p in points], 2), span([p.psnr_db for p in points], 1)]
    if row is reference:
        return (row.name, text[0], "", text[1], "", "")
    theirs = reference_point(row, reference)
    bits, decibels = UNKNOWN, UNKNOWN
    if theirs is not None:
        bits = percent(change_pct(points[0].bpp, theirs.bpp))
        decibels = f"{points[0].psnr_db - theirs.psnr_db:+.2f}"
    found = row.bd_rate
    rate = UNKNOWN if found is None else f"{percent(found.pct)} {_interval(found)}"
    return (row.name, text[0], bits, text[1], decibels, rate)


def _interval(found: BDRate) -> str:
    return interval(found.low_pct, found.high_pct)


def reference_point(row: Row, reference: Row) -> RDPoint | None:
    """The reference's point of the one rd_lambda of `row`; its only one where nobody knows."""
    if not row.is_point:
        return None
    if reference.rd_lambdas and row.rd_lambdas:
        by_level = {point.level: point for point in reference.rd.points}
        known = {v: by_level.get(level) for level, v in enumerate(reference.rd_lambdas)}
        return known.get(row.rd_lambdas[0])
    return reference.rd.points[0] if reference.is_point else None
