"""How an objective is drawn: its axis and interval, and what is said of a trial at its mark."""

from math import hypot

from kdbench.intervals import relative_interval
from kdbench.records import CodecEnergy, EnergyReading, TrialResult
from kdbench.report.chart import Axis
from kdbench.report.overview import Overview
from kdbench.report.paper import Row
from kdbench.report.units import bd_rate_cell, count, figure, span
from kdbench.store import StoredTrial

Interval = tuple[float | None, float | None]
UNKNOWN_INTERVAL: Interval = (None, None)
_COSTS = {
    "kmac_per_px": ("multiply-accumulates", "kMAC/px"),
    "decoder_kmac_per_px": ("decoder", "kMAC/px"),
    "decode_s_per_mpx": ("decoding", "s/Mpx"),
    "params": ("parameters", ""),
}
_ENERGIES = {
    "energy_j_per_mpx": "energy",
    "encode_j_per_mpx": "energy of encoding",
    "decode_j_per_mpx": "energy of decoding",
}


def axis(objective: str, found: Overview) -> Axis:
    """The axis of an objective; of an energy it names the source."""
    if objective == "bd_rate_pct":
        return Axis(label=f"BD-rate against {found.anchor_name}", unit="%")
    if objective == "validation_loss":
        return Axis(label="validation loss", unit="bit/px")
    if objective in _ENERGIES:
        return Axis(label=f"{_ENERGIES[objective]}{sources(found)}", unit="J/Mpx", log=True)
    label, unit = _COSTS.get(objective, (objective, ""))
    return Axis(label=label, unit=unit, log=True)


def sources(found: Overview) -> str:
    """` (model)`: where the joules of a study come from."""
    return f" ({', '.join(found.energy_origins)})" if found.energy_origins else ""


def interval(objective: str, result: TrialResult) -> Interval:
    """95 % interval of an objective; of counts and of a single window there is none."""
    if objective == "bd_rate_pct":
        found = result.bd_rate
        return UNKNOWN_INTERVAL if found is None else (found.low_pct, found.high_pct)
    energy = result.energy
    if energy is None or objective not in _ENERGIES:
        return UNKNOWN_INTERVAL
    readings = {
        "energy_j_per_mpx": (energy.encode, energy.decode),
        "encode_j_per_mpx": (energy.encode,),
        "decode_j_per_mpx": (energy.decode,),
    }
    return _energy_interval(readings[objective])


def energy_interval(energy: CodecEnergy) -> Interval:
    """Of encode plus decode."""
    return _energy_interval((energy.encode, energy.decode))


def _energy_interval(readings: tuple[EnergyReading, ...]) -> Interval:
    """Student's, over windows; the two operations' half widths add as independent errors do."""
    halves = []
    for reading in readings:
        relative = relative_interval(reading.gross_j_per_mpx)
        if relative is None:
            return UNKNOWN_INTERVAL
        halves.append(relative * reading.mean_j_per_mpx)
    mean, half = sum(reading.mean_j_per_mpx for reading in readings), hypot(*halves)
    return max(mean - half, 0.0), mean + half


def codec_value(objective: str, codec: Row) -> float | None:
    """What a codec that is no trial has of an objective; None for what nobody knows of it."""
    costs, energy = codec.complexity, codec.energy
    if objective == "bd_rate_pct":
        return None if codec.bd_rate is None else codec.bd_rate.pct
    if objective in _ENERGIES and energy is not None:
        return {
            "energy_j_per_mpx": energy.j_per_mpx,
            "encode_j_per_mpx": energy.encode.mean_j_per_mpx,
            "decode_j_per_mpx": energy.decode.mean_j_per_mpx,
        }[objective]
    if objective == "decode_s_per_mpx":
        if energy is not None and energy.target is not None:
            return energy.decode.s_per_mpx
        return codec.rd.decode_s_per_mpx
    known: float | None = getattr(costs, objective, None)
    return known


# --- words -----------------------------------------------------------------------------------


def architecture_text(trial: StoredTrial) -> str:
    """Widths, kernels and activations of a student in a line."""
    spec = trial.spec
    if spec.codec is not None:
        axes = ", ".join(f"{name} {value}" for name, value in spec.codec.axes.items())
        return f"{spec.codec.family}: {axes}"
    sides = []
    for name, side in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        text = f"{name} {side.width}, {side.kernel}x{side.kernel}, {side.activation}"
        text += ", separable" if side.convolution == "separable" else ""
        text += f", two layers x{side.stride}" if side.layers == 2 else ""
        text += f", tapered by {side.taper}" if side.taper > 1 else ""
        sides.append(text)
    hyper = f"hyper {spec.hyper.width}, {spec.hyper.prior}"
    hyper += f", context {spec.hyper.context}" if spec.hyper.context != "none" else ""
    return "; ".join([*sides, hyper, f"latent {spec.latent.channels}"])


def teaching_text(trial: StoredTrial) -> str:
    """The teacher and its terms with their weights."""
    plan = trial.spec.distillation
    if plan.teacher is None:
        return "no teacher"
    terms = ", ".join(f"{name} {figure(weight)}" for name, weight in plan.weights.items())
    return f"{plan.teacher}: {terms or 'start alone'}"


def hover(found: Overview, trial: StoredTrial) -> str:
    """What is said of a trial beside its mark."""
    result = trial.result
    lines = [
        f"trial {trial.number}{' (on the front)' if trial.number in found.on_front else ''}",
        *architecture_text(trial).split("; "),
        teaching_text(trial),
    ]
    if result is not None:
        costs = result.complexity
        lines += [
            f"BD-rate {bd_rate_cell(result.bd_rate, ' % ')}",
            f"{figure(costs.kmac_per_px)} kMAC/px, decoder {figure(costs.decoder_kmac_per_px)}",
            f"{count(costs.params)} parameters",
        ]
        if result.energy is not None:
            lines.append(f"{figure(result.energy.j_per_mpx)} J/Mpx ({result.energy.origin})")
        points = result.rd.points
        lines.append(
            f"{span([p.bpp for p in points], 2)} bpp, {span([p.psnr_db for p in points], 1)} dB"
        )
    return "\n".join(lines)
