"""Trains a teacher from photos: the work behind `kdbench teach`, which made the built-in one too."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdbench import __version__
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.start import klt_start
from kdbench.codecs.weights import codec_bytes, round_kernels
from kdbench.data import ImageSet, joined, load_images, sample_batch
from kdbench.device import supports_bf16
from kdbench.records import Architecture, Progress, Training, plain
from kdbench.files import write_atomic
from kdbench.train import Batch, TrainingLog, levels_of_step, step_rng, to_tensor, train

N_START_CROPS = 64


def load_training_photos(sources: Sequence[str], crop_px: int) -> ImageSet:
    """The photos of every source (`builtin` or a folder) as one set."""
    return joined(*(load_images(source, "train", crop_px=crop_px) for source in sources))


def teach(
    architecture: Architecture,
    training: Training,
    photos: ImageSet,
    *,
    out: Path,
    seed: int,
    device: str,
    card: Mapping[str, Any],
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Trains a teacher and writes `out` (fp16 safetensors with its card).

    A training that was interrupted goes on from `out` + `.checkpoint`.

    Args:
        card: What the command line knows (arguments, licence, names of the sources); completed here.
    """
    torch.manual_seed(seed)
    model = Hyperprior(architecture)
    first = sample_batch(photos, step_rng(seed, 0), N_START_CROPS, training.crop_px)
    klt_start(model, torch.from_numpy(first).float() / 255, training.rd_lambdas)

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
        checkpoint=out.with_suffix(".checkpoint"),
        on_progress=on_progress,
        log_every=100,
    )
    round_kernels(model)  # tables, curve and every later user see the stored weights
    model.finalise()
    return _finish(model, training, photos, log, out=out, card=card, precision=precision, seed=seed)


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
) -> Path:
    """Writes the teacher, measures the written file, and writes it again with the curve in its card."""
    from kdbench.evaluate import evaluate_learned

    full = dict(card) | {
        "kdbench": __version__,
        "training": plain(training) | {"seed": seed, "precision": precision},
        "photos": {"n": photos.n, "megapixels": photos.pixels / 1e6, "sha": photos.sha},
        "seconds": log.seconds,
        "final_loss": log.last("rd_loss"),
        "torch": torch.__version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, codec_bytes(model, full, half=True))
    evaluation = evaluate_learned(out, load_images("builtin", "evaluation"))
    full["rd"] = [plain(point) for point in evaluation.curve.points]
    write_atomic(out, codec_bytes(model, full, half=True))
    return out
