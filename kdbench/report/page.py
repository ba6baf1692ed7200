"""A report as one HTML page that asks nobody for anything: plotly.js, styles and crops are inside.

A policy in its head forbids the browser to fetch, whatever a name in the study says.
"""

import json
from base64 import b64encode
from html import escape
from importlib.resources import files

from kdbench.report.chart import Chart
from kdbench.report.document import Block, Crops, Document, Entries, Section
from kdbench.report.interactive import figure_json
from kdbench.report.rich_page import report_html
from kdbench.report.text import Cells

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:"
)
TEXT_COLUMNS = 100  # of the tables as a terminal shows them
LONG_CELL = 40  # characters from which a cell may be broken


def html(document: Document) -> str:
    """The page."""
    css, script = (_asset(f"page.{kind}") for kind in ("css", "js"))
    body = [
        "<header><div>",
        f"<h1>{escape(document.title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in document.lead),
        '</div><button id="theme" type="button">Dark page</button></header>',
        "<nav>",
        *(
            f'<a href="#part-{i}">{escape(section.title)}</a>'
            for i, section in enumerate(document.sections)
        ),
        "</nav>",
        "<noscript><p>Figures need JavaScript; the tables do not.</p></noscript>",
        *(_section(i, section) for i, section in enumerate(document.sections)),
        "<details><summary>The tables as a terminal shows them</summary>",
        report_html(document, TEXT_COLUMNS),
        "</details>",
    ]
    scripts = [f"<script>{_plotly()}</script>"] if document.charts else []
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(document.title)}</title>",
            f"<style>\n{css}</style></head><body>",
            *body,
            *scripts,
            f"<script>\n{script}</script>",
            "</body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return files("kdbench").joinpath("assets", "report", name).read_text(encoding="utf-8")


def _plotly() -> str:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _section(i: int, section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="part-{i}"><h2>{escape(section.title)}</h2>\n{blocks}</section>'


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Entries):
        return _entries(block)
    if isinstance(block, Cells):
        return _table(block)
    if isinstance(block, Crops):
        return _crops(block)
    return _figure(block)


def _entries(block: Entries) -> str:
    pairs = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in block.pairs)
    first = block.pairs[0][0]
    anchor = ""
    if first.startswith("trial ") and first[6:].isdecimal() and len(block.pairs) > 2:
        anchor = f' id="trial-{first[6:]}"'
    return f"<dl{anchor}>{pairs}</dl>"


def _table(cells: Cells) -> str:
    def cell(i: int, text: str, tag: str) -> str:
        names = ["left"] if i < cells.left or len(text) > LONG_CELL else []
        names += ["long"] if len(text) > LONG_CELL else []
        kind = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    def line(row: tuple[str, ...], tag: str) -> str:
        return f"<tr>{''.join(cell(i, text, tag) for i, text in enumerate(row))}</tr>"

    rows = "\n".join(line(row, "td") for row in cells.rows)
    title = f"<h3>{escape(cells.title)}</h3>" if cells.title else ""
    note = f'<p class="note">{escape(cells.note)}</p>' if cells.note else ""
    return (
        f'{title}<div class="scroll"><table><thead>{line(cells.heads, "th")}</thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{note}"
    )


def _figure(chart: Chart) -> str:
    data = json.dumps(figure_json(chart), allow_nan=False, separators=(",", ":"))
    inside = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    name, tall = escape(chart.name, quote=True), " tall" if chart.z else ""
    title = escape(chart.title, quote=True)
    return (
        f'<figure><div class="chart{tall}" role="img" aria-label="{title}" '
        f'data-figure="data-{name}"></div><script type="application/json" id="data-{name}">'
        f"{inside}</script><figcaption>{escape(chart.note)}</figcaption></figure>"
    )


def _crops(block: Crops) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(crop.caption, quote=True)}" '
        f'src="data:image/png;base64,{b64encode(crop.png).decode()}">'
        f"<figcaption>{escape(crop.caption)}</figcaption></figure>"
        for crop in block.crops
    )
    return f'<div class="crops">{figures}</div>'
