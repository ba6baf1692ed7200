"""The smallest decoders worth having: what they cost and what they lose, beside published codecs.

    python -m benchmarks.frontier --images KODAK --reference tests/golden/kodak_rd.json CODEC ...

Every CODEC (teacher:NAME, file:PATH, trial:STUDY/N) codes every photo at every level into real
files that another process decodes. Multiply-accumulates are kdbench's (docs/method.md); the
decoder's are h_s + g_s. BD-rate [%, Akima, negative saves bits] against `--teacher` with a paired
bootstrap interval over the photos, and against bmshj2018-hyperprior's published curve, which is of
Kodak's 24 photos: that column means something for those only. Figures of other papers are what
those say, on Kodak, against the same curve; each counts multiply-accumulates in its own way.
A student with an encoder of N=64 takes about 3 minutes for 24 photos on a free core; curves are
kept under `--root`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kodak import Reference, bd_rates
from benchmarks.publish import add_out, markdown, publish, shown
from kdbench.bench import CodecFigures, bench_codec
from kdbench.data import load_images
from kdbench.errors import CodecError, QualityGapError
from kdbench.rd import bd_rate, bd_rate_pct
from kdbench.records import BDRate, Bench, Data, EnergyPlan, plain
from kdbench.store import Store

ANCHOR = "bmshj2018-hyperprior"
CLASSICAL = ("vtm", "av1", "bpg-444", "webp", "jpeg2000", "jpeg")  # of the reference file


class Published(NamedTuple):
    """A codec as others report it.

    Attributes:
        decoder_kmac_per_px: In their words; some give a range.
        bd_rate_pct: Likewise, against `ANCHOR` on Kodak.
    """

    name: str
    decoder_kmac_per_px: str
    bd_rate_pct: str
    how: str
    source: str


PUBLISHED = (
    Published("students N=64", "12.3", "+6.5", "uniform width; one point", "arXiv 2509.10366"),
    Published("students N=32", "3.8", "+28.8", "uniform width; one point", "arXiv 2509.10366"),
    Published("students N=16", "1.3", "+77", "uniform width; one point", "arXiv 2509.10366"),
    Published("shallow-NTC", "20.5", "+1.0", "large encoder, two layers back", "arXiv 2304.06244"),
    Published("shallow-NTC, SGA", "20.5", "-8.8", "and latents optimised", "arXiv 2304.06244"),
    Published("EVC-S", "35 + prior", "-17.5", "mask decay from a large one", "arXiv 2302.05071"),
    Published("EVC-M", "124 + prior", "-20.5", "mask decay from a large one", "arXiv 2302.05071"),
    Published("EVC-L", "258 + prior", "-21.4", "the large one", "arXiv 2302.05071"),
    Published("C3, Cool-chic 3.4", "1 to 3", "-20", "a decoder a photo", "arXiv 2312.02753"),
    Published("ELIC", "382", "-29", "channel and space contexts", "arXiv 2203.10886"),
    Published("MLIC+", "555", "-34", "many contexts", "arXiv 2211.07273"),
)


def against(figures: CodecFigures, teacher: CodecFigures) -> BDRate | None:
    """BD-rate of a codec against the teacher, on the same photos; None without common quality."""
    try:
        return bd_rate(figures.rd, teacher.rd)
    except QualityGapError:
        return None


def measured(
    codecs: Mapping[str, CodecFigures], teacher: CodecFigures, reference: Reference
) -> dict[str, dict[str, Any]]:
    """Costs and BD-rates of each codec, by its name."""
    found = {}
    for name, figures in codecs.items():
        costs, curve = figures.complexity, figures.rd
        if costs is None or teacher.complexity is None:
            raise CodecError(
                f"nobody counts the multiply-accumulates of {name}",
                fix="leave it out: the table has the classical codecs' published curves",
            )
        found[name] = {
            "params": costs.params,
            "encoder_kmac_per_px": costs.encoder_kmac_per_px,
            "decoder_kmac_per_px": costs.decoder_kmac_per_px,
            "h_s_kmac_per_px": costs.h_s,
            "share_of_teacher": costs.decoder_kmac_per_px / teacher.complexity.decoder_kmac_per_px,
            "bd_rate_teacher": plain(against(figures, teacher)),
            "bd_rate_pct": bd_rates(curve, {ANCHOR: reference[ANCHOR]})[ANCHOR],
            "rd": [plain(point) for point in curve.points],
            "decode_s_per_mpx": curve.decode_s_per_mpx,
            "estimated_over_real_bits": curve.estimated_over_real_bits,
            "sha": figures.sha,
        }
    return found


def tables(found: Mapping[str, Mapping[str, Any]], teacher: str, reference: Reference) -> str:
    """Ours, then what others report, then classical codecs."""
    ours = [
        [
            name,
            f"{codec['params'] / 1e6:.2f}M",
            f"{codec['encoder_kmac_per_px']:.2f}",
            f"{codec['decoder_kmac_per_px']:.2f}",
            f"{codec['share_of_teacher']:.3f}",
            _interval(codec["bd_rate_teacher"]),
            "-" if codec["bd_rate_pct"] is None else f"{codec['bd_rate_pct']:+.1f}",
        ]
        for name, codec in found.items()
    ]
    heads = [
        "codec",
        "params",
        "encoder kMAC/px",
        "decoder kMAC/px",
        "of the teacher's",
        f"BD-rate % against {teacher} [95 %]",
        f"against {ANCHOR}",
    ]
    theirs = [[p.name, p.decoder_kmac_per_px, p.bd_rate_pct, p.how, p.source] for p in PUBLISHED]
    anchor = reference[ANCHOR]
    classical = []
    for name in CLASSICAL:
        other = reference[name]
        pct = bd_rate_pct(other["bpp"], other["psnr_db"], anchor["bpp"], anchor["psnr_db"])
        classical.append([name, "-", f"{pct:+.1f}", "", "the reference file"])
    published = ["published", "decoder kMAC/px", f"BD-rate % against {ANCHOR}", "how", "source"]
    return f"{markdown(heads, ours)}\n\n{markdown(published, theirs + classical)}"


def _interval(rate: Mapping[str, float | None] | None) -> str:
    if rate is None:
        return "-"
    if rate["low_pct"] is None:
        return f"{rate['pct']:+.1f}"
    return f"{rate['pct']:+.1f} [{rate['low_pct']:+.1f}, {rate['high_pct']:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codecs", nargs="+", metavar="CODEC")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--reference", type=Path, required=True, help="published curves, JSON")
    parser.add_argument("--teacher", default="teacher:default", help="whom they are compared with")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="of trials and curves")
    add_out(parser, "frontier")
    arguments = parser.parse_args()
    reference: Reference = json.loads(arguments.reference.read_text())["codecs"]
    images, store = load_images(arguments.images, "evaluation"), Store(arguments.root)
    bench = Bench(
        data=Data(evaluation=str(arguments.images)),
        anchor=arguments.teacher,
        energy=EnergyPlan(meter="none"),
        device="cpu",
        precision="fp32",
        threads=1,
        cache=str(arguments.root / "cache"),
    )

    def figures(name: str) -> CodecFigures:
        return bench_codec(name, images, bench, store=store)

    teacher = figures(arguments.teacher)
    found = measured({shown(n): figures(n) for n in arguments.codecs}, teacher, reference)
    text = f"{images.n} photos\n\n{tables(found, arguments.teacher, reference)}"
    publish(arguments, text, {"images": list(images.names), "codecs": found})


if __name__ == "__main__":
    main()
