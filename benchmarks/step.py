"""Milliseconds per training step: kdbench's loop against the loop of the paper's code.

    python -m benchmarks.step                      about 5 minutes on a free core
    python -m benchmarks.step --widths 16 --steps 40 --crops 16        a smoke test

Uniform students (M = 192) on the same crops, all four distillation terms on, one thread, five
loops that take turns step by step, kdbench's in one process and the others in another:

    kdbench          `train.train` as a trial runs it: cached teacher, SOAP, bf16 where there is
                     hardware for it, deterministic kernels
    cache only       the naive loop with the cached teacher: what the cache alone gives
    live, no_grad    naive, and the teacher runs in every step, without gradients
    live, gradients  naive, as the paper's code does: the teacher is trained through
    untaught         CompressAI's `ScaleHyperprior` with its `RateDistortionLoss` at one rate, Adam,
                     and Adam on the quantiles, as CompressAI's training example: no distillation

Naive is CompressAI's own layers and entropy models, fp32, channels first, Adam. Its terms of
distillation are kdbench's, which flatters it. kdbench keeps freed memory as a trial does
(`device.keep_freed_memory`); the others have the allocator as it comes. A figure is the median over
blocks of ten steps of the mean of each, since SOAP refreshes its eigenvectors in every tenth; the
first block is left out; of kdbench's last steps, which are fp32, apart, and added by their share.
Wall time, and CPU time of the process, which other work on the machine changes less.

The paper's teacher has N = 128, M = 192. What a step costs does not depend on weights, so one that
is hardly trained stands for it:

    kdbench teach n128 --width 128 --hyper 128 --steps 10
    python -m benchmarks.step --teacher teacher:n128 --out benchmarks/results/step_n128.json

Beside the times stand the multiply-accumulates of a student's step, counted as three forward passes
(one forward, two backward), as a share of what one thread here does in a large matrix product.
"""

import argparse
import copy
import itertools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN
from compressai.losses import RateDistortionLoss
from compressai.models import ScaleHyperprior
from torch import Tensor, nn

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import BLOCK, Batches, bench_in, spec_of, typical_ms
from kdbench.codecs import coder, layers
from kdbench.codecs.building import build
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.complexity import measure_complexity
from kdbench.data import CropList
from kdbench.device import deterministic
from kdbench.distill import (
    Distiller,
    Targets,
    output_bpp,
    rate_distortion,
    squared_steps_bpp,
)
from kdbench.divergence import discretised_kl_bits
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.records import Bench, Distillation, TrialSpec
from kdbench.teacher import Teacher, load_teacher
from kdbench.train import CLIP_NORM, EXACT_SHARE, Batch, train
from kdbench.trial import precision_of

OURS, CACHED, NO_GRAD, GRADIENTS = "kdbench", "cache only", "live, no_grad", "live, gradients"
UNTAUGHT = "untaught"
LOOPS = (OURS, CACHED, NO_GRAD, GRADIENTS, UNTAUGHT)


PLAIN: dict[type, type] = {
    layers.GDN: GDN,
    layers.Deconv: nn.ConvTranspose2d,
    coder.FactorisedPrior: EntropyBottleneck,
    coder.GaussianPrior: GaussianConditional,
}
SIDE = 2048  # of the matrices whose product is timed


@dataclass
class Times:
    """Seconds of each step, by loop."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {loop: [] for loop in LOOPS})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {loop: [] for loop in LOOPS})

    def add(self, loop: str, began: tuple[float, float]) -> None:
        """Notes a step of `loop` that began at `now()`."""
        wall, cpu = now()
        self.wall[loop].append(wall - began[0])
        self.cpu[loop].append(cpu - began[1])


def ours_ms(seconds: Sequence[float]) -> float:
    """`typical_ms` of the steps of a whole training, whose last ones are another precision's."""
    first = math.ceil((1 - EXACT_SHARE) * len(seconds))
    before, exact = typical_ms(seconds[:first]), typical_ms(seconds[first - BLOCK :])
    return (1 - EXACT_SHARE) * before + EXACT_SHARE * exact


