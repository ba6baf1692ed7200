"""What a study may minimise, each in the unit of its name; None where it was not measured."""

from collections.abc import Callable, Mapping

from kdbench.records import TrialResult

QUALITIES = ("bd_rate_pct", "validation_loss")  # compared as they are; costs by their logarithm


def _decode_s_per_mpx(result: TrialResult) -> float | None:
    """Of one photo on the target that measures the study's energy; else of all, here."""
    if result.energy is not None and result.energy.target is not None:
        return result.energy.decode.s_per_mpx
    return result.rd.decode_s_per_mpx


OBJECTIVES: Mapping[str, Callable[[TrialResult], float | None]] = {
    "bd_rate_pct": lambda r: r.bd_rate_pct,
    "validation_loss": lambda r: r.losses.get("validation"),
    "kmac_per_px": lambda r: r.complexity.kmac_per_px,
    "decoder_kmac_per_px": lambda r: r.complexity.decoder_kmac_per_px,
    "energy_j_per_mpx": lambda r: r.energy.j_per_mpx if r.energy else None,
    "encode_j_per_mpx": lambda r: r.energy.encode.mean_j_per_mpx if r.energy else None,
    "decode_j_per_mpx": lambda r: r.energy.decode.mean_j_per_mpx if r.energy else None,
    "decode_s_per_mpx": _decode_s_per_mpx,
    "params": lambda r: float(r.complexity.params),
}
