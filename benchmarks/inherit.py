"""A student that starts as a slice of its teacher, against one that starts as a block KLT.

    python -m benchmarks.inherit                       about 15 minutes on a free core
    python -m benchmarks.inherit --students 8/8 --steps 4 --seeds 1 --crops 128       a test

R + rd_lambda 255^2 D on validation crops after training under `--teacher` (latent term alone, 1
falling to 0), on the same batches, seed by seed. Equal CPU seconds, the start counted: a start that
costs more than the KLT's loses as many steps as it could have made meanwhile. Here a slice may have
any width; the product asks for `narrow.LEAST_SHARE` of the teacher's.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import bench_in, spec_of
from kdbench.codecs.building import build
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.narrow import LEAST_SHARE
from kdbench.data import CropList, validation_crops
from kdbench.device import keep_freed_memory
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.losses import Pixels, estimated_loss
from kdbench.records import Bench, Distillation, Transform, TrialSpec
from kdbench.train import train
from kdbench.trial import N_HELD_OUT, precision_of

KLT, SLICE = "KLT", "slice"
STARTS = {KLT: 2.0, SLICE: 0.0}  # least share of the teacher's width: more than all, and any
RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What all trainings share."""

    bench: Bench
    crops: CropList
    unseen: Pixels

    @classmethod
    def in_folder(cls, folder: Path, n_crops: int) -> "Room":
        """On the built-in photos and one thread, with the teacher's cache in `folder`."""
        torch.set_num_threads(1)
        keep_freed_memory()
        photos = study_photos("builtin", "builtin", "builtin", 128)
        return cls(
            bench=bench_in(folder, n_crops),
            crops=study_crops(photos["train"], n_crops, 128),
            unseen=validation_crops(photos["validation"], 128, N_HELD_OUT),
        )

    def taught(
        self,
        spec: TrialSpec,
        least_share: float = LEAST_SHARE,
        prepare: Callable[[LearnedCodec], None] = lambda _: None,
    ) -> dict[str, float]:
        """Losses of the student before and after its training, and the CPU seconds of both."""
        lesson = Lesson.open(spec, self.bench, self.crops, lambda _: None)
        began = time.process_time()
        model = lesson.started(least_share)
        prepare(model)
        started = time.process_time()
        loss_at_start = self._loss(model, spec)
        begun = time.process_time()
        train(
            model,
            lesson.batch,
            spec.training,
            distiller=lesson.distiller,
            seed=spec.seed,
            device=self.bench.device,
            precision=precision_of(self.bench),
        )
        return {
            "start_s": started - began,
            "training_s": time.process_time() - begun,
            "loss_at_start": loss_at_start,
            "loss": estimated_loss(model, self.unseen, spec),
        }

    def _loss(self, model: LearnedCodec, spec: TrialSpec) -> float:
        with torch.random.fork_rng():
            copy = build(model.architecture)
        copy.load_state_dict(model.state_dict())
        copy.finalise()
        return estimated_loss(copy, self.unseen, spec)


def steps_left(n_steps: int, extra_s: float, step_s: float) -> int:
    """Of `n_steps`, those that are left to a start that takes `extra_s` longer; at least one."""
    return max(1, n_steps - round(extra_s / step_s))


def student(text: str) -> tuple[int, int]:
    """`ENCODER/DECODER` -> the two widths."""
    encoder, _, decoder = text.partition("/")
    return int(encoder), int(decoder or encoder)


def compare(room: Room, spec: TrialSpec) -> list[dict[str, Any]]:
    """One row a start, the KLT's first, which sets the seconds."""
    rows: list[dict[str, Any]] = []
    n_steps = spec.training.steps
    for name, least_share in STARTS.items():
        given = spec
        if rows:
            first = rows[0]
            probe = Lesson.open(spec, room.bench, room.crops, lambda _: None)
            began = time.process_time()
            probe.started(least_share)
            extra_s = time.process_time() - began - first["start_s"]
            steps = steps_left(n_steps, extra_s, first["training_s"] / n_steps)
            given = replace(spec, training=replace(spec.training, steps=steps))
        row = {
            "student": f"{spec.encoder.width}/{spec.decoder.width}",
            "asked": n_steps,
            "learning_rate": spec.training.learning_rate,
            "start": name,
            "seed": spec.seed,
            "steps": given.training.steps,
        }
        row |= room.taught(given, least_share)
        print(row, flush=True)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """One row a student, length and start: means over the seeds, and each against the KLT's."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["student"], row["asked"], row["learning_rate"], row["start"])
        groups.setdefault(key, []).append(row)
    cells = []
    for (widths, asked, rate, start), found in groups.items():
        klt = groups[widths, asked, rate, KLT]
        changes = [
            100 * (row["loss"] / other["loss"] - 1) for row, other in zip(found, klt, strict=True)
        ]
        cells.append(
            [
                f"{widths}",
                f"{asked}",
                f"{rate:g}",
                start,
                *(f"{fmean(row[name] for row in found):.1f}" for name in ("start_s", "steps")),
                *(f"{fmean(row[name] for row in found):.4f}" for name in ("loss_at_start", "loss")),
                f"{fmean(changes):+.1f} %",
                " ".join(f"{change:+.1f}" for change in changes),
            ]
        )
    heads = ["g_a/g_s", "steps", "rate", "start", "start s", "steps left"]
    heads += ["loss at start", "loss", "to KLT", "seed by seed"]
    return markdown(heads, cells, left=4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", nargs="+", default=["16/16", "32/32", "48/48", "64/16"])
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 700])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3])
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--crops", type=int, default=768, help="training crops, built-in photos")
    parser.add_argument("--teacher", default="teacher:default")
    add_out(parser, "inherit")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kdbench-inherit-") as folder:
        room = Room.in_folder(Path(folder), arguments.crops)
        for steps in arguments.steps:
            for encoder, decoder in map(student, arguments.students):
                for rate in arguments.rates:
                    for seed in range(arguments.seeds):
                        spec = spec_of(encoder, steps, arguments.teacher, RD_LAMBDAS)
                        spec = replace(
                            spec,
                            decoder=Transform(width=decoder),
                            hyper=replace(spec.hyper, width=64),
                            distillation=Distillation(
                                teacher=arguments.teacher, latent=1.0, schedule="decaying"
                            ),
                            training=replace(spec.training, learning_rate=rate),
                            seed=seed,
                        )
                        rows += compare(room, spec)
                precision = precision_of(room.bench)
                publish(arguments, table(rows), {"trainings": rows, "precision": precision})


if __name__ == "__main__":
    main()
