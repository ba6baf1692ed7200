"""What `measure` prints: energy and time then and now."""

from collections.abc import Sequence
from typing import Any

from kdbench.measure import Remeasured
from kdbench.records import CodecEnergy
from kdbench.report.json_view import energy_json, measurement_json
from kdbench.report.tables import MODEL_NOTE
from kdbench.report.text import table, wrapped
from kdbench.report.units import UNKNOWN, figure, percent

LABEL = 10


def measured_text(found: Sequence[Remeasured], width: int) -> str:
    """A row for each figure, then what differs and where the new ones are kept."""
    rows = []
    for one in found:
        for when, energy in (("then", one.then), ("now", one.now.energy)):
            if energy is not None:
                shift = percent(one.shift_pct) if when == "now" else ""
                rows.append([str(one.number), when, *_cells(energy), shift])
    heads = ["trial", "", "energy", "J/Mpx\nencode", "J/Mpx\ndecode"]
    heads += ["s/Mpx\nencode", "s/Mpx\ndecode", "energy\nnow %"]
    lines = [
        wrapped(f"trial {one.number}", f"{_compared(one)}; kept in {one.file}", width, indent=LABEL)
        for one in found
    ]
    parts = [table(heads, rows), "\n".join(lines)]
    if any(one.now.energy.source == "model" for one in found):
        parts.append(wrapped("", MODEL_NOTE, width, indent=0))
    return "\n\n".join(parts) + "\n"


def measured_json(found: Sequence[Remeasured], study: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "study": study,
        "measured": [
            {
                "number": one.number,
                "then": energy_json(one.then),
                "now": measurement_json(one.now),
                "shift_pct": one.shift_pct,
                "same_device": one.same_device,
                "why_not_compared": one.why_not_compared,
                "file": str(one.file),
            }
            for one in found
        ],
    }


def _cells(energy: CodecEnergy) -> list[str]:
    readings = (energy.encode, energy.decode)
    joules = [figure(reading.mean_j_per_mpx) for reading in readings]
    seconds = [figure(reading.s_per_mpx) for reading in readings]
    return [f"{energy.source}, {energy.decode.meter}", *joules, *seconds]


def _compared(one: Remeasured) -> str:
    if one.why_not_compared:
        return f"not compared: {one.why_not_compared}"
    where = "the same device and versions" if one.same_device else "another device or versions"
    return f"{percent(one.shift_pct) or UNKNOWN} % on {where}"
