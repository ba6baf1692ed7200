"""What files that travel cost: an h_s in integers, and qualities between the trained levels.

    python -m benchmarks.travel teacher:default teacher:mean_scale          two minutes a codec

Real files of the built-in evaluation photos, decoded in this process, one thread. `integer h_s`:
BD-rate of the codec with its h_s rounded to integers against itself as it was trained, with a
paired bootstrap over the photos; CPU milliseconds of either h_s on a photo of 768x512 (median
of `REPEATS`). `between`: BD-rate of the curve through the middles between the trained levels, whose
gains are interpolated, against the curve through the levels; bits rise with the quality on every
photo, or the script ends.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from benchmarks.publish import add_out, markdown, publish, shown
from kdbench.anchor import codec_files
from kdbench.codecs.bitfile import (
    analyse_image,
    decode_image,
    encode_analysed,
    lay_out,
    to_tensor,
)
from kdbench.codecs.deterministic import with_integer_prior
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import load_codec
from kdbench.data import ImageSet, load_images
from kdbench.device import one_thread
from kdbench.rd import bd_rate, psnr_db
from kdbench.records import BDRate, RDCurve, RDPoint
from kdbench.store import Store

REPEATS = 15
Curve = dict[float, tuple[list[float], list[float]]]  # bpp and PSNR of each photo, by level


def coded(model: Hyperprior, images: ImageSet, levels: Sequence[float]) -> Curve:
    """Bits per pixel and PSNR of real files that say any level."""
    found: Curve = {level: ([], []) for level in levels}
    for i in range(images.n):
        image = images.image(i)
        analysed = analyse_image(model, image)
        for level in levels:
            data = encode_analysed(model, analysed, level, machine="")
            found[level][0].append(8 * len(data) / image[..., 0].size)
            found[level][1].append(psnr_db(image, decode_image(model, data), peak=255))
    return found


def curve_of(found: Curve, images: ImageSet, levels: Sequence[float]) -> RDCurve:
    """The points of `levels` alone."""
    return RDCurve(
        images=images.names,
        points=tuple(
            RDPoint(level=i, bpp=fmean(found[level][0]), psnr_db=fmean(found[level][1]))
            for i, level in enumerate(levels)
        ),
        image_bpp=tuple(tuple(found[level][0]) for level in levels),
        image_psnr_db=tuple(tuple(found[level][1]) for level in levels),
    )


def milliseconds(model: Hyperprior, z_hat: Tensor) -> float:
    """CPU milliseconds of one h_s: other work on the machine is not its fault."""
    took = []
    for _ in range(REPEATS):
        began = time.process_time()
        model.h_s(z_hat)
        took.append(1000 * (time.process_time() - began))
    return median(took)


@torch.no_grad()
def travelled(name: str) -> dict[str, Any]:
    """The row of one codec."""
    (path,) = codec_files(name, store=Store.locate())
    loaded, _ = load_codec(path)
    assert isinstance(loaded, Hyperprior)
    model, images = loaded, load_images("builtin", "evaluation")
    calm = load_images("builtin", "validation")
    exact = with_integer_prior(model, [calm.image(i) for i in range(calm.n)])
    lay_out(model)
    lay_out(exact)
    levels = [float(level) for level in range(model.architecture.n_levels)]
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    plain = coded(model, images, sorted([*levels, *middles]))
    for low, high in pairwise(plain.values()):
        assert all(a < b for a, b in zip(low[0], high[0], strict=True)), "bits do not rise"
    rounded = coded(exact, images, levels)
    at_levels = curve_of(plain, images, levels)
    z = model.hyper_latent(model.g_a(to_tensor(images.image(0))) * model.gain(len(levels) // 2))
    z_hat = model.rounded_hyper_latent(z)
    row = {
        "codec": shown(name),
        "photos": images.n,
        "integer": _plain(bd_rate(curve_of(rounded, images, levels), at_levels)),
        "between": _plain(bd_rate(curve_of(plain, images, middles), at_levels)),
        "h_s_ms": {"float": milliseconds(model, z_hat), "integer": milliseconds(exact, z_hat)},
    }
    print(row, flush=True)
    return row


def _plain(found: BDRate) -> dict[str, float | None]:
    return {"pct": found.pct, "low_pct": found.low_pct, "high_pct": found.high_pct}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a codec."""
    heads = ["codec", "integer h_s, BD-rate % [95 %]", "h_s float CPU ms", "integer"]
    return markdown(
        [*heads, "between levels, BD-rate % [95 %]"],
        [
            [
                row["codec"],
                _cell(row["integer"]),
                f"{row['h_s_ms']['float']:.1f}",
                f"{row['h_s_ms']['integer']:.1f}",
                _cell(row["between"]),
            ]
            for row in rows
        ],
    )


def _cell(found: dict[str, Any]) -> str:
    return f"{found['pct']:+.3f} [{found['low_pct']:+.3f}, {found['high_pct']:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codecs", nargs="+", metavar="CODEC", help="teacher:NAME, file:PATH, ...")
    add_out(parser, "travel")
    arguments = parser.parse_args()
    with one_thread():
        rows = [travelled(name) for name in arguments.codecs]
    publish(arguments, table(rows), {"rows": rows})


if __name__ == "__main__":
    main()
