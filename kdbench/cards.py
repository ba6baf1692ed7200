"""Teachers by name and what their files say of themselves; no torch, so that `check` can ask."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.records import Coordinates, Hyper

BUILTIN = Path(__file__).parent / "assets" / "teachers"
LENGTH = struct.Struct("<Q")  # safetensors: bytes of the JSON header that follows
MAX_HEADER_BYTES = 100 << 20


def teacher_folders() -> tuple[Path, ...]:
    """Where `teacher:NAME` is looked for: teachers/ in the working folder, then the built-in."""
    return (Path("teachers"), BUILTIN)


def list_teachers() -> dict[str, Path]:
    """Every teacher that has a name here."""
    found: dict[str, Path] = {}
    for folder in teacher_folders():
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(path.stem, path)
    return found


def training_of(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the codec was trained, a teacher or a student; empty where its card does not say."""
    told: Mapping[str, Any] = card.get("training") or card.get("spec", {}).get("training", {})
    return told


def teacher_coordinates() -> dict[str, Coordinates]:
    """Coordinates of every readable teacher's latent, by the name a study knows it by.

    Damaged ones are left out; `codecs.weights.load_codec` says what is wrong with them.
    """
    found = {}
    for name, path in list_teachers().items():
        architecture = _architecture(path)
        if architecture is not None:
            told = architecture["hyper"]
            known = {key: told[key] for key in ("width", "prior", "context") if key in told}
            found[f"teacher:{name}"] = Coordinates(
                int(architecture["latent"]["channels"]), Hyper(**known).comparable_prior
            )
    return found


def _architecture(path: Path) -> dict[str, Any] | None:
    """The architecture in the header of a codec file; None if there is none to read."""
    try:
        with path.open("rb") as file:
            (length,) = LENGTH.unpack(file.read(LENGTH.size))
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        architecture: dict[str, Any] = json.loads(header["__metadata__"]["architecture"])
        int(architecture["latent"]["channels"] + architecture["hyper"]["width"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return architecture
