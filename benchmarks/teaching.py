"""Which ways of training a teacher are worth their seconds: each gets the same CPU seconds.

    python -m benchmarks.teaching --images PHOTOS --seconds 150 --root DIR    about 40 minutes
    python -m benchmarks.teaching --images PHOTOS --seconds 2 --only base     a test

A way changes one thing of `base`: SOAP at 0.003, 8 crops of 128 px, KLT start, every level in every
batch. Each is given as many steps as fit into `--seconds` of one thread, by the time its first
steps take, and a cosine of that length. The score is the BD-rate to the same codec under `base`, on
the built-in validation photos, from real bitstreams; nothing here sees the evaluation photos. One
seed: differences under a point are noise. Started again it goes on with what is missing.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from benchmarks.publish import add_out, markdown, publish
from kdbench import train as training
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.succeed import succeed
from kdbench.codecs.weights import codec_bytes, round_kernels
from kdbench.data import ImageSet, load_images, sample_batch
from kdbench.device import supports_bf16
from kdbench.distill import RateDistortion, rate_distortion
from kdbench.evaluate import evaluate_learned
from kdbench.files import write_atomic, write_json
from kdbench.metrics import MSE, Metric
from kdbench.rd import bd_rate
from kdbench.records import Architecture, Hyper, Latent, RDCurve, Training, Transform
from kdbench.teach import N_START_CROPS, load_training_photos
from kdbench.teacher import load_teacher
from kdbench.train import Batch, levels_of_step, step_rng, to_tensor

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
CALIBRATION_STEPS = 20
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a teacher is trained.

    Attributes:
        late_crop_px: Of the crops in the last third; as many pixels a batch as before.
        one_level_first: The first third trains the middle level alone.
        low_levels_twice: The two lowest levels are drawn twice as often.
        average: Decay of an exponential average of the weights, which is kept; 0 for none.
        start: A teacher whose weights it begins with.
        linear: The rate falls in a straight line, not in a cosine.
        gradient_noise: Deviation of noise on each gradient, in parts of its own at the first step;
            falls with (1 + step)^-0.275 (Neelakantan et al. 2015, arXiv 1511.06807).
        equal_levels: Each level's loss counts in proportion to rd_lambda^-0.5, mean 1: high levels,
            whose losses are larger, count less.
    """

    batch: int = 8
    crop_px: int = 128
    learning_rate: float = 3e-3
    late_crop_px: int = 0
    one_level_first: bool = False
    low_levels_twice: bool = False
    average: float = 0.0
    start: str = ""
    linear: bool = False
    gradient_noise: float = 0.0
    equal_levels: bool = False

    def shape(self, progress: float) -> tuple[int, int]:
        """Crops a batch and their side [px] after a share `progress` of the steps."""
        if self.late_crop_px and progress >= 2 / 3:
            return self.batch * self.crop_px**2 // self.late_crop_px**2, self.late_crop_px
        return self.batch, self.crop_px


WAYS: dict[str, Way] = {
    BASE: Way(),
    "rate 0.0015": Way(learning_rate=1.5e-3),
    "rate 0.006": Way(learning_rate=6e-3),
    "4 crops": Way(batch=4),
    "16 crops": Way(batch=16),
    "2 crops of 256": Way(batch=2, crop_px=256),
    "2 crops of 256, last third": Way(late_crop_px=256),
    "one level first": Way(one_level_first=True),
    "low levels twice": Way(low_levels_twice=True),
    "average 0.99": Way(average=0.99),
    "rate falls linearly": Way(linear=True),
    "gradient noise 0.1": Way(gradient_noise=0.1),
    "levels count alike": Way(equal_levels=True),
    "from teacher:default": Way(start="teacher:default"),
    "from teacher:default, rate 0.001": Way(start="teacher:default", learning_rate=1e-3),
}


def architecture() -> Architecture:
    """That of the built-in teachers."""
    side = Transform(width=64)
    return Architecture(
        encoder=side,
        decoder=side,
        hyper=Hyper(width=64),
        latent=Latent(channels=192),
        n_levels=len(RD_LAMBDAS),
    )


def started(way: Way, photos: ImageSet) -> Hyperprior:
    torch.manual_seed(0)
    model = Hyperprior(architecture())
    crops = sample_batch(photos, step_rng(0, 0), N_START_CROPS, 128)
    first = torch.from_numpy(crops).float() / 255
    klt_start(model, first, RD_LAMBDAS)
    scale_start(model, first)
    if way.start:
        succeed(model, load_teacher(way.start).model)
    return model


def trained(way: Way, photos: ImageSet, steps: int) -> tuple[Hyperprior, float]:
    """The finished codec, and the CPU seconds it took."""
    model = started(way, photos)
    average = Average(model, way.average) if way.average else None

    def batches(step: int) -> Batch:
        rng, progress = step_rng(0, step), step / steps
        n, px = way.shape(progress)
        x = sample_batch(photos, rng, n, px)
        return Batch(to_tensor(x, "cpu"), levels(way, progress, rng, n), None)

    if way.gradient_noise:
        add_noise(model, way.gradient_noise)
    began = time.process_time()
    with ExitStack() as changed:
        if way.linear:
            changed.enter_context(patch.object(training, "learning_rate", linear_rate))
        if way.equal_levels:
            changed.enter_context(patch.object(training, "rate_distortion", equal_loss))
        training.train(
            model,
            batches,
            Training(
                steps=steps,
                batch=way.batch,
                crop_px=way.crop_px,
                rd_lambdas=RD_LAMBDAS,
                learning_rate=way.learning_rate,
            ),
            distiller=None,
            seed=0,
            device="cpu",
            precision="bf16" if supports_bf16("cpu") else "fp32",
            between_steps=average.take if average else lambda: None,
        )
    seconds = time.process_time() - began
    if average:
        average.give()
    round_kernels(model)
    model.finalise()
    return model, seconds


