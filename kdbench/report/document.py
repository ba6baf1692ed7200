"""What a report says, before any format: sections of text, tables, figures and crops."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kdbench.report.chart import Chart
from kdbench.report.text import Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Labels, each with its text."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A cut of one photo as a PNG file, and what is written on it."""

    caption: str
    png: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """Cuts of the same place, side by side.

    Attributes:
        name: For files: letters, digits, `-` and `_`.
    """

    name: str
    crops: tuple[Crop, ...]


Figures = Literal["page", "paper", "none"]  # those that a reader moves in; still ones; none
Block = str | Entries | Cells | Chart | Crops


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report under a heading.

    Attributes:
        long: Left out where space is short: terminals and paper.
    """

    title: str
    blocks: tuple[Block, ...]
    long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report.

    Attributes:
        name: Of the study, or of both.
        lead: What stands first, a paragraph a line.
    """

    name: str
    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Every figure in its order."""
        return tuple(block for block in self.blocks() if isinstance(block, Chart))

    def blocks(self) -> Iterator[Block]:
        """Every block of every section."""
        for section in self.sections:
            yield from section.blocks

    def short(self) -> "Document":
        """Without what is left out where space is short."""
        kept = tuple(section for section in self.sections if not section.long)
        return Document(name=self.name, title=self.title, lead=self.lead, sections=kept)
