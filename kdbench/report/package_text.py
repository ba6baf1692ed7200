"""The README of a package and what `export` prints: for people, from the card alone."""

from collections.abc import Mapping
from typing import Any

from kdbench.report.text import table, wrapped
from kdbench.report.units import count, figure

LABEL = 14


def package_readme(card: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [
        f"| {at['level']} | {_quality(at['quality'])} | {at['rd_lambda']:g} | {point} |"
        for at, point in zip(card["levels"], _points(card), strict=True)
    ]
    return f"""\
# {card["study"]}, trial {card["trial"]}

A learned image codec that kdbench {card["kdbench"]} found and trained.

    pip install kdbench
    kdbench encode photo.png photo.kdb --codec . --quality 0.5
    kdbench decode photo.kdb back.png --codec .

or, from Python, `model = kdbench.load(".")`: a CompressAI model with `compress` and `decompress`.

| level | quality | rd_lambda | bpp | PSNR dB | MS-SSIM |
|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

Mean over {len(card["images"])} photos, every byte of the files counted. Qualities between the
levels are interpolated.

{chr(10).join(f"- **{label}**: {text}" for label, text in _facts(card))}

`card.json` has all of this for programs, `spec.json` everything the training was told.
"""


def package_text(card: Mapping[str, Any], folder: str, width: int) -> str:
    """What `export` prints."""
    heads = ["level", "quality", "rd_lambda", "bpp", "PSNR dB", "MS-SSIM"]
    rows = [
        [str(at["level"]), _quality(at["quality"]), f"{at['rd_lambda']:g}", *point.split(" | ")]
        for at, point in zip(card["levels"], _points(card), strict=True)
    ]
    head = f"trial {card['trial']} of {card['study']} is now the package {folder}"
    facts = [wrapped(label, text, width, indent=LABEL) for label, text in _facts(card)]
    return f"{head}\n\n{table(heads, rows)}\n\n" + "\n".join(facts) + "\n"


def _points(card: Mapping[str, Any]) -> list[str]:
    """Bits and qualities by level."""
    by_level = {point["level"]: point for point in card["rd"]}
    found = []
    for at in card["levels"]:
        point = by_level[at["level"]]
        ms_ssim = "-" if point["ms_ssim"] is None else f"{point['ms_ssim']:.4f}"
        found.append(f"{point['bpp']:.4f} | {point['psnr_db']:.2f} | {ms_ssim}")
    return found


def _quality(quality: float | None) -> str:
    return "-" if quality is None else f"{quality:g}"


def _facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    costs, training = card["complexity"], card["training"]
    kmac = costs["kmac_per_px"]
    return [
        ("BD-rate", _bd_rate(card["bd_rate"], f"against {card['anchor']}")),
        (
            "size",
            f"{count(costs['params'])} parameters; {figure(kmac['encoder'])} kMAC/px to encode, "
            f"{figure(kmac['decoder'])} to decode",
        ),
        ("energy", _energy(card)),
        (
            "trained",
            f"{training['steps']} steps of {training['batch']} crops of {training['crop_px']} px, "
            f"seed {training['seed']}, "
            + (f"teacher {t}" if (t := training["distillation"]["teacher"]) else "no teacher"),
        ),
        ("licence", _licence(card["licence"])),
        ("h_s", _arithmetic(card)),
        *([("ONNX", _onnx(card["onnx"]))] if card["onnx"] else []),
        ("codec", f"{card['identity'][:16]}, as .kdb files name it"),
    ]


def _bd_rate(found: Mapping[str, Any] | None, against: str) -> str:
    if found is None:
        return "none: a single rate is no curve"
    interval = ""
    if found["low_pct"] is not None:
        interval = f" [{found['low_pct']:+.1f}, {found['high_pct']:+.1f}]"
    return f"{found['pct']:+.1f} %{interval} {against}, of the study's evaluation"


def _energy(card: Mapping[str, Any]) -> str:
    energy = card["energy"]
    if energy is None:
        return "not measured"
    after = "the trained student" if card["energy_of"] == "trained" else "before training"
    of = after + (", with a float h_s" if card["deterministic"] else "")
    assumed = ": processor time by an assumed power" if energy["source"] == "model" else ""
    return (
        f"{figure(energy['j_per_mpx'])} J/Mpx to encode and decode, source {energy['source']} "
        f"({energy['meter']}{assumed}), {of}"
    )


def _licence(licence: Mapping[str, Any]) -> str:
    stated = licence["weights"] or "nobody has stated one for these weights"
    teacher = licence["teacher"]
    if teacher is None:
        helped = ""
    else:
        terms = licence["teacher_licence"] or "licence not known"
        helped = f"; trained under {teacher} ({terms})"
    return f"{stated}{helped}; photos: {licence['photos']}"


def _arithmetic(card: Mapping[str, Any]) -> str:
    exact = card["deterministic"]
    if exact is None:
        return "float: files decode on machines of the kind that encoded them, others refuse them"
    cost = exact["bd_rate_against_float"]
    said = f"{cost['pct']:+.3f} % BD-rate" if cost else str(exact["why_no_bd_rate"])
    return f"integer: files decode on every machine; against the float h_s {said}"


def _onnx(files: Mapping[str, Any]) -> str:
    each = (
        f"{name} {f['max_abs_difference']:.2g} of {f['largest']:.3g}" for name, f in files.items()
    )
    return f"largest difference from torch in ONNX Runtime: {', '.join(each)}"
