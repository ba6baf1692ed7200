"""A report as a LaTeX document with booktabs; `pdflatex report.tex` needs nothing but this folder.

The input encoding of pdflatex knows Latin letters; any other character is written by its number,
[U+4E2D], so that nothing is lost unseen.
"""

from collections.abc import Mapping

from kdbench.report.chart import Chart
from kdbench.report.document import Block, Crops, Document, Entries
from kdbench.report.text import Cells

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # two of them would become one longer dash
    "Δ": r"\ensuremath{\Delta}",
    "±": r"\ensuremath{\pm}",
    "²": r"\ensuremath{{}^2}",
    "×": r"\ensuremath{\times}",
    "τ": r"\ensuremath{\tau}",
    "σ": r"\ensuremath{\sigma}",
}
LAST_LATIN = 0x17F
_HEAD = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{textcomp}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\sloppy
"""
Files = dict[str, bytes]


def escaped(text: str) -> str:
    """Words that LaTeX takes as they stand."""
    return "".join(_character(c) for c in " ".join(text.split()))


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if not c.isprintable() or ord(c) > LAST_LATIN:
        return f"[U+{ord(c):04X}]"
    return c


def latex(document: Document, pictures: Mapping[str, str]) -> tuple[str, Files]:
    """The document, and the crops that it shows by name of their files.

    Args:
        document: What to say.
        pictures: File of each figure, by the name of its chart.
    """
    files: Files = {}
    parts = [
        f"{_HEAD}\\title{{{escaped(document.title)}}}\n\\date{{}}\n\\begin{{document}}\n\\maketitle",
        "\\\\\n".join(map(escaped, document.lead)),
    ]
    for section in document.sections:
        parts.append(f"\\section*{{{escaped(section.title)}}}")
        parts += [_block(block, pictures, files) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n\n\\end{document}\n", files


def _block(block: Block, pictures: Mapping[str, str], files: Files) -> str:
    if isinstance(block, str):
        return escaped(block)
    if isinstance(block, Entries):
        items = "\n".join(
            f"\\item[{{{escaped(label)}}}] {escaped(text)}" for label, text in block.pairs
        )
        return f"\\begin{{description}}\n{items}\n\\end{{description}}"
    if isinstance(block, Cells):
        return _table(block)
    if isinstance(block, Crops):
        return _crops(block, files)
    return _figure(block, pictures)


def _figure(chart: Chart, pictures: Mapping[str, str]) -> str:
    if chart.name not in pictures:
        return ""
    file = pictures[chart.name]
    said = escaped(f"{chart.title}. {chart.note}".strip())
    return (
        "\\begin{minipage}{\\linewidth}\\centering\n"
        f"\\includegraphics[width=0.85\\linewidth]{{{file}}}\\\\\n{{\\small {said}}}\n"
        "\\end{minipage}"
    )


def _table(cells: Cells) -> str:
    def head(text: str) -> str:
        lines = r"\\".join(escaped(line) for line in text.split("\n"))
        return f"\\shortstack{{{lines}}}" if "\n" in text else lines

    columns = "".join("l" if i < cells.left else "r" for i in range(len(cells.heads)))
    rows = "\n".join(" & ".join(map(escaped, row)) + r" \\" for row in cells.rows)
    heads = " & ".join(map(head, cells.heads)) + r" \\"
    body = (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{heads}\n\\midrule\n{rows}\n\\bottomrule\n"
        "\\end{tabular}"
    )
    title = f"\\textbf{{{escaped(cells.title)}}}\n\n" if cells.title else ""
    note = f"\n\n{{\\small {escaped(cells.note)}}}" if cells.note else ""
    fitted = (
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{body}}}"
    )
    return f"{title}{fitted}{note}"


def _crops(block: Crops, files: Files) -> str:
    share = 0.96 / len(block.crops)
    cells = []
    for i, crop in enumerate(block.crops):
        name = f"{block.name}-{i}.png"
        files[name] = crop.png
        cells.append(
            f"\\begin{{minipage}}{{{share:.3f}\\linewidth}}\\centering\n"
            f"\\includegraphics[width=0.95\\linewidth]{{{name}}}\\\\\n"
            f"{{\\small {escaped(crop.caption)}}}\n\\end{{minipage}}"
        )
    return "%\n".join(cells)
