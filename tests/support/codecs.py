"""Codecs and teachers small enough to be built, trained and coded in a test."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.weights import codec_bytes
from kdbench.data import ImageSet, draw_crops, load_images
from kdbench.records import (
    Activation,
    Architecture,
    ContextName,
    Hyper,
    Latent,
    Prior,
    Training,
    Transform,
)
from kdbench.train import Batch, levels_of_step, step_rng, to_tensor, train

RD_LAMBDAS = (0.0018, 0.025)
Pixels = npt.NDArray[np.uint8]


def architecture(
    encoder: int = 8,
    decoder: int | None = None,
    *,
    hyper: int = 8,
    latent: int = 16,
    n_levels: int = len(RD_LAMBDAS),
    kernel: int = 5,
    activation: Activation = "gdn",
    prior: Prior = "scale",
    context: ContextName = "none",
) -> Architecture:
    """A tiny codec; the decoder is as wide as the encoder unless told otherwise."""

    def side(width: int) -> Transform:
        return Transform(width=width, kernel=kernel, activation=activation)

    return Architecture(
        encoder=side(encoder),
        decoder=side(decoder or encoder),
        hyper=Hyper(width=hyper, prior=prior, context=context),
        latent=Latent(channels=latent),
        n_levels=n_levels,
    )


@cache
def photos() -> ImageSet:
    """The built-in training photos."""
    return load_images("builtin", "train")


@cache
def crops(n: int, px: int = 64) -> Pixels:
    """`n` crops of them, uint8 (n, 3, px, px)."""
    drawn = draw_crops(photos(), n, px, seed=0)
    return np.ascontiguousarray([drawn.crop(i) for i in range(n)])


def as_tensor(pixels: Pixels) -> Tensor:
    """(B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).float() / 255


def started(
    plan: Architecture, *, seed: int = 0, rd_lambdas: Sequence[float] = RD_LAMBDAS
) -> Hyperprior:
    """A KLT-started codec that nobody has trained."""
    torch.manual_seed(seed)
    model = Hyperprior(plan)
    images = as_tensor(crops(16))
    klt_start(model, images, rd_lambdas[: plan.n_levels])
    scale_start(model, images)
    return model


def finished(
    plan: Architecture, *, seed: int = 0, rd_lambdas: Sequence[float] = RD_LAMBDAS
) -> Hyperprior:
    """The same, with tables: it codes, badly."""
    model = started(plan, seed=seed, rd_lambdas=rd_lambdas)
    model.finalise()
    return model


def save_teacher(
    path: Path, plan: Architecture, *, seed: int = 0, rd_lambdas: Sequence[float] = RD_LAMBDAS
) -> Path:
    """A teacher's file; its card says no more than it must."""
    card: dict[str, Any] = {"training": {"rd_lambdas": list(rd_lambdas)}}
    model = finished(plan, seed=seed, rd_lambdas=rd_lambdas)
    path.write_bytes(codec_bytes(model, card))
    return path


def trained(
    plan: Architecture,
    steps: int,
    *,
    seed: int = 0,
    rd_lambdas: Sequence[float] = RD_LAMBDAS,
    learning_rate: float = 5e-3,
) -> Hyperprior:
    """A codec after a real, short training: its hyperprior knows the scales."""
    model = started(plan, seed=seed, rd_lambdas=rd_lambdas)
    pixels = crops(32)

    def batch(step: int) -> Batch:
        rng = step_rng(seed, step)
        x = to_tensor(pixels[rng.choice(len(pixels), 4, replace=False)], "cpu")
        return Batch(x, levels_of_step(rng, 4, plan.n_levels), None)

    train(
        model,
        batch,
        Training(
            steps=steps,
            batch=4,
            crop_px=64,
            rd_lambdas=tuple(rd_lambdas),
            learning_rate=learning_rate,
        ),
        distiller=None,
        seed=seed,
        device="cpu",
        precision="fp32",
    )
    return model
