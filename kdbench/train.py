"""Trains one codec, all its levels at once, from one seed.

Students and teachers go through the same loop; a student has a `Distiller` and batches with
targets. SOAP with a short warm-up and one cosine to 1 %, gradients clipped at norm 1, every level
in every batch, transforms in bf16 where the device multiplies it in hardware, but for the last 3 of
10 steps: a loss that sees weights rounded to 8 bits does not see the small steps of the end, and
a student that trains in bf16 alone ends 0.4 to 1 % above one of fp32 (`benchmarks/precision.py`).

At the first and the last step the log takes each term's share of the gradient (`gradients`): one
backward pass more for each term at two steps, which changes neither weights nor noise.
"""

import io
import math
import pickle
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdbench.average import Average
from kdbench.codecs.learned import LearnedCodec
from kdbench.device import keep_freed_memory
from kdbench.distill import (
    Distiller,
    Targets,
    rate_distortion,
    rd_weight,
    unit_range,
    weights_now,
)
from kdbench.errors import StoreError, TrainingError
from kdbench.features import Tap, listening
from kdbench.files import ELSEWHERE, read_sealed, write_sealed
from kdbench.gradients import gradient_shares, parts_of
from kdbench.levels import Guided, LevelDistiller
from kdbench.metrics import find as find_metric
from kdbench.records import GradientShares, Progress, Training, plain
from kdbench.signals import unbroken
from kdbench.soap import Soap

AnyDistiller = Distiller | LevelDistiller
WARMUP_STEPS = 100
FINAL_RATE = 0.01  # of the learning rate, at the end of the cosine
CLIP_NORM = 1.0
EXACT_SHARE = 0.3  # of the steps, the last ones, that train in fp32 at any rate
CHECKPOINT_S = 120.0
_DAMAGE = (OSError, EOFError, KeyError, ValueError, AttributeError, pickle.UnpicklingError)


class Batch(NamedTuple):
    """Crops (B, 3, H, W) in [0, 1], their levels (B,), and what their teachers make of them.

    Attributes:
        targets: For a `Distiller`, or one a teacher for a `LevelDistiller`.
    """

    x: Tensor
    levels: Tensor
    targets: Targets | Sequence[Guided] | None


@dataclass
class TrainingLog:
    """Losses over steps; grows while the training runs.

    Attributes:
        schedules: (first step, total steps) of each learning-rate schedule that was followed;
            more than one where a resumed training was made longer or shorter.
        gradient_shares: Of the first and the last step.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    schedules: list[tuple[int, int]] = field(default_factory=list)
    gradient_shares: list[GradientShares] = field(default_factory=list)

    def follow(self, first_step: int, n_steps: int) -> None:
        """Notes the schedule of `n_steps` that is followed from `first_step` on."""
        if not self.schedules or self.schedules[-1][1] != n_steps:
            self.schedules.append((first_step, n_steps))

    def last(self, name: str, n: int = 5) -> float:
        """Mean of the last `n` logged values of `name`."""
        values = [row[name] for row in self.rows[-n:] if name in row]
        return sum(values) / len(values)


def to_tensor(crops: npt.NDArray[np.uint8], device: str) -> Tensor:
    """Crops, uint8 (B, 3, H, W) -> float on [0, 1], channels last."""
    return unit_range(torch.from_numpy(np.array(crops)).to(device))


def learning_rate(step: int, training: Training) -> float:
    """Rate at `step`: linear warm-up times one cosine from 1 to `FINAL_RATE`."""
    warm = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, training.steps // 4)))
    cosine = 0.5 * (1 + math.cos(math.pi * step / training.steps))
    return training.learning_rate * warm * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def levels_of_step(rng: np.random.Generator, batch: int, n_levels: int) -> Tensor:
    """(B,) levels: every level as often as the batch allows, the rest drawn."""
    rounds = [rng.permutation(n_levels) for _ in range(-(-batch // n_levels))]
    return torch.from_numpy(np.concatenate(rounds)[:batch])


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of one step; a function of seed and step, so that a resumed run draws alike."""
    return np.random.default_rng([seed, step])


