"""A table as plain text: the same on a terminal, in a pipe and in a test."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAP = "  "
WIDE = 100  # columns from which every figure has a column of its own; taken where nobody reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table before anything draws it; heads and cells may have several lines.

    Attributes:
        title: What stands above it in a report.
        left: How many columns, from the first, are aligned left; figures are aligned right.
        note: What stands below it.
    """

    title: str = ""
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""


def drawn(cells: Cells) -> str:
    """As plain text."""
    return table(cells.heads, cells.rows, left=cells.left)


def width_here() -> int:
    """Columns of the terminal or of COLUMNS; 100 where there is neither."""
    return shutil.get_terminal_size(fallback=(WIDE, 24)).columns


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0) -> str:
    """Heads, a rule and rows; cells may have several lines.

    Args:
        heads: One a column, standing on the rule.
        rows: Cells, one a column.
        left: How many columns, from the first, are aligned left; figures are aligned right.
    """
    head_lines = [head.split("\n") for head in heads]
    cells = [[cell.split("\n") for cell in row] for row in rows]
    widths = [
        max(len(line) for row in [head_lines, *cells] for line in row[column])
        for column in range(len(heads))
    ]

    def lines(row: list[list[str]], *, from_bottom: bool) -> list[str]:
        height = max(map(len, row))
        filled = [
            [""] * (height - len(cell)) + cell
            if from_bottom
            else cell + [""] * (height - len(cell))
            for cell in row
        ]
        return [
            GAP.join(
                cell[i].ljust(width) if column < left else cell[i].rjust(width)
                for column, (cell, width) in enumerate(zip(filled, widths, strict=True))
            ).rstrip()
            for i in range(height)
        ]

    rule = GAP.join("-" * width for width in widths)
    out = [*lines(head_lines, from_bottom=True), rule]
    for row in cells:
        out += lines(row, from_bottom=False)
    return "\n".join(out)


def wrapped(label: str, text: str, width: int, *, indent: int) -> str:
    """`label`, then `text` from column `indent` on, broken to `width`."""
    room = max(width - indent, 20)
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, room) or [""]]
    first, *rest = lines or [""]
    gap = " " * indent
    return "\n".join([f"{label:<{indent}}{first}", *(gap + line for line in rest)])
