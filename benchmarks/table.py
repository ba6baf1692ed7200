"""A table of fully trained students, for `benchmarks.order` and `benchmarks.search` to read.

    python -m benchmarks.table --start ours --out ours.jsonl      about a minute a row on one core
    python -m benchmarks.table --start noise --out noise.jsonl

A row is a student of the default study's setting (`kd_pareto`: crops, steps, levels, photos, M and
hyper of the teacher): encoder and decoder width and learning rate vary, everything else is fixed.
Each is trained to its end and looked at on the way, at the shares `RUNGS` of its steps, as a ladder
would look.

`--start ours` is what kdbench does; `--start noise` is CompressAI's initialisation with latents
matched one to one, and the hyperprior from noise, too: what a script without a start does. Both go
through kdbench's loop (SOAP, one cosine), which flatters the script. For the script a row has,
besides, the CPU time of a step of the naive loop with a live teacher (`benchmarks.step`).

Seconds are CPU seconds of this process and its children, part by part, so that other work on the
machine changes little. Rows are written as they are found, in an order that is shuffled once;
started again, it goes on.
"""

import argparse
import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.setting import bench_in, cpu_s_of
from benchmarks.step import NaiveLoop, live
from kdbench.anchor import anchor_curve
from kdbench.codecs.building import build
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.narrow import LEAST_SHARE
from kdbench.codecs.weights import codec_bytes
from kdbench.cost import complexity_of
from kdbench.data import validation_crops
from kdbench.decoder import decoder
from kdbench.device import deterministic
from kdbench.distill import Distiller
from kdbench.errors import KdbenchError, QualityGapError
from kdbench.evaluate import evaluate_files
from kdbench.files import write_atomic
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.losses import estimated_loss
from kdbench.rd import bd_rate, require_interval
from kdbench.records import (
    Bench,
    Distillation,
    Hyper,
    Latent,
    RDCurve,
    Training,
    Transform,
    TrialSpec,
)
from kdbench.teacher import Teacher, load_teacher
from kdbench.train import train
from kdbench.trial import N_HELD_OUT, precision_of

TEACHER = "teacher:default"
AXES: dict[str, tuple[float, ...]] = {
    "encoder": (16, 32, 48, 64),
    "decoder": (16, 24, 32, 48),
    "learning_rate": (1.5e-3, 4e-3),
}
RUNGS = (1 / 27, 1 / 9, 1 / 3, 2 / 3)
SHORT = (1 / 9,)  # trained with a cosine of its own besides
RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
STARTS = ("ours", "noise")


class Clock:
    """CPU seconds of this process, its decoder and children that ended, since it was made."""

    def __init__(self) -> None:
        self._decoder = decoder().pid
        self._began = self._now()

    def _now(self) -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own_s = time.process_time() + children.ru_utime + children.ru_stime
        return own_s + cpu_s_of(self._decoder)

    def __call__(self) -> float:
        return self._now() - self._began


def specs(steps: int) -> list[TrialSpec]:
    """Every combination of `AXES`, shuffled: any first part of it is a sample of all."""
    found = [
        TrialSpec(
            encoder=Transform(width=int(encoder)),
            decoder=Transform(width=int(decoder)),
            hyper=Hyper(width=64),
            latent=Latent(channels=192),
            distillation=Distillation(teacher=TEACHER, latent=0.3, schedule="decaying"),
            training=Training(
                steps=steps,
                batch=8,
                crop_px=128,
                rd_lambdas=RD_LAMBDAS,
                learning_rate=rate,
            ),
            seed=0,
        )
        for encoder, decoder, rate in itertools.product(*AXES.values())
    ]
    random.Random(0).shuffle(found)
    return found


class FromNoise(Lesson):
    """A lesson whose student starts from CompressAI's initialisation."""

    def started(self, least_share: float = LEAST_SHARE) -> LearnedCodec:
        spec = self.spec
        torch.manual_seed(spec.seed)
        model = build(spec.architecture)
        self.distiller = self._distiller(list(range(spec.latent.channels)))
        return model