def train(
    model: LearnedCodec,
    batches: Callable[[int], Batch],
    training: Training,
    *,
    distiller: AnyDistiller | None,
    seed: int,
    device: str,
    precision: str,
    checkpoint: Path | None = None,
    elsewhere: str = ELSEWHERE,
    on_progress: Callable[[Progress], None] = lambda _: None,
    between_steps: Callable[[], object] = lambda: None,
    rungs: Sequence[int] = (),
    at_rung: Callable[[int], object] = lambda _: None,
    log_every: int = 20,
) -> TrainingLog:
    """Trains `model` in place and finalises it (tables built, eval mode).

    Args:
        model: Already started (`codecs.start`).
        batches: The batch of a step; must depend on nothing but the step.
        training: Steps, rates, levels.
        distiller: Terms beside R + rd_lambda 255^2 D; None trains alone.
        seed: Of the quantisation noise.
        device: Where it trains.
        precision: `fp32` or `bf16`, of the transforms only, until `EXACT_SHARE` of the steps are
            left.
        checkpoint: File to resume from and to write every two minutes, when it is interrupted
            between two steps and at the end, so that a finished training costs no step again; the
            caller removes it once the codec is kept. A resumed training may have another number of
            steps; nothing else may differ.
        elsewhere: How a user chooses another place for it, see `files.write_atomic`.
        on_progress: Called after each step.
        between_steps: Called after each step; lets a measurer in.
        rungs: Numbers of steps after which a checkpoint is written and `at_rung` is called.
        at_rung: Told the steps done, while `model` has the mean of its weights (`average`); may
            raise to end the training, and is called again by a training that resumes there.
        log_every: Steps between two rows of the log.

    Raises:
        TrainingError: The loss or a gradient is no number any more (names the step), or
            `checkpoint` is damaged or of another training.
        StoreError: `checkpoint` cannot be written.
    """
    keep_freed_memory()
    trainee = _Trainee(model, distiller, training, device, precision, watched=bool(rungs))
    torch.manual_seed(seed)
    log, first_step = TrainingLog(), 0
    if checkpoint is not None and checkpoint.exists():
        first_step = _resume(checkpoint, trainee, log)
    log.follow(first_step, training.steps)
    began = saved = time.monotonic()
    earlier_s = log.seconds
    model.train()
    done = kept = first_step  # steps that are whole, and those that the checkpoint has
    try:
        with listening("the student", model, trainee.feature_layer) as trainee.tap:
            if first_step in rungs:
                trainee.show(at_rung, first_step)
            for step in range(first_step, training.steps):
                done = -1
                with unbroken():
                    row = trainee.step(step, batches(step), log)
                    if step % log_every == 0 or step == training.steps - 1:
                        log.rows.append(row)
                    done = step + 1
                on_progress(
                    Progress(stage="training", step=done, n_steps=training.steps, loss=row["loss"])
                )
                between_steps()
                log.seconds = earlier_s + time.monotonic() - began
                is_rung = done in rungs
                if checkpoint is not None and (is_rung or time.monotonic() - saved > CHECKPOINT_S):
                    _save(checkpoint, done, trainee, log, elsewhere)
                    saved, kept = time.monotonic(), done
                if is_rung:
                    trainee.show(at_rung, done)
    except KeyboardInterrupt:
        if checkpoint is not None and done > kept:
            log.seconds = earlier_s + time.monotonic() - began
            _save(checkpoint, done, trainee, log, elsewhere)
        raise
    trainee.require_finite()
    if checkpoint is not None and first_step < training.steps:
        _save(checkpoint, training.steps, trainee, log, elsewhere)
    model.to("cpu", memory_format=torch.contiguous_format)
    model.finalise()
    return log