def linear_rate(step: int, plan: Training) -> float:
    """The warm-up of `train.learning_rate`, then a line to zero."""
    warm = min(1.0, (step + 1) / min(training.WARMUP_STEPS, max(1, plan.steps // 4)))
    return plan.learning_rate * warm * (1 - step / plan.steps)


def equal_loss(
    out: dict[str, Tensor], x: Tensor, rd_lambda: Tensor, metric: Metric = MSE
) -> RateDistortion:
    """`rate_distortion` with each sample weighted by rd_lambda^-0.5, mean 1 over the levels."""
    weights = rd_lambda**-0.5 / float(np.mean(np.array(RD_LAMBDAS) ** -0.5))
    found = [
        rate_distortion(_row(out, i), x[i : i + 1], rd_lambda[i : i + 1], metric)
        for i in range(len(x))
    ]
    bpp, mse, loss = (
        torch.stack([w * getattr(one, name) for w, one in zip(weights, found, strict=True)]).mean()
        for name in ("bpp", "mse", "loss")
    )
    return RateDistortion(bpp, mse, loss)


def _row(out: dict[str, Any], i: int) -> dict[str, Any]:
    likelihoods = {name: p[i : i + 1] for name, p in out["likelihoods"].items()}
    return {"x_hat": out["x_hat"][i : i + 1], "likelihoods": likelihoods}


def add_noise(model: nn.Module, part: float) -> None:
    """Noise on every gradient, `part` of its deviation at first and less from step to step."""

    def noisy(steps: Iterator[int]) -> Callable[[Tensor], Tensor]:
        def add(grad: Tensor) -> Tensor:
            size = part * (1 + next(steps)) ** -0.275 * grad.square().mean().sqrt()
            noise: Tensor = size * torch.randn_like(grad)
            return grad + noise

        return add

    for parameter in model.parameters():
        parameter.register_hook(noisy(count()))  # type: ignore[no-untyped-call]


def levels(way: Way, progress: float, rng: Any, n: int) -> Tensor:
    if way.one_level_first and progress < 1 / 3:
        return torch.full((n,), len(RD_LAMBDAS) // 2)
    if way.low_levels_twice:
        drawn = levels_of_step(rng, n, len(RD_LAMBDAS) + 2)
        return drawn % len(RD_LAMBDAS)
    return levels_of_step(rng, n, len(RD_LAMBDAS))


class Average:
    """An exponential average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._kept = copy.deepcopy(dict(model.named_parameters()))

    @torch.no_grad()
    def take(self) -> None:
        for name, value in self._model.named_parameters():
            self._kept[name].lerp_(value, 1 - self._decay)

    @torch.no_grad()
    def give(self) -> None:
        for name, value in self._model.named_parameters():
            if not name.endswith("quantiles"):
                value.copy_(self._kept[name])


def measure(name: str, photos: ImageSet, seconds: float, folder: Path) -> None:
    """Trains and evaluates one way; its figures lie in `folder` after."""
    way = WAYS[name]
    _, calibration_s = trained(way, photos, CALIBRATION_STEPS)
    steps = max(1, int(seconds / (calibration_s / CALIBRATION_STEPS)))
    model, spent_s = trained(way, photos, steps)
    path = folder / f"{name}.safetensors"
    write_atomic(path, codec_bytes(model, {"training": {"rd_lambdas": RD_LAMBDAS}}, half=True))
    curve = evaluate_learned(path, load_images("builtin", "validation")).curve
    write_json(folder / f"{name}.curve.json", curve)
    figures = {"steps": steps, "cpu_s": spent_s}
    (folder / f"{name}.json").write_text(json.dumps(figures))
    print(name, figures, flush=True)


def report(folder: Path, names: list[str]) -> tuple[str, dict[str, Any]]:
    base = _curve(folder, BASE)
    rows, figures = [], {}
    for name in names:
        found: Mapping[str, Any] = json.loads((folder / f"{name}.json").read_text())
        change = bd_rate(_curve(folder, name), base)
        figures[name] = dict(found) | {"bd_rate_pct": change.pct}
        rows.append((name, f"{found['steps']:,}", f"{found['cpu_s']:.0f}", f"{change.pct:+.1f} %"))
    text = markdown(("way", "steps", "CPU s", "BD-rate to base"), rows)
    return text, figures


def _curve(folder: Path, name: str) -> RDCurve:
    return TypeAdapter(RDCurve).validate_json((folder / f"{name}.curve.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", action="append", default=None, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    add_out(parser, "teaching")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.root.mkdir(parents=True, exist_ok=True)
    photos = load_training_photos(arguments.images or ["builtin"], 256)
    for name in arguments.only:
        if not (arguments.root / f"{name}.json").exists():
            measure(name, photos, arguments.seconds, arguments.root)
    text, figures = report(arguments.root, arguments.only)
    publish(arguments, text, {"ways": figures})


if __name__ == "__main__":
    main()
