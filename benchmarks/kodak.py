"""Rate-distortion of codecs on a folder of photos, and BD-rate against published curves.

    python -m benchmarks.kodak --images DIR --reference tests/golden/kodak_rd.json teacher:default

Real bitstreams through kdbench's evaluation (decoded in another process), every level of every
CODEC: teacher:NAME, file:PATH, jpeg, webp, jpeg2000, avif. BD-rate [%, Akima, negative saves bits]
against each codec of the reference file; where the curves share too little quality there is none.
The reference's curves are of Kodak's 24 photos: the BD-rates mean something for those only.
A teacher of N=64 takes about 4 minutes for five levels of 24 photos on a free core.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.publish import add_out, markdown, publish, shown
from kdbench.anchor import evaluate_by_name
from kdbench.data import load_images
from kdbench.errors import QualityGapError
from kdbench.rd import bd_rate_pct
from kdbench.records import RDCurve, plain

Reference = Mapping[str, Mapping[str, list[float]]]


def bd_rates(curve: RDCurve, reference: Reference) -> dict[str, float | None]:
    """BD-rate of `curve` against each codec of `reference` [%]; None without common quality."""
    bpp = [point.bpp for point in curve.points]
    psnr_db = [point.psnr_db for point in curve.points]
    found: dict[str, float | None] = {}
    for name, other in reference.items():
        try:
            found[name] = bd_rate_pct(bpp, psnr_db, other["bpp"], other["psnr_db"])
        except QualityGapError:
            found[name] = None
    return found


def tables(codecs: Mapping[str, Mapping[str, Any]], reference: Reference) -> str:
    """Curves, then BD-rates."""
    points = [
        [
            name,
            str(point["level"]),
            f"{point['bpp']:.4f}",
            f"{point['psnr_db']:.3f}",
            "-" if point["ms_ssim"] is None else f"{point['ms_ssim']:.4f}",
        ]
        for name, codec in codecs.items()
        for point in codec["rd"]
    ]
    rates = [
        [other, *(_percent(codec["bd_rate_pct"][other]) for codec in codecs.values())]
        for other in reference
    ]
    curves = markdown(["codec", "level", "bpp", "PSNR dB", "MS-SSIM"], points)
    return f"{curves}\n\n{markdown(['BD-rate % against', *codecs], rates)}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codecs", nargs="+", metavar="CODEC")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--reference", type=Path, required=True, help="published curves, JSON")
    add_out(parser, "kodak")
    arguments = parser.parse_args()
    reference: Reference = json.loads(arguments.reference.read_text())["codecs"]
    images = load_images(arguments.images, "evaluation")
    codecs = {}
    for name in arguments.codecs:
        curve = evaluate_by_name(name, images, device="cpu").curve
        codecs[shown(name)] = {
            "rd": [plain(point) for point in curve.points],
            "bd_rate_pct": bd_rates(curve, reference),
            "estimated_over_real_bits": curve.estimated_over_real_bits,
            "encode_s_per_mpx": curve.encode_s_per_mpx,
            "decode_s_per_mpx": curve.decode_s_per_mpx,
        }
    text = f"{images.n} photos\n\n{tables(codecs, reference)}"
    publish(arguments, text, {"images": list(images.names), "codecs": codecs})


if __name__ == "__main__":
    main()
