"""Reconstructions of a member of the front: original, anchor and student at nearly equal bits."""

from math import log

from kdbench.errors import StoreError
from kdbench.records import Reconstruction
from kdbench.report.document import Block, Crop, Crops
from kdbench.report.gather import Gathered
from kdbench.store import StoredTrial

NOTE = (
    "A cut of the middle of the first evaluation photo; bpp and PSNR are those of the whole photo."
)


def member_crops(study: Gathered, trial: StoredTrial) -> list[Block]:
    """What is kept of them, side by side; why there is nothing where a file is damaged."""
    try:
        own = trial.folder.load_crop()
    except StoreError as why:
        return [f"No reconstruction can be shown: {why.problem}."]
    if own is None:
        return []
    what, student = own
    crops = []
    if study.anchor_crops is not None:
        original, levels = study.anchor_crops
        crops.append(Crop(caption=f"original: {what.image}", png=original))
        if levels:
            nearest = min(levels, key=lambda level: abs(log(level.bpp / what.bpp)))
            caption = _caption(study.found.anchor_name, nearest)
            crops.append(Crop(caption=caption, png=levels[nearest]))
    crops.append(Crop(caption=_caption(f"trial {trial.number}", what), png=student))
    return [Crops(name=f"trial-{trial.number}-crop", crops=tuple(crops)), NOTE]


def _caption(name: str, what: Reconstruction) -> str:
    return f"{name}, level {what.level}: {what.bpp:.3f} bpp, {what.psnr_db:.2f} dB"
