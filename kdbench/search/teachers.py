"""A teacher is checked before it teaches: the curve in its card must be the curve it has here.

Files of ours carry the curve that was measured when they were trained, on the built-in evaluation
photos. A file that was mixed up, or a machine that computes something else, shows in it.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdbench import hybrid
from kdbench.config import StudyConfig
from kdbench.errors import CodecError
from kdbench.records import RDCurve, RDPoint
from kdbench.search.ground import Ground
from kdbench.store import Store

PSNR_TOLERANCE_DB = 0.02
BPP_TOLERANCE = 0.01  # of the card's
FIX = "take the original file again, or train it anew with `kdbench teach`"


def require_cards(cfg: StudyConfig, ground: Ground, store: Store) -> None:
    """Measures each of the study's teachers whose card has a curve, once a file.

    Only where the study evaluates on the built-in photos; teachers without a curve are not checked,
    which `kdbench doctor` says of them.

    Raises:
        CodecError: A level is more than 0.02 dB or 1 % of its bits from its card.
    """
    if cfg.data.evaluation != "builtin":
        return
    from kdbench.anchor import anchor_curve
    from kdbench.codecs.weights import read_card
    from kdbench.data import load_images
    from kdbench.teacher import teacher_path

    images = load_images("builtin", "evaluation")
    for name in dict.fromkeys(part for each in ground.teachers for part in hybrid.duties(each)):
        if not name.startswith(("teacher:", "file:")):
            continue
        _, card = read_card(teacher_path(name))
        if card.get("rd"):
            promised = _points(name, card["rd"])
            found = anchor_curve(name, images, device=ground.device, cache=store.cache).curve
            require_same_curve(name, promised, found)


def require_same_curve(name: str, promised: Sequence[RDPoint], found: RDCurve) -> None:
    """Raises CodecError at the first level that is not what the card promised."""
    measured = {point.level: point for point in found.points}
    if (ours := sorted(measured)) != (theirs := sorted(p.level for p in promised)):
        raise CodecError(f"{name} has the levels {ours}, and its card a curve of {theirs}", fix=FIX)
    for card in promised:
        here = measured[card.level]
        off_db, off_bpp = abs(here.psnr_db - card.psnr_db), abs(here.bpp - card.bpp)
        if not (off_db <= PSNR_TOLERANCE_DB and off_bpp <= BPP_TOLERANCE * card.bpp):
            raise CodecError(
                f"{name} is not what its card says: level {card.level} has {here.psnr_db:.2f} dB "
                f"at {here.bpp:.4f} bpp here, {card.psnr_db:.2f} dB at {card.bpp:.4f} bpp there",
                fix=FIX,
            )


def _points(name: str, rd: Any) -> list[RDPoint]:
    try:
        return TypeAdapter(list[RDPoint]).validate_python(rd)
    except ValidationError as why:
        first = why.errors()[0]
        place = ".".join(map(str, ("rd", *first["loc"])))
        raise CodecError(
            f"the card of {name} cannot be read: {place}: {first['msg'].lower()}", fix=FIX
        ) from None
