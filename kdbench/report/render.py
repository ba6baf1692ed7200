"""A study as a report in one of its formats: what to print, or which files to write.

What only says things is loaded when it is asked to, beside the drawing library.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.codec_table import CodecTable, is_codec_table, load_codec_table
from kdbench.errors import StoreError
from kdbench.files import write_atomic
from kdbench.report.chart import Format
from kdbench.report.document import Document, Figures
from kdbench.report.painters import Files, painting
from kdbench.store import Store

if TYPE_CHECKING:
    from kdbench.report.gather import Gathered

FORMATS = ("text", "html", "markdown", "latex", "csv", "json", "svg")
IN_ONE_FILE = {"text": "txt", "html": "html", "csv": "csv", "json": "json"}
REPORTS = Path("reports")  # where reports land that nobody named a place for
SVG_COLUMNS = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about, in every form that a format asks for; read when one is asked for.

    Attributes:
        document: Told which figures it needs. Like the others it raises StoreError for a damaged
            file and KdbenchError for figures that do not compare.
    """

    name: str
    document: Callable[[Figures], Document]
    csv: Callable[[], str]
    json: Callable[[], dict[str, object]]


def subject(store: Store, study: str) -> Subject:
    """A study, of trials or of codecs.

    Raises:
        StoreError: No such study, or one of codecs with a damaged file.
        KdbenchError: The figures of these codecs do not compare.
    """
    if is_codec_table(store.load_study(study)):
        return _of_codecs(load_codec_table(store, study))

    @cache
    def found() -> "Gathered":
        from kdbench.report.gather import gather

        return gather(store, study)

    def document(figures: Figures) -> Document:
        from kdbench.report.contents import study_document

        return study_document(found(), figures)

    def csv() -> str:
        from kdbench.report.sheets import study_csv

        return study_csv(found())

    def tree() -> dict[str, object]:
        from kdbench.report.json_report import report_json

        return report_json(found())

    return Subject(name=study, document=document, csv=csv, json=tree)


def _of_codecs(table: CodecTable) -> Subject:
    from kdbench.report.contents import codec_document
    from kdbench.report.json_view import codec_table_json
    from kdbench.report.sheets import codec_csv

    return Subject(
        name=table.study,
        document=lambda _: codec_document(table),
        csv=lambda: codec_csv(table),
        json=lambda: codec_table_json(table),
    )


def comparison(store: Store, first: str, second: str) -> Subject:
    """Two studies of trials, measured alike."""

    @cache
    def alike() -> "tuple[Gathered, Gathered]":
        from kdbench.report.compare import require_alike
        from kdbench.report.gather import gather

        one, two = gather(store, first), gather(store, second)
        require_alike(one, two)
        return one, two

    def document(figures: Figures) -> Document:
        from kdbench.report.compare import comparison_document

        return comparison_document(*alike(), figures)

    def csv() -> str:
        from kdbench.report.sheets import study_csv

        return study_csv(*alike())

    def tree() -> dict[str, object]:
        from kdbench.report.json_report import report_json

        return {"compared": [report_json(study) for study in alike()]}

    return Subject(name=f"{first}-{second}", document=document, csv=csv, json=tree)


def printed(about: Subject, kind: str, width: int) -> str:
    """A report that is one text."""
    if kind == "html":
        from kdbench.report.page import html

        return html(about.document("page"))
    if kind == "csv":
        return about.csv()
    if kind == "json":
        return json.dumps(about.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    from kdbench.report.rich_page import report_text

    return report_text(about.document("none"), width)


def folder(about: Subject, kind: str) -> Files:
    """A report that is several files, by name: Markdown, LaTeX, SVG.

    Raises:
        StoreError, KdbenchError: What it is about cannot be told.
    """
    extension: Format = "pdf" if kind == "latex" else "svg"
    with painting(extension) as paint:
        document = about.document("paper")
        drawn = document.short().charts
        painted, names = paint(drawn), {chart.name: f"{chart.name}.{extension}" for chart in drawn}
        files = _texts(kind, document, names)
        return files | {names[name]: data for name, data in painted.result().items()}


def _texts(kind: str, document: Document, pictures: Mapping[str, str]) -> Files:
    """All but the figures."""
    if kind == "svg":
        from kdbench.report.rich_page import report_svg

        return {"tables.svg": report_svg(document, SVG_COLUMNS).encode()}
    if kind == "markdown":
        from kdbench.report.markdown import markdown

        text, crops = markdown(document, pictures)
        return {"README.md": text.encode(), **crops}
    from kdbench.report.latex import latex

    text, crops = latex(document.short(), pictures)
    return {"report.tex": text.encode(), **crops}


def write(about: Subject, kind: str, out: Path | None, width: int) -> list[Path]:
    """Writes a report, and gives the paths of its files, the one to open first.

    Args:
        about: What it is about.
        kind: One of `FORMATS`.
        out: A file where the format has one, else a folder; None: in `REPORTS`.
        width: Columns, of text.

    Raises:
        StoreError: It cannot be written there, or told.
        KdbenchError: It cannot be told.
    """
    home = REPORTS / about.name
    if out is not None and out.exists() and out.is_dir() == (kind in IN_ONE_FILE):
        is_one = kind in IN_ONE_FILE
        raise StoreError(
            f"{out} is a {'folder' if is_one else 'file'}, and a report as {kind} is a "
            f"{'file' if is_one else 'folder'}",
            fix=f"name another place with `--out`, say {out}/report.{IN_ONE_FILE[kind]}"
            if is_one
            else "name a folder with `--out`, which need not be there yet",
        )
    if kind in IN_ONE_FILE:
        path = out or home / f"report.{IN_ONE_FILE[kind]}"
        files = {path: printed(about, kind, width).encode()}
    else:
        files = {(out or home) / name: data for name, data in folder(about, kind).items()}
    for path, data in files.items():
        write_atomic(path, data, durable=False, elsewhere="name another place with `--out`")
    return list(files)
