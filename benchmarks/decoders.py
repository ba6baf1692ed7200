"""What a decoder of a tenth of the teacher's cost should look like: structures, trained alike.

    python -m benchmarks.decoders                       about 8 minutes on a free core
    python -m benchmarks.decoders --steps 4 --crops 128 --only "2 layers, x8 of 8"          a test

Every student has the teacher's encoder, hyperprior and live latents (those that are ever coded),
taken over whole unless its row says otherwise, and a decoder of its own, fitted by least squares;
all of it is then trained under `teacher:default`, on the same crops from the same seed. Told is
R + rd_lambda 255^2 D on validation crops, mean over the levels, against the teacher's own loss,
before the first step and after the last, and what the decoder costs, h_s and g_s.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inherit import RD_LAMBDAS, Room
from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import spec_of
from kdbench.codecs.building import build
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.regression import in_chunks
from kdbench.complexity import measure_complexity
from kdbench.losses import Pixels, estimated_loss
from kdbench.records import Distillation, Hyper, Latent, Transform, TrialSpec
from kdbench.teacher import load_teacher
from kdbench.train import to_tensor

TEACHER = "teacher:default"
LATENT_WEIGHT = 0.1
CODED = 1e-3  # share of a live channel's symbols that are not 0, at the highest level
LIVE = None

Structure = tuple[Transform, int, int | None]  # decoder, width of the hyperprior, latents if told
STRUCTURES: dict[str, Structure] = {
    "4 layers of 8": (Transform(width=8), 64, LIVE),
    "4 layers of 12": (Transform(width=12), 64, LIVE),
    "4 layers of 12, all 192 latents": (Transform(width=12), 64, 192),
    "4 layers of 15, hyper 32": (Transform(width=15), 32, LIVE),
    "tapered from 26": (Transform(width=26, taper=2), 64, LIVE),
    "tapered from 30, hyper 48": (Transform(width=30, taper=2), 48, LIVE),
    "tapered from 48, kernel 3": (Transform(width=48, kernel=3, taper=2), 64, LIVE),
    "2 layers, x8 of 8": (Transform(width=8, kernel=3, layers=2), 64, LIVE),
    "2 layers, x4 of 24": (Transform(width=24, kernel=3, layers=2, stride=4), 64, LIVE),
    "2 layers, x2 of 48": (Transform(width=48, kernel=3, layers=2, stride=2), 64, LIVE),
    "separable, 4 layers of 16": (Transform(width=16, convolution="separable"), 64, LIVE),
    "separable, tapered from 64": (
        Transform(width=64, kernel=3, convolution="separable", taper=2),
        64,
        LIVE,
    ),
}


@torch.no_grad()
def live_latents(model: Hyperprior, crops: Pixels) -> int:
    """How many of the latent channels of `crops` are not always 0 at the highest level."""
    y = in_chunks(model.g_a, to_tensor(crops, "cpu"))
    symbols = (y * model.gain(model.architecture.n_levels - 1)).round()
    coded: Tensor = (symbols != 0).float().mean((0, 2, 3)) > CODED
    return int(coded.sum())


def student(structure: Structure, live: int, steps: int, rate: float) -> TrialSpec:
    """What is trained."""
    decoder, hyper, latents = structure
    spec = spec_of(
        load_teacher(TEACHER).model.architecture.encoder.width, steps, TEACHER, RD_LAMBDAS
    )
    return replace(
        spec,
        decoder=decoder,
        hyper=Hyper(width=hyper),
        latent=Latent(channels=latents or live),
        distillation=Distillation(teacher=TEACHER, latent=LATENT_WEIGHT, schedule="decaying"),
        training=replace(spec.training, learning_rate=rate),
    )


def tried(room: Room, name: str, spec: TrialSpec, teacher_loss: float) -> dict[str, Any]:
    """Costs of one structure, and its losses over the teacher's [%]."""
    costs = measure_complexity(build(spec.architecture))
    found = room.taught(spec)
    row = {
        "structure": name,
        "h_s_kmac_per_px": costs.h_s,
        "g_s_kmac_per_px": costs.g_s,
        "decoder_kmac_per_px": costs.decoder_kmac_per_px,
        "at_start_pct": 100 * (found["loss_at_start"] / teacher_loss - 1),
        "trained_pct": 100 * (found["loss"] / teacher_loss - 1),
        **found,
    }
    print(row, flush=True)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Best first."""
    heads = ["decoder", "h_s", "g_s", "kMAC/px", "loss at start %", "loss trained %"]
    cells = [
        [
            row["structure"],
            f"{row['h_s_kmac_per_px']:.2f}",
            f"{row['g_s_kmac_per_px']:.2f}",
            f"{row['decoder_kmac_per_px']:.2f}",
            f"{row['at_start_pct']:+.1f}",
            f"{row['trained_pct']:+.1f}",
        ]
        for row in sorted(rows, key=lambda row: row["trained_pct"])
    ]
    return markdown(heads, cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="of each training (200)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (0.002)")
    parser.add_argument("--crops", type=int, default=768, help="training crops (768)")
    parser.add_argument(
        "--only", nargs="+", choices=list(STRUCTURES), default=list(STRUCTURES), metavar="NAME"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps the teacher's outputs")
    add_out(parser, "decoders")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        room = Room.in_folder(arguments.cache or Path(folder), arguments.crops)
        teacher = load_teacher(TEACHER).model
        live = live_latents(teacher, room.unseen)
        specs = {
            name: student(STRUCTURES[name], live, arguments.steps, arguments.rate)
            for name in arguments.only
        }
        teacher_loss = estimated_loss(teacher, room.unseen, next(iter(specs.values())))
        rows = [tried(room, name, spec, teacher_loss) for name, spec in specs.items()]
    text = (
        f"{arguments.steps} steps of 8 crops, seed 0; {live} of the teacher's "
        f"{teacher.architecture.latent.channels} latents are live\n\n{table(rows)}"
    )
    publish(arguments, text, {"teacher_loss": teacher_loss, "live_latents": live, "rows": rows})


if __name__ == "__main__":
    main()
