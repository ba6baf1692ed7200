"""What weights do to energy and time: random, started and trained ones of one architecture.

    python -m benchmarks.weights_and_cost [--rounds K]       3 minutes with 3 rounds, on one core

Architectures are those of the built-in teachers, whose weights are the trained ones. Started is a
plain KLT with the scales of its own latents, random is what the layers come with. Each is encoded
and decoded as `energy.measure` does it, in rounds that take the three in turn. Tells whether a
target device must have a student's weights, or could do with its architecture.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from benchmarks.publish import add_out, markdown, publish
from kdbench.cards import list_teachers
from kdbench.codecs.bitfile import encode_image
from kdbench.codecs.building import build
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.weights import load_codec
from kdbench.cost import measure_codec
from kdbench.data import draw_crops, load_images
from kdbench.device import keep_freed_memory, one_thread
from kdbench.energy import pick
from kdbench.lease import host_lease
from kdbench.records import EnergyPlan

TEACHERS = ("small", "default")
KINDS = ("random", "started", "trained")
N_CROPS, CROP_PX = 64, 128
LEASE_S = 600.0


def variants(path: Path) -> dict[str, LearnedCodec]:
    """The codec in `path`, and what its architecture was before it was trained, twice."""
    trained, card = load_codec(path)
    found = {}
    for kind in ("random", "started"):
        torch.manual_seed(0)
        model = build(trained.architecture)
        model.eval()
        if kind == "started":
            drawn = draw_crops(load_images("builtin", "train"), N_CROPS, CROP_PX, seed=0)
            crops = torch.from_numpy(np.stack([drawn.crop(i) for i in range(N_CROPS)]))
            first = crops.float() / 255
            klt_start(model, first, card["training"]["rd_lambdas"])
            scale_start(model, first)
        model.finalise()
        found[kind] = model
    return found | {"trained": trained}


def figures(rounds: int) -> list[dict[str, Any]]:
    """One row an architecture and kind: bits, joules, seconds; medians over the rounds."""
    plan, images = EnergyPlan(windows=1), load_images("builtin", "evaluation")
    meter = pick(plan, "cpu")
    assert meter is not None  # without a counter it is a model
    photo = images.image(0)
    rows = []
    for name in TEACHERS:
        models = variants(list_teachers()[name])
        found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, model in models.items():
                with host_lease().exclusive(LEASE_S):
                    found[kind].append(measure_codec(model, photo, meter, plan, {}))
        for kind, energies in found.items():
            model = models[kind]
            with one_thread():
                n_bytes = len(encode_image(model, photo, model.architecture.n_levels // 2))
            rows.append(
                {
                    "teacher": name,
                    "weights": kind,
                    "bpp": 8 * n_bytes / photo[..., 0].size,
                    "source": energies[0].source,
                    **{
                        f"{side}_{unit}_per_mpx": median(read(energy, side) for energy in energies)
                        for side in ("encode", "decode")
                        for unit, read in (("j", _joules), ("s", _seconds))
                    },
                }
            )
    return rows


def _joules(energy: Any, side: str) -> float:
    return float(fmean(getattr(energy, side).gross_j_per_mpx))


def _seconds(energy: Any, side: str) -> float:
    return float(getattr(energy, side).s_per_mpx)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each with its energy against that of the started one."""
    heads = ["teacher", "weights", "bpp", "encode J/Mpx", "decode J/Mpx", "both, %", "source"]
    cells = []
    for row in rows:
        started = next(
            r for r in rows if (r["teacher"], r["weights"]) == (row["teacher"], "started")
        )
        change = 100 * (_both(row) / _both(started) - 1)
        cells.append(
            [
                row["teacher"],
                row["weights"],
                f"{row['bpp']:.3f}",
                f"{row['encode_j_per_mpx']:.3f}",
                f"{row['decode_j_per_mpx']:.3f}",
                f"{change:+.1f}",
                row["source"],
            ]
        )
    return markdown(heads, cells, left=2)


def _both(row: Mapping[str, Any]) -> float:
    return float(row["encode_j_per_mpx"]) + float(row["decode_j_per_mpx"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="K")
    add_out(parser, "weights_and_cost")
    arguments = parser.parse_args()
    keep_freed_memory()
    rows = figures(arguments.rounds)
    publish(arguments, table(rows), {"rows": rows})


if __name__ == "__main__":
    main()
