"""Everything that a report of one study stands on, read once from the store."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdbench.codec_table import is_codec_table, load_codec_table
from kdbench.errors import KdbenchError, StoreError
from kdbench.records import Reconstruction
from kdbench.report.overview import Overview, overview
from kdbench.report.paper import Row
from kdbench.store import Store, StoredStudy, StoredTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """One study with trials.

    Attributes:
        codecs: Others, measured on the same photos by studies that list codecs.
        codecs_from: Names of those studies.
        left_out: Why other such studies, or the crops, are not used, a sentence each.
        anchor_crops: A cut of a photo, and how each level of the anchor gives it back.
    """

    found: Overview
    stored: StoredStudy
    codecs: tuple[Row, ...] = ()
    codecs_from: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    anchor_crops: tuple[bytes, Mapping[Reconstruction, bytes]] | None = None

    @property
    def front(self) -> tuple[StoredTrial, ...]:
        """Its members, in the front's order."""
        return tuple(self.found.by_number[number] for number in self.found.front)

    @property
    def photos(self) -> tuple[str, ...]:
        """Names of the evaluation photos; empty before anything was measured."""
        if self.found.anchor is not None:
            return self.found.anchor.rd.images
        results = self.found.results.values()
        return next((result.rd.images for result in results), ())

    @property
    def anchor_sha(self) -> str | None:
        """What identifies the anchor; None where the study does not say."""
        if self.found.anchor is not None:
            return self.found.anchor.sha
        return self.stored.fixed.get("anchor")


def gather(store: Store, study: str) -> Gathered:
    """What is known of `study`, with the codecs that were measured as it was.

    Codecs count where a study of this store lists them with the same anchor, photos and measuring
    protocol: `jpeg` and others then stand in the figures.

    Raises:
        StoreError: No such study, or a damaged file.
        KdbenchError: Its trials do not compare, or it lists codecs itself.
    """
    found = overview(store, study)
    own = Gathered(found=found, stored=store.load_study(study))
    rows: dict[str, Row] = {}
    used, left_out = [], []
    for other in store.studies():
        if other == study or found.anchor is None:
            continue
        try:
            taken = _codecs(store, other, own)
        except KdbenchError as why:
            left_out.append(f"codecs of study {other} are left out: {why.problem}")
            continue
        if taken:
            used.append(other)
            rows |= {row.name: row for row in taken}
    crops = None
    try:
        crops = store.load_anchor_crops(study)
    except StoreError as why:
        left_out.append(f"the anchor's reconstructions are left out: {why.problem}")
    return Gathered(
        found=found,
        stored=own.stored,
        codecs=tuple(rows.values()),
        codecs_from=tuple(used),
        left_out=tuple(left_out),
        anchor_crops=crops,
    )


def _codecs(store: Store, other: str, own: Gathered) -> list[Row]:
    """The codecs of another study that compare with those of `own`; none of a study of trials."""
    if not is_codec_table(store.load_study(other)):
        return []
    table = load_codec_table(store, other)
    reference, anchor = table.reference, own.found.anchor
    if reference is None or anchor is None:
        return []
    if (reference.sha, reference.rd.images) != (anchor.sha, anchor.rd.images):
        return []
    figures = {name: f for name, f in table.figures.items() if f.sha != anchor.sha}
    return [Row.of_codec(codec, reference) for codec in figures.values()]
