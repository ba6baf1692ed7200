"""What `bench`, `rerun`, `check` and `doctor` print."""

from collections.abc import Mapping, Sequence

from kdbench.bench import CodecFigures, Comparison
from kdbench.records import CodecEnergy, EnergyReading
from kdbench.report.tables import MODEL_NOTE
from kdbench.report.text import table, wrapped
from kdbench.report.units import UNKNOWN, bd_rate_cell, count, duration, figure, mebibytes
from kdbench.rerun import Reproduction

LABEL = 18  # column at which the explanations of a list begin


def bench_text(
    figures: CodecFigures,
    skipped: Sequence[tuple[str, str]],
    comparison: Comparison,
    width: int,
) -> str:
    """The curve of one codec, and what it costs."""
    n = len(figures.rd.images)
    head = f"{figures.codec} on {n} photo{'' if n == 1 else 's'}, real bitstreams"
    rows = [
        [
            str(point.level),
            f"{point.bpp:.4f}",
            f"{point.psnr_db:.2f}",
            UNKNOWN if point.ms_ssim is None else f"{point.ms_ssim:.4f}",
        ]
        for point in figures.rd.points
    ]
    lines = [wrapped("BD-rate", _bd_rate(comparison), width, indent=LABEL), *_costs(figures, width)]
    parts = [head, table(["level", "bpp", "PSNR dB", "MS-SSIM"], rows), "\n".join(lines)]
    if skipped:
        named = "; ".join(f"{name} ({why})" for name, why in skipped)
        parts.append(wrapped("", f"{len(skipped)} skipped: {named}", width, indent=0))
    if figures.energy is not None and figures.energy.source == "model":
        parts.append(wrapped("", MODEL_NOTE, width, indent=0))
    return "\n\n".join(parts) + "\n"


def _bd_rate(comparison: Comparison) -> str:
    found = comparison.bd_rate
    if found is None:
        return f"none against {comparison.anchor}: {comparison.why_not}"
    return (
        f"{bd_rate_cell(found, ' % ')} against {comparison.anchor}, "
        f"over {found.overlap_db:.1f} dB that both cover"
    )


def _memory(peak_bytes: int | None) -> str:
    if peak_bytes is None:
        return "of a decode not known: only hyperpriors are followed"
    return f"{mebibytes(peak_bytes)} MiB at most in a decode of 768x512"


def _costs(figures: CodecFigures, width: int) -> list[str]:
    costs, rd = figures.complexity, figures.rd
    entries = []
    if costs is not None:
        entries += [
            ("params", count(costs.params)),
            (
                "kMAC/px",
                f"{figure(costs.kmac_per_px)}: encoder {figure(costs.encoder_kmac_per_px)}, "
                f"decoder {figure(costs.decoder_kmac_per_px)}, "
                f"entropy model {figure(costs.entropy_model)}",
            ),
            ("memory", _memory(costs.peak_memory_bytes)),
        ]
    entries += [
        (
            "seconds/Mpx",
            f"encode {figure(rd.encode_s_per_mpx)}, decode {figure(rd.decode_s_per_mpx)}",
        ),
        *_energy(figures.energy),
    ]
    return [wrapped(label, text, width, indent=LABEL) for label, text in entries]


def _energy(energy: CodecEnergy | None) -> list[tuple[str, str]]:
    if energy is None:
        return [("energy", "not measured")]
    text = f"encode {_joules(energy.encode)}, decode {_joules(energy.decode)} J/Mpx"
    flags = [f"{r.operation}: {flag}" for r in (energy.encode, energy.decode) for flag in r.flags]
    meter = f"{energy.decode.meter}, {energy.decode.detail}"
    return [(f"energy ({energy.origin})", "\n".join([text, f"by {meter}", *flags]))]


def _joules(reading: EnergyReading) -> str:
    spread = reading.spread_j_per_mpx
    net = reading.net_j_per_mpx
    text = figure(reading.mean_j_per_mpx) + (f" ± {figure(spread)}" if spread is not None else "")
    return text if net is None else f"{text} (net {figure(sum(net) / len(net))})"


def rerun_text(runs: Sequence[Reproduction], width: int) -> str:
    """Then and now of every trial, and the verdict on each."""
    rows = [
        [
            str(run.number),
            bd_rate_cell(run.first.bd_rate, "\n"),
            bd_rate_cell(run.second.bd_rate, "\n"),
            bd_rate_cell(run.difference, "\n") if run.difference else UNKNOWN,
            *(("same" if run.same.get(name) else "OTHER") for name in ("weights", "bitstreams")),
        ]
        for run in runs
    ]
    heads = ["trial", "BD-rate then\n% [95 %]", "BD-rate now\n% [95 %]"]
    heads.append("now against\nthen % [95 %]")
    verdicts = []
    for run in runs:
        why = f"; no BD-rate between the two: {run.why_not}" if run.why_not else ""
        changes = [
            f"{name}: {a or UNKNOWN} -> {b or UNKNOWN}" for name, (a, b) in run.changed.items()
        ]
        text = "\n".join([run.verdict + why, _cost_then_and_now(run), *changes])
        verdicts.append(wrapped(f"trial {run.number}", text, width, indent=LABEL))
    return table([*heads, "weights", "bitstreams"], rows) + "\n\n" + "\n".join(verdicts) + "\n"


def _cost_then_and_now(run: Reproduction) -> str:
    """Seconds of the training and energy of both runs, each energy with its source."""
    pairs = [("then", run.first), ("now", run.second)]
    seconds = ", ".join(f"{duration(r.seconds.get('training'))} {when}" for when, r in pairs)
    joules = ", ".join(
        f"{figure(r.energy.j_per_mpx)} J/Mpx ({r.energy.origin}) {when}"
        for when, r in pairs
        if r.energy is not None
    )
    return f"trained {seconds}" + (f"; coding takes {joules}" if joules else "")


def doctor_text(sections: Mapping[str, Sequence[tuple[str, str, str]]], width: int) -> str:
    """Findings by section; what is missing says why."""
    marks = {"ok": " ", "missing": "-", "broken": "!"}
    indent = 4 + max(len(name) for found in sections.values() for name, _, _ in found)
    blocks = []
    for section, findings in sections.items():
        lines = [
            wrapped(f"{marks[verdict]} {name}", detail, width, indent=indent)
            for name, verdict, detail in findings
        ]
        blocks.append("\n".join([section, *lines]))
    return "\n\n".join(blocks) + "\n\n- not here   ! needs a hand\n"
