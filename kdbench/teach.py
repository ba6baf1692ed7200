"""Trains a teacher from photos: what `kdbench teach` does, and did for the built-in one."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdbench import __version__
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import DOWNSAMPLING
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.succeed import succeed
from kdbench.codecs.weights import codec_bytes, round_kernels
from kdbench.data import ImageSet, Role, disjoint, joined, load_images, sample_batch
from kdbench.device import supports_bf16
from kdbench.errors import CodecError, ConfigError
from kdbench.files import require_writable, write_atomic
from kdbench.records import (
    Architecture,
    ContextName,
    Hyper,
    Latent,
    Prior,
    Progress,
    Training,
    Transform,
    plain,
)
from kdbench.teacher import Teacher, load_teacher, teacher_architecture
from kdbench.train import Batch, TrainingLog, levels_of_step, step_rng, to_tensor, train

N_START_CROPS = 64
ELSEWHERE = "name a file that can be written with `--out`"


def load_training_photos(sources: Sequence[str], crop_px: int) -> ImageSet:
    """The photos of every source (`builtin` or a folder) as one set.

    Raises:
        DataError: A photo is one of the built-in validation or evaluation photos too: every study
            judges by those, so no teacher may have seen them.
    """
    photos = joined(*(load_images(source, "train", crop_px=crop_px) for source in sources))
    held_out: tuple[Role, ...] = ("validation", "evaluation")
    disjoint({"train": photos} | {role: load_images("builtin", role) for role in held_out})
    return photos


def planned(
    start: str | None,
    n_levels: int,
    *,
    width: int | None = None,
    latent: int | None = None,
    hyper: int | None = None,
    prior: Prior | None = None,
    context: ContextName | None = None,
) -> Architecture:
    """What is to be trained: as told, and where nothing is told as `start` is.

    Without `start` that is N=64 on both sides and in the hyperprior of scales, M=192.

    Raises:
        CodecError: `start` is no codec file.
    """
    side = Transform(width=64)
    plan = Architecture(
        encoder=side,
        decoder=side,
        hyper=Hyper(width=64),
        latent=Latent(channels=192),
        n_levels=n_levels,
    )
    if start is not None and isinstance(told := teacher_architecture(start), Architecture):
        plan = told
    return Architecture(
        encoder=replace(plan.encoder, width=width or plan.encoder.width),
        decoder=replace(plan.decoder, width=width or plan.decoder.width),
        hyper=replace(
            plan.hyper,
            width=hyper or plan.hyper.width,
            prior=prior or plan.hyper.prior,
            context=context or plan.hyper.context,
        ),
        latent=Latent(channels=latent or plan.latent.channels),
        n_levels=n_levels,
    )


def teach(
    architecture: Architecture,
    training: Training,
    photos: ImageSet,
    *,
    out: Path,
    seed: int,
    device: str,
    card: Mapping[str, Any],
    start: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Trains a teacher and writes `out` (fp16 safetensors with its card).

    A training that was interrupted goes on from its checkpoint beside `out`.

    Args:
        architecture: Of the teacher; one level for each of `training.rd_lambdas`.
        training: Steps, rates, levels.
        photos: See `load_training_photos`.
        out: The file.
        seed: Of the start, the crops and the quantisation noise.
        device: Where it trains.
        card: What the command line knows (name, sources, licence); completed here.
        start: The teacher whose weights it goes on from (`codecs.succeed`); a KLT if None.
        on_progress: Called after each step.

    Raises:
        ConfigError: Levels that do not ascend, or crops that the codec cannot halve six times.
        CodecError: `start` is no teacher, or of other levels or widths.
        StoreError: The folder of `out` cannot be written.
        TrainingError: The loss became NaN, or the checkpoint is of another training.
    """
    _check(training)
    require_writable(out.parent, elsewhere=ELSEWHERE)  # better now than after hours
    checkpoint = out.with_suffix(".checkpoint")
    torch.manual_seed(seed)
    model = Hyperprior(architecture)
    first = sample_batch(photos, step_rng(seed, 0), N_START_CROPS, training.crop_px)
    crops = torch.from_numpy(first).float() / 255
    klt_start(model, crops, training.rd_lambdas)
    scale_start(model, crops)
    if start is not None:
        earlier = load_teacher(start)
        _require_same_levels(earlier, training)
        succeed(model, earlier.model)
        card = dict(card) | {"start": {"teacher": start, "sha": earlier.sha}}

    def batches(step: int) -> Batch:
        rng = step_rng(seed, step)
        x = sample_batch(photos, rng, training.batch, training.crop_px)
        levels = levels_of_step(rng, training.batch, architecture.n_levels)
        return Batch(to_tensor(x, device), levels.to(device), None)

    precision = "bf16" if supports_bf16(device) else "fp32"
    log = train(
        model,
        batches,
        training,
        distiller=None,
        seed=seed,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        elsewhere=ELSEWHERE,
        on_progress=on_progress,
        log_every=100,
    )
    round_kernels(model)  # tables, curve and every later user see the stored weights
    model.finalise()
    _finish(model, training, photos, log, out=out, card=card, precision=precision, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return out


def _require_same_levels(earlier: Teacher, training: Training) -> None:
    if tuple(training.rd_lambdas) != earlier.rd_lambdas:
        theirs = " ".join(f"{v:g}" for v in earlier.rd_lambdas)
        raise CodecError(
            f"{earlier.name} has other levels than this training",
            fix=f"name its levels: `--rd-lambdas {theirs}`",
        )


def command_line(
    card: Mapping[str, Any], architecture: Architecture, training: Training, *, seed: int
) -> str:
    """The command that trains this teacher again, every argument written out."""
    words: list[object] = ["kdbench", "teach", card["name"]]
    words += [word for source in card["sources"] for word in ("--images", str(source))]
    if not card.get("start"):  # which says what it is
        words += ["--width", architecture.encoder.width, "--latent", architecture.latent.channels]
        words += ["--hyper", architecture.hyper.width]
    words += ["--prior", architecture.hyper.prior]
    if architecture.hyper.context != "none":
        words += ["--context", architecture.hyper.context]
    words += ["--rd-lambdas", *training.rd_lambdas]
    words += ["--steps", training.steps, "--batch", training.batch, "--crop", training.crop_px]
    words += ["--learning-rate", training.learning_rate, "--seed", seed]
    words += ["--start", card["start"]["teacher"]] if card.get("start") else []
    words += ["--licence", card["licence"]] if card.get("licence") else []
    return shlex.join(map(str, words))


def _check(training: Training) -> None:
    if training.crop_px % DOWNSAMPLING:
        raise ConfigError(
            f"crops of {training.crop_px} px cannot be halved six times",
            fix=f"choose a multiple of {DOWNSAMPLING}, e.g. `--crop 128`",
        )
    if list(training.rd_lambdas) != sorted(set(training.rd_lambdas)):
        raise ConfigError(
            f"rd_lambdas {', '.join(map(str, training.rd_lambdas))} do not ascend",
            fix="name each quality level once, smallest first",
        )


def _finish(
    model: Hyperprior,
    training: Training,
    photos: ImageSet,
    log: TrainingLog,
    *,
    out: Path,
    card: Mapping[str, Any],
    precision: str,
    seed: int,
) -> None:
    """Writes the teacher, measures the file, writes it again with the curve in its card."""
    from kdbench.evaluate import evaluate_learned

    full = dict(card) | {
        "command": command_line(card, model.architecture, training, seed=seed),
        "kdbench": __version__,
        "training": plain(training) | {"seed": seed, "precision": precision},
        "photos": {"n": photos.n, "megapixels": photos.pixels / 1e6, "sha": photos.sha},
        "schedules": [list(pair) for pair in log.schedules],
        "seconds": log.seconds,
        "final_loss": log.last("rd_loss"),
        "torch": torch.__version__,
    }
    write_atomic(out, codec_bytes(model, full, half=True, summed=True), elsewhere=ELSEWHERE)
    evaluation = evaluate_learned(out, load_images("builtin", "evaluation"))
    full["rd"] = [plain(point) for point in evaluation.curve.points]
    write_atomic(out, codec_bytes(model, full, half=True, summed=True), elsewhere=ELSEWHERE)
