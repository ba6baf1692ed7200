"""A report as Markdown, its figures and crops in files beside it."""

import re
from collections.abc import Mapping

from kdbench.report.chart import Chart
from kdbench.report.document import Block, Crops, Document, Entries
from kdbench.report.text import Cells

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$])")
_AUTOLINK = re.compile(r"(?<=\w)(://|@)")
Files = dict[str, bytes]


def escaped(text: str) -> str:
    """Words that Markdown takes as they stand: no markup, no HTML, no link, one line."""
    shown = _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;"))
    return _AUTOLINK.sub(r"&#8203;\1", " ".join(shown.split()))


def markdown(document: Document, pictures: Mapping[str, str]) -> tuple[str, Files]:
    """The text, and the crops that it shows by name of their files.

    Args:
        document: What to say.
        pictures: File of each figure, by the name of its chart.
    """
    files: Files = {}
    parts = [f"# {escaped(document.title)}", "  \n".join(map(escaped, document.lead))]
    for section in document.sections:
        parts.append(f"## {escaped(section.title)}")
        parts += [_block(block, pictures, files) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n", files


def _block(block: Block, pictures: Mapping[str, str], files: Files) -> str:
    if isinstance(block, str):
        return escaped(block)
    if isinstance(block, Entries):
        return "\n".join(f"- **{escaped(label)}**: {escaped(text)}" for label, text in block.pairs)
    if isinstance(block, Cells):
        return _table(block)
    if isinstance(block, Crops):
        return _crops(block, files)
    return _figure(block, pictures)


def _figure(chart: Chart, pictures: Mapping[str, str]) -> str:
    if chart.name not in pictures:
        return ""
    note = f"\n\n{escaped(chart.note)}" if chart.note else ""
    return f"![{escaped(chart.title)}]({pictures[chart.name]}){note}"


def _table(cells: Cells) -> str:
    def line(row: tuple[str, ...]) -> str:
        return f"| {' | '.join(escaped(cell) or ' ' for cell in row)} |"

    rule = ["---" if i < cells.left else "---:" for i in range(len(cells.heads))]
    rows = [line(cells.heads), f"| {' | '.join(rule)} |", *map(line, cells.rows)]
    title = [f"### {escaped(cells.title)}", ""] if cells.title else []
    note = ["", escaped(cells.note)] if cells.note else []
    return "\n".join([*title, *rows, *note])


def _crops(block: Crops, files: Files) -> str:
    names = [f"{block.name}-{i}.png" for i in range(len(block.crops))]
    files.update({name: crop.png for name, crop in zip(names, block.crops, strict=True)})
    captions = tuple(crop.caption for crop in block.crops)
    images = " | ".join(
        f"![{escaped(caption)}]({name})" for caption, name in zip(captions, names, strict=True)
    )
    heads = " | ".join(map(escaped, captions))
    return f"| {heads} |\n| {' | '.join(['---'] * len(names))} |\n| {images} |"
