"""A report by rich: on a terminal, and as text, SVG and HTML that rich exports itself.

Figures are not drawn here. Cells are taken as they stand: `[+2.1, +3.4]` is no markup.
"""

import re
from html import escape
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from kdbench.report.document import Document, Entries
from kdbench.report.text import Cells

FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}\s*")  # rich's would be fetched from a network
LEAST_COLUMNS = 100
PAPER = TerminalTheme((255, 255, 255), (28, 32, 38), [(28, 32, 38)] * 8)  # black on white


def report_text(document: Document, width: int) -> str:
    """Plain text, `width` columns."""
    text = _recorded(document, width).export_text()
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def report_svg(document: Document, width: int) -> str:
    """The same as a picture of a terminal, which needs no font from elsewhere."""
    svg = _recorded(document, width).export_svg(
        title=escape(document.title), theme=PAPER, unique_id="kdbench"
    )
    return FONT_FACE.sub("", svg)


def report_html(document: Document, width: int) -> str:
    """The same as one HTML element, its styles inside."""
    return _recorded(document, width).export_html(
        theme=PAPER, inline_styles=True, code_format="<pre class=rich>{code}</pre>"
    )


def _recorded(document: Document, width: int) -> Console:
    """A console that was told the report; narrower than `LEAST_COLUMNS` figures would be cut."""
    console = Console(
        file=StringIO(),
        record=True,
        width=max(width, LEAST_COLUMNS),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        _environ={},
    )
    console.print(Text(document.title, style="bold"))
    for line in document.lead:
        console.print(Text(line))
    for section in document.short().sections:
        console.print()
        console.rule(Text(section.title, style="bold"), align="left", characters="-")
        for block in section.blocks:
            drawn = _block(block)
            if drawn is not None:
                console.print()
                console.print(drawn)
    return console


def _block(block: object) -> RenderableType | None:
    if isinstance(block, str):
        return Text(block)
    if isinstance(block, Cells):
        return _table(block)
    if isinstance(block, Entries):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for label, text in block.pairs:
            grid.add_row(Text(label, style="bold"), Text(text))
        return Padding(grid, (0, 0, 0, 2))
    return None


def _table(cells: Cells) -> Table:
    table = Table(
        title=Text(cells.title, style="italic") if cells.title else None,
        title_justify="left",
        caption=Text(cells.note) if cells.note else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, head in enumerate(cells.heads):
        table.add_column(
            Text(head), justify="left" if i < cells.left else "right", vertical="top", no_wrap=True
        )
    for row in cells.rows:
        table.add_row(*map(Text, row))
    return table