def now() -> tuple[float, float]:
    """Wall and CPU clock [s]."""
    return time.perf_counter(), time.process_time()


def plain(student: Hyperprior) -> Hyperprior:
    """A copy made of CompressAI's own layers and entropy models."""
    copied = copy.deepcopy(student)
    for module in copied.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return copied


class NaiveLoop:
    """A student of its own in a plain loop: CompressAI's layers, fp32, channels first, Adam."""

    def __init__(
        self, student: Hyperprior, distiller: Distiller, spec: TrialSpec, batches: Batches
    ) -> None:
        self._student, self._distiller = plain(student), copy.deepcopy(distiller)
        self._student.train()
        both = nn.ModuleList([self._student, self._distiller])
        self._parameters = [p for n, p in both.named_parameters() if not n.endswith("quantiles")]
        self._optimiser = torch.optim.Adam(self._parameters, lr=1e-4)
        self._rd_lambdas = torch.tensor(spec.training.rd_lambdas)
        self._batches = batches

    def step(self, step: int) -> float:
        """One update; returns the loss."""
        batch = self._batches(step)
        assert isinstance(batch.targets, Targets)
        rd_lambda = self._rd_lambdas[batch.levels]
        x = batch.x.contiguous()
        out = self._student(x, batch.levels)
        loss = rate_distortion(out, x, rd_lambda).loss
        loss = loss + terms_through_teacher(self._distiller, out, batch.targets, rd_lambda)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._optimiser.step()
        return loss.item()