class Trainer:
    """Trains rows on one bench."""

    def __init__(self, folder: Path, start: str, n_crops: int, steps: int) -> None:
        self.bench: Bench = bench_in(folder, n_crops)
        self.folder, self.start = folder, start
        self.photos = study_photos("builtin", "builtin", "builtin", 128)
        self.crops = study_crops(self.photos["train"], n_crops, 128)
        self.held_out = validation_crops(self.photos["validation"], 128, N_HELD_OUT)
        self.anchor = anchor_curve(TEACHER, self.photos["evaluation"], device="cpu", cache=folder)

    def row(self, spec: TrialSpec) -> dict[str, Any]:
        """What one student shows on its way and at its end."""
        lesson = self._lesson(spec)
        clock, rungs = Clock(), []
        model = lesson.started()
        start_s = clock()
        looked_s = 0.0

        def look(step: int) -> None:
            nonlocal looked_s
            at, losses = clock() - looked_s, self._losses(model, spec)
            looked_s = clock() - at
            rungs.append({"step": step, "cpu_s": at, "losses": losses})

        self._train(model, lesson, spec, look)
        training_s = clock() - looked_s - start_s
        path = self.folder / "student.safetensors"
        write_atomic(path, codec_bytes(model, {"spec": spec}))
        clock = Clock()
        curve = evaluate_files([path], self.photos["evaluation"]).curve
        evaluation_s = clock()
        complexity = complexity_of(model, self.folder)
        found = {
            **self._score(curve),
            "validation_losses": [
                estimated_loss(model, self.held_out, spec, [i]) for i in range(len(RD_LAMBDAS))
            ],
            "kmac_per_px": complexity.kmac_per_px,
            "decoder_kmac_per_px": complexity.decoder_kmac_per_px,
            "params": complexity.params,
            "points": [[point.bpp, point.psnr_db] for point in curve.points],
            "rungs": rungs,
            "seconds": {
                "start": start_s,
                "training": training_s,
                "looks": looked_s,
                "evaluation": evaluation_s,
            },
        }
        if self.start == "ours":
            found["short"] = [self._short(spec, share) for share in SHORT]
        else:
            found["naive_step_s"] = self._naive_step_s(spec)
        return found

    def _lesson(self, spec: TrialSpec) -> Lesson:
        kind = Lesson if self.start == "ours" else FromNoise
        return kind.open(spec, self.bench, self.crops, lambda _: None)

    def _train(self, model: LearnedCodec, lesson: Lesson, spec: TrialSpec, look: Any) -> None:
        steps = spec.training.steps
        with deterministic(on=True):
            train(
                model,
                lesson.batch,
                spec.training,
                distiller=lesson.distiller,
                seed=spec.seed,
                device="cpu",
                precision=precision_of(self.bench),
                rungs=[round(share * steps) for share in RUNGS],
                at_rung=look,
            )

    def _losses(self, model: LearnedCodec, spec: TrialSpec) -> list[float]:
        """Of each level, as `losses.rung_values` looks."""
        with torch.random.fork_rng():
            copy = build(model.architecture)
        copy.load_state_dict(model.state_dict())
        copy.finalise()
        return [estimated_loss(copy, self.held_out, spec, [i]) for i in range(len(RD_LAMBDAS))]

    def _score(self, curve: RDCurve) -> dict[str, float | None]:
        """BD-rate [%]; None where the curve cannot be compared with the anchor's."""
        try:
            score = bd_rate(curve, self.anchor.curve)
            require_interval(score, self.photos["evaluation"].n)
        except QualityGapError:
            return {"bd_rate_pct": None}
        return {"bd_rate_pct": score.pct}

    def _short(self, spec: TrialSpec, share: float) -> dict[str, Any]:
        """The same student with so small a share of the steps, the rate falling to its end."""
        steps = round(share * spec.training.steps)
        brief = replace(spec, training=replace(spec.training, steps=steps))
        lesson = self._lesson(brief)
        model = lesson.started()
        self._train(model, lesson, brief, lambda _: None)
        return {"step": steps, "losses": self._losses(model, brief)}

    def _naive_step_s(self, spec: TrialSpec, n: int = 8) -> float:
        """CPU seconds of a step with the teacher live and trained through, its output terms off."""
        teacher = load_teacher(TEACHER)
        assert isinstance(teacher, Teacher)
        lesson = self._lesson(spec)
        student = lesson.started()
        assert isinstance(student, Hyperprior)
        assert isinstance(lesson.distiller, Distiller)
        alone = replace(spec, distillation=Distillation())
        untaught = Lesson.open(alone, self.bench, self.crops, lambda _: None).batch
        batches = live(untaught, teacher, spec, gradients=True)
        loop, times = NaiveLoop(student, lesson.distiller, spec, batches), []
        with deterministic(on=False):
            for step in range(n + 2):
                clock = Clock()
                loop.step(step)
                times.append(clock())
        return float(np.median(times[2:]))


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, in the order they were found.

    Raises:
        KdbenchError: There is no such file.
    """
    if not path.exists():
        raise KdbenchError(f"{path} is not there", fix="`python -m benchmarks.table` makes it")
    return [json.loads(line) for line in path.read_text().splitlines()]


def key(spec: TrialSpec) -> list[float]:
    """Values of `AXES`."""
    return [spec.encoder.width, spec.decoder.width, spec.training.learning_rate]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", choices=STARTS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--crops", type=int, default=768)
    parser.add_argument("--rows", type=int, default=len(specs(700)))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    out: Path = arguments.out
    done = [row["params_of"] for row in load_rows(out)] if out.exists() else []
    with tempfile.TemporaryDirectory(prefix="kdbench-table-") as folder:
        trainer = Trainer(Path(folder), arguments.start, arguments.crops, arguments.steps)
        for spec in specs(arguments.steps)[: arguments.rows]:
            if key(spec) in done:
                continue
            row = {"params_of": key(spec), "start": arguments.start, "steps": arguments.steps}
            row |= trainer.row(spec)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["params_of"], row["bd_rate_pct"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
