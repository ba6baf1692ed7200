"""SOAP as kdbench has it, against Adam and against the SOAP of `pytorch_optimizer`, if installed.

    python -m benchmarks.optimiser                 about 15 minutes on a free core
    python -m benchmarks.optimiser --steps 4 --rates 1e-3 --widths 16 --train-width 16     a test

(1) CPU milliseconds per optimiser step at each of `--widths`, turn by turn, on the gradients of one
batch: median over blocks of ten steps of the mean of each, refreshes included.
(2) R + rd_lambda 255^2 D on validation crops after training one student (`--train-width`) alone
from the same start with the same batches, learning rate by learning rate: after equal steps, and
after equal CPU seconds, where each optimiser gets as many steps as fit into the time that
kdbench's SOAP took for `--steps`, under a schedule of that length.
"""

import argparse
import copy
import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import BLOCK, Batches, bench_in, spec_of, typical_ms
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.data import CropList, validation_crops
from kdbench.device import keep_freed_memory
from kdbench.distill import rate_distortion
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.losses import Pixels, estimated_loss
from kdbench.records import Bench, Distillation, TrialSpec
from kdbench.soap import Soap
from kdbench.train import CLIP_NORM, learning_rate
from kdbench.trial import precision_of

OURS = "kdbench SOAP"
RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def optimisers() -> dict[str, Make]:
    """How to make each optimiser that is here; the learning rate comes step by step."""
    found: dict[str, Make] = {
        OURS: lambda parameters: Soap(parameters, lr=1e-3),
        "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    }
    if importlib.util.find_spec("pytorch_optimizer"):
        theirs: Any = importlib.import_module("pytorch_optimizer")
        found["pytorch_optimizer SOAP"] = lambda parameters: theirs.SOAP(
            parameters,
            lr=1e-3,
            weight_decay=0,
            precondition_frequency=10,
            max_precondition_dim=512,
        )
    return found


def learned(model: nn.Module) -> list[nn.Parameter]:
    """What `train.train` trains."""
    return [p for name, p in model.named_parameters() if not name.endswith("quantiles")]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What every optimiser begins with: the same student, spec and batches."""

    start: Hyperprior
    spec: TrialSpec
    batches: Batches
    precision: str

    @classmethod
    def of(cls, width: int, n_steps: int, bench: Bench, crops: CropList) -> "Course":
        """For the uniform student of `width`, which trains alone."""
        spec = replace(spec_of(width, n_steps, "", RD_LAMBDAS), distillation=Distillation())
        lesson = Lesson.open(spec, bench, crops, lambda _: None)
        return cls(
            start=lesson.started(), spec=spec, batches=lesson.batch, precision=precision_of(bench)
        )

    def student(self) -> Hyperprior:
        """A copy of the start, ready to train."""
        model: Hyperprior = copy.deepcopy(self.start).train()
        model.to(memory_format=torch.channels_last)
        return model

    def at(self, *, learning_rate: float, steps: int) -> "Course":
        """The same with another schedule."""
        training = replace(self.spec.training, learning_rate=learning_rate, steps=steps)
        return replace(self, spec=replace(self.spec, training=training))


def find_gradients(model: Hyperprior, course: Course, step: int) -> None:
    """Those of R + rd_lambda 255^2 D at the batch of `step`, clipped as in training."""
    batch = course.batches(step)
    with torch.autocast("cpu", torch.bfloat16, enabled=course.precision == "bf16"):
        out = model(batch.x, batch.levels)
    rd_lambda = torch.tensor(course.spec.training.rd_lambdas)[batch.levels]
    loss = rate_distortion(out, batch.x, rd_lambda).loss
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learned(model), CLIP_NORM)


def step_ms(course: Course, n_steps: int) -> dict[str, float]:
    """CPU milliseconds per step of each optimiser on a student of its own, taking turns."""
    turns: dict[str, torch.optim.Optimizer] = {}
    for name, make in optimisers().items():
        model = course.student()
        find_gradients(model, course, 0)
        turns[name] = make(learned(model))
        for group in turns[name].param_groups:
            group["lr"] = 1e-9  # the weights stay what the gradients belong to
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(n_steps):
        for name, optimiser in turns.items():
            began = time.process_time()
            optimiser.step()
            times[name].append(time.process_time() - began)
    return {name: typical_ms(seconds) for name, seconds in times.items()}


def trained(course: Course, make: Make) -> tuple[Hyperprior, float]:
    """The finalised student after the course, and the CPU seconds of its steps."""
    model, training = course.student(), course.spec.training
    optimiser = make(learned(model))
    torch.manual_seed(course.spec.seed)
    began = time.process_time()
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, training)
        find_gradients(model, course, step)
        optimiser.step()
    seconds = time.process_time() - began
    model.to(memory_format=torch.contiguous_format)
    model.finalise()
    return model, seconds


def steps_within(budget_s: float, run_s: float, run_steps: int) -> int:
    """How many steps fit into `budget_s` where `run_steps` took `run_s`; at least one."""
    return max(1, round(budget_s * run_steps / run_s))


def compare(course: Course, rate: float, unseen: Pixels) -> list[dict[str, Any]]:
    """Losses after equal steps and equal seconds at one learning rate, one row an optimiser."""
    rows: list[dict[str, Any]] = []
    n_steps = course.spec.training.steps
    for name, make in optimisers().items():
        model, seconds = trained(course.at(learning_rate=rate, steps=n_steps), make)
        budget_s = rows[0]["seconds"] if rows else seconds  # kdbench's comes first and sets it
        n_in_time = steps_within(budget_s, seconds, n_steps)
        loss = loss_in_time = estimated_loss(model, unseen, course.spec)
        if n_in_time != n_steps:
            model, _ = trained(course.at(learning_rate=rate, steps=n_in_time), make)
            loss_in_time = estimated_loss(model, unseen, course.spec)
        row = {"optimiser": name, "learning_rate": rate, "seconds": seconds, "loss": loss}
        row |= {"steps": n_steps, "steps_in_time": n_in_time, "loss_in_time": loss_in_time}
        rows.append(row)
    return rows


def tables(costs: Mapping[int, Mapping[str, float]], rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds by width, then losses by optimiser and rate."""
    names = list(optimisers())
    first = markdown(
        ["CPU ms per optimiser step", *(f"N={width}" for width in costs)],
        [[name, *(f"{ms[name]:.2f}" for ms in costs.values())] for name in names],
    )
    heads = ["optimiser", "rate", "steps", "CPU s", "loss", "steps in equal time", "loss then"]
    cells = [
        [
            row["optimiser"],
            f"{row['learning_rate']:g}",
            str(row["steps"]),
            f"{row['seconds']:.1f}",
            f"{row['loss']:.4f}",
            str(row["steps_in_time"]),
            f"{row['loss_in_time']:.4f}",
        ]
        for row in sorted(rows, key=lambda row: (names.index(row["optimiser"]), row["loss"]))
    ]
    return f"{first}\n\n{markdown(heads, cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64], metavar="N")
    parser.add_argument(
        "--optimiser-steps", type=int, default=60, help="timed, of each; 20 or more"
    )
    parser.add_argument("--train-width", type=int, default=32, metavar="N")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--crops", type=int, default=512, help="training crops, built-in photos")
    add_out(parser, "optimiser")
    arguments = parser.parse_args()
    if arguments.optimiser_steps < 2 * BLOCK:
        parser.error(f"--optimiser-steps must be at least {2 * BLOCK}")
    torch.set_num_threads(1)
    keep_freed_memory()
    photos = study_photos("builtin", "builtin", "builtin", 128)
    crops = study_crops(photos["train"], arguments.crops, 128)
    unseen = validation_crops(photos["validation"], 128, 16)
    with tempfile.TemporaryDirectory(prefix="kdbench-optimiser-") as folder:
        bench = bench_in(Path(folder), crops.n)
        costs = {
            width: step_ms(Course.of(width, 1, bench, crops), arguments.optimiser_steps)
            for width in arguments.widths
        }
        course = Course.of(arguments.train_width, arguments.steps, bench, crops)
        rows = [row for rate in arguments.rates for row in compare(course, rate, unseen)]
    publish(
        arguments,
        tables(costs, rows),
        {"cpu_ms_per_step": costs, "trainings": rows, "precision": course.precision},
    )


if __name__ == "__main__":
    main()