class UntaughtLoop:
    """CompressAI's model and loss of one rate and no teacher: fp32, channels first, two Adams."""

    def __init__(self, spec: TrialSpec, batches: Batches) -> None:
        self._model = ScaleHyperprior(spec.encoder.width, spec.latent.channels)
        self._model.train()
        rd_lambdas = spec.training.rd_lambdas
        self._loss = RateDistortionLoss(lmbda=rd_lambdas[len(rd_lambdas) // 2])
        named = list(self._model.named_parameters())
        self._parameters = [p for n, p in named if not n.endswith("quantiles")]
        quantiles = [p for n, p in named if n.endswith("quantiles")]
        self._optimiser = torch.optim.Adam(self._parameters, lr=1e-4)
        self._aux_optimiser = torch.optim.Adam(quantiles, lr=1e-3)
        self._batches = batches

    def step(self, step: int) -> float:
        """One update of weights and quantiles; returns the loss."""
        x = self._batches(step).x.contiguous()
        self._optimiser.zero_grad()
        self._aux_optimiser.zero_grad()
        loss: Tensor = self._loss(self._model(x), x)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._optimiser.step()
        aux_loss = self._model.aux_loss()
        aux_loss.backward()
        self._aux_optimiser.step()
        return loss.item()


def terms_through_teacher(
    distiller: Distiller, out: dict[str, Tensor], targets: Targets, rd_lambda: Tensor
) -> Tensor:
    """The distiller's terms at temperature 1, without its guard: a teacher gets its gradient."""
    assert targets.z is not None
    assert targets.scales is not None
    plan, pixels = distiller.plan, targets.x_hat.shape[-2] * targets.x_hat.shape[-1]
    y, z = distiller.y_connector(out["y"]), distiller.z_connector(out["z"])
    kl = discretised_kl_bits(targets.scales, out["scales"]).sum() / (len(rd_lambda) * pixels)
    terms: Tensor = (
        plan.latent * squared_steps_bpp(y, targets.y, pixels)
        + plan.hyper_latent * squared_steps_bpp(z, targets.z, pixels)
        + plan.output * output_bpp(out["x_hat"], targets.x_hat, rd_lambda)
        + plan.entropy * kl
    )
    return terms


def live(batches: Batches, teacher: Teacher, spec: TrialSpec, *, gradients: bool) -> Batches:
    """`batches` with the outputs of a teacher that runs here and now."""
    model = teacher.model.requires_grad_(gradients)
    levels = torch.tensor(teacher.levels_for(spec.training.rd_lambdas))

    def taught(step: int) -> Batch:
        batch = batches(step)
        with torch.set_grad_enabled(gradients):
            out = model(batch.x.contiguous(), levels[batch.levels])
        return batch._replace(targets=Targets.of(out))

    return taught


class OtherLoops:
    """Every loop but kdbench's, made and run in a process of their own, as its user would.

    kdbench tunes the allocator of its process (`device.keep_freed_memory`), which no other loop
    does.
    """

    def __init__(self, spec: TrialSpec, bench: Bench, crops: CropList, teacher: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        arguments = (theirs, spec, bench, crops, teacher)
        self._process = context.Process(target=serve_loops, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv()  # they are ready

    def turn(self) -> dict[str, tuple[float, float]]:
        """A step of each; wall and CPU seconds by loop."""
        self._ours.send(True)
        seconds: dict[str, tuple[float, float]] = self._ours.recv()
        return seconds

    def stop(self) -> None:
        """Ends the process."""
        self._ours.close()
        self._process.join()


def serve_loops(
    pipe: Connection, spec: TrialSpec, bench: Bench, crops: CropList, name: str
) -> None:
    """The other side of `OtherLoops`."""
    torch.set_num_threads(1)
    teacher = load_teacher(name)
    lesson = Lesson.open(spec, bench, crops, lambda _: None)
    alone = replace(spec, distillation=Distillation())
    untaught = Lesson.open(alone, bench, crops, lambda _: None).batch
    student = lesson.started()
    assert isinstance(lesson.distiller, Distiller)
    sources = {
        CACHED: lesson.batch,
        NO_GRAD: live(untaught, teacher, spec, gradients=False),
        GRADIENTS: live(untaught, copy.deepcopy(teacher), spec, gradients=True),
    }
    loops: dict[str, NaiveLoop | UntaughtLoop] = {
        loop: NaiveLoop(student, lesson.distiller, spec, batches)
        for loop, batches in sources.items()
    }
    loops[UNTAUGHT] = UntaughtLoop(spec, untaught)
    pipe.send("ready")
    for step in itertools.count():
        try:
            pipe.recv()
        except EOFError:
            return
        seconds = {}
        for which, loop in loops.items():
            began = now()
            loop.step(step)
            ended = now()
            seconds[which] = (ended[0] - began[0], ended[1] - began[1])
        pipe.send(seconds)


def measure(spec: TrialSpec, bench: Bench, crops: CropList, teacher: str) -> Times:
    """Every loop's steps, taking turns."""
    lesson = Lesson.open(spec, bench, crops, lambda _: None)
    student = lesson.started()
    others = OtherLoops(spec, bench, crops, teacher)
    times, began = Times(), now()

    def others_turn() -> None:
        nonlocal began
        times.add(OURS, began)
        for loop, (wall_s, cpu_s) in others.turn().items():
            times.wall[loop].append(wall_s)
            times.cpu[loop].append(cpu_s)
        began = now()

    try:
        with deterministic():
            began = now()
            train(
                student,
                lesson.batch,
                spec.training,
                distiller=lesson.distiller,
                seed=spec.seed,
                device="cpu",
                precision=precision_of(bench),
                between_steps=others_turn,
            )
    finally:
        others.stop()
    return times


def cache_ms_per_crop(spec: TrialSpec, bench: Bench, crops: CropList) -> float:
    """CPU time of building the teacher's cache, which all trials of a study share [ms]."""
    crops.crops(Path(bench.cache))
    began = time.process_time()
    Lesson.open(spec, bench, crops, lambda _: None)
    return 1000 * (time.process_time() - began) / crops.n


def step_gflop(spec: TrialSpec) -> float:
    """Of a step of this student on its own: two a MAC, backward as two forward passes."""
    kmac_per_px = measure_complexity(build(spec.architecture)).kmac_per_px
    return 2 * 3 * 1000 * kmac_per_px * spec.training.batch * spec.training.crop_px**2 / 1e9


def matrix_gflop_per_s(dtype: torch.dtype) -> float:
    """What a product of large matrices reaches in CPU time, the fastest of ten."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in "ab")
    seconds = []
    for _ in range(10):
        began = time.process_time()
        a @ b
        seconds.append(time.process_time() - began)
    return 2 * SIDE**3 / min(seconds) / 1e9


def work(found: Sequence[dict[str, Any]], rates: dict[str, float]) -> str:
    """One row a width: what its step computes, how fast, and which share of the rates that is."""
    rows = []
    for at in found:
        rate = 1000 * at["gflop"] / at["cpu_ms"][OURS]
        shares = (f"{100 * rate / reached:.1f} %" for reached in rates.values())
        rows.append([str(at["width"]), f"{at['gflop']:.2f}", f"{rate:.0f}", *shares])
    heads = ["N", "GFLOP/step", "GFLOP/s"]
    heads += [f"of {name}'s {reached:.0f}" for name, reached in rates.items()]
    return markdown(heads, rows)


def table(found: Sequence[dict[str, Any]]) -> str:
    """One row a width and loop: milliseconds, and how many times kdbench's."""
    rows = [
        [
            str(at["width"]),
            loop,
            *(f"{at[clock][loop]:.1f}" for clock in ("wall_ms", "cpu_ms")),
            *(f"{at[clock][loop] / at[clock][OURS]:.1f}" for clock in ("wall_ms", "cpu_ms")),
        ]
        for at in found
        for loop in LOOPS
    ]
    heads = ["N", "loop", "ms/step", "CPU ms/step", "x kdbench", "x in CPU time"]
    return markdown(heads, rows, left=2)


def by_loop(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Milliseconds a step of each loop."""
    return {loop: (ours_ms if loop == OURS else typical_ms)(each) for loop, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64], metavar="N")
    parser.add_argument("--steps", type=int, default=60, help="of each loop, 40 or more")
    parser.add_argument("--crops", type=int, default=128, help="cached, of the built-in photos")
    parser.add_argument("--teacher", default="teacher:default")
    add_out(parser, "step")
    arguments = parser.parse_args()
    if arguments.steps < 4 * BLOCK:
        parser.error(f"--steps must be at least {4 * BLOCK}: blocks of {BLOCK}, before and after")
    torch.set_num_threads(1)
    teacher = load_teacher(arguments.teacher)
    photos = study_photos("builtin", "builtin", "builtin", 128)
    crops = study_crops(photos["train"], arguments.crops, 128)
    found = []
    with tempfile.TemporaryDirectory(prefix="kdbench-step-") as folder:
        bench = bench_in(Path(folder), crops.n)
        specs = [
            spec_of(width, arguments.steps, arguments.teacher, teacher.rd_lambdas)
            for width in arguments.widths
        ]
        cache_ms = cache_ms_per_crop(specs[0], bench, crops)
        for width, spec in zip(arguments.widths, specs, strict=True):
            times = measure(spec, bench, crops, arguments.teacher)
            found.append(
                {
                    "width": width,
                    "gflop": step_gflop(spec),
                    "wall_ms": by_loop(times.wall),
                    "cpu_ms": by_loop(times.cpu),
                }
            )
    rates = {
        name: matrix_gflop_per_s(dtype)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    note = f"The cache costs {cache_ms:.0f} ms of CPU time a crop, once per study."
    publish(
        arguments,
        f"{table(found)}\n\n{work(found, rates)}\n\n{note}",
        {
            "widths": found,
            "cache_ms_per_crop": cache_ms,
            "precision": precision_of(bench),
            "matrix_gflop_per_s": rates,
        },
    )


if __name__ == "__main__":
    main()