class _Trainee:
    """What a step changes: model, connectors, optimiser and, if `watched`, the mean of weights."""

    def __init__(
        self,
        model: LearnedCodec,
        distiller: AnyDistiller | None,
        training: Training,
        device: str,
        precision: str,
        *,
        watched: bool,
    ) -> None:
        self.training, self._model, self._distiller = training, model, distiller
        self._device, self._precision = device, precision
        self.feature_layer = None if distiller is None else distiller.plan.asked_layer
        self.tap: Tap | None = None  # on it
        self.modules = nn.ModuleList([model] + ([distiller] if distiller else [])).to(device)
        self.modules.to(memory_format=torch.channels_last)
        named = self.modules.named_parameters()
        self._parameters = [p for name, p in named if not name.endswith("quantiles")]
        self.optimiser = Soap(self._parameters, lr=training.learning_rate)
        self.average = Average(self._parameters) if watched else None
        self._rd_lambdas = torch.tensor(training.rd_lambdas, device=device)
        self._metric = find_metric(training.distortion)

    def step(self, step: int, batch: Batch, log: TrainingLog) -> dict[str, float]:
        """One update; the row of the log it gives. `log` takes the first and last step's shares.

        Raises:
            TrainingError: Loss or gradient is no number any more.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.training)
        with _autocast(self._device, precision_at(step, self.training.steps, self._precision)):
            out = self._model(batch.x, batch.levels)
        rd_lambda = self._rd_lambdas[batch.levels]
        rd = rate_distortion(out, batch.x, rd_lambda, self._metric)
        terms: dict[str, Tensor] = {}
        weight = 1.0
        if self._distiller is not None:
            weight = rd_weight(self._distiller.plan, step, self.training.steps)
        if self._distiller is not None and batch.targets is not None:
            if self.tap is not None:
                out["features"] = self.tap.features
            now = weights_now(self._distiller.plan, step, self.training.steps)
            terms = self._distiller(out, batch.targets, rd_lambda, now)
        loss = weight * rd.loss + sum(terms.values())
        self._require(loss.item(), "loss", step)
        self.optimiser.zero_grad(set_to_none=True)
        watched = step in (0, self.training.steps - 1)
        loss.backward(retain_graph=watched)  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._require(norm.item(), "gradient", step)
        if watched:
            own = {"rate": weight * rd.bpp, "distortion": weight * rd.distortion}
            shares = gradient_shares(own | terms, parts_of(self._model))
            log.gradient_shares.append(GradientShares(step=step, shares=shares))
        self.optimiser.step()
        if self.average is not None:
            self.average.update()
        measured = {"loss": loss, "rd_loss": rd.loss, "bpp": rd.bpp, "mse": rd.mse, **terms}
        return {"step": float(step)} | {name: value.item() for name, value in measured.items()}

    def show(self, at_rung: Callable[[int], object], step: int) -> None:
        """Calls `at_rung`; the model has the mean of its weights meanwhile."""
        assert self.average is not None
        with self.average.in_place():
            at_rung(step)
        self._model.train()

    def require_finite(self) -> None:
        """Tables of NaN would take for ever to build."""
        finite = all(bool(p.isfinite().all()) for p in self._parameters)
        self._require(0.0 if finite else math.nan, "weights", self.training.steps - 1)

    def _require(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} became {value} at step {step} of {self.training.steps}",
                fix="lower `training.learning_rate`; this trial failed, the study goes on",
            )


def precision_at(step: int, n_steps: int, precision: str) -> str:
    """Of the transforms at a step of so many, where a training asks for `precision`."""
    return precision if step < (1 - EXACT_SHARE) * n_steps else "fp32"


def _autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)


def _save(path: Path, step: int, trainee: _Trainee, log: TrainingLog, elsewhere: str) -> None:
    state = {
        "step": step,
        "model": trainee.modules.state_dict(),
        "optimiser": trainee.optimiser.state_dict(),
        "average": None if trainee.average is None else trainee.average.state_dict(),
        "rng": torch.get_rng_state(),
        "rows": log.rows,
        "seconds": log.seconds,
        "training": _identity(trainee.training),
        "schedules": log.schedules,
        "gradient_shares": plain(log.gradient_shares),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_sealed(path, buffer.getvalue(), elsewhere=elsewhere)


def damage(checkpoint: Path) -> TrainingError | None:
    """What is wrong with a checkpoint, so that nobody can go on from it; None of a good one."""
    try:
        _read(checkpoint)
    except TrainingError as why:
        return why
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = io.BytesIO(read_sealed(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by other programs; the answer is below
            state: Mapping[str, Any] = torch.load(data, weights_only=True)
        state["training"], state["step"]
    except (StoreError, TypeError, *_DAMAGE, RuntimeError) as why:
        raise TrainingError(
            f"the checkpoint {path} cannot be read: it is damaged, or no checkpoint of kdbench",
            fix="remove it; the training then starts again from its first step",
        ) from why
    return state


def _resume(path: Path, trainee: _Trainee, log: TrainingLog) -> int:
    """Takes up the training in `path`; the step to go on with."""
    state = _read(path)
    if state["training"] != _identity(trainee.training):
        raise TrainingError(
            f"the checkpoint {path} belongs to a training with other settings "
            f"({state['training']}, now {_identity(trainee.training)})",
            fix="remove it, or use the settings it was made with",
        )
    try:
        trainee.modules.load_state_dict(state["model"])
        trainee.optimiser.load_state_dict(state["optimiser"])
        if trainee.average is not None and state.get("average") is not None:
            trainee.average.load_state_dict(state["average"])
    except (RuntimeError, ValueError) as why:
        raise TrainingError(
            f"the checkpoint {path} belongs to another architecture: "
            f"{str(why).splitlines()[-1].strip()}",
            fix="remove it, or train the codec it was made for",
        ) from None
    torch.set_rng_state(state["rng"])
    log.rows[:] = state["rows"]
    log.seconds = state["seconds"]
    log.schedules[:] = state["schedules"]
    log.gradient_shares[:] = [GradientShares(**found) for found in state.get("gradient_shares", ())]
    return int(state["step"])


def _identity(training: Training) -> str:
    """What a checkpoint and the training that takes it up must have in common."""
    shown = {f.name: getattr(replace(training, steps=0), f.name) for f in fields(training)}
    said = plain(training).keys()  # less what came later and says nothing
    return f"Training({', '.join(f'{name}={v!r}' for name, v in shown.items() if name in said)})"
