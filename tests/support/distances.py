"""Metrics by another hand: one that can be trained for, and some that cannot."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.metrics import Metric


def absolute(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean absolute error of each image."""
    return (x_hat - x).abs().flatten(1).mean(1)


def figure(decoded: Any, image: Any) -> float:
    """The same of 8-bit images, 0 to 255."""
    return float(np.abs(decoded.astype(float) - image.astype(float)).mean())


mae = Metric(distortion=absolute, weight=255.0, lambdas_per_mse=3.0, figure=figure)
wide = Metric(distortion=absolute, weight=255.0, lambdas_per_mse=3.0, min_px=100)
one_number = Metric(distortion=lambda a, b: (a - b).abs().mean(), weight=1.0, lambdas_per_mse=1.0)
similarity = Metric(distortion=lambda a, b: 1 - absolute(a, b), weight=1.0, lambdas_per_mse=1.0)
flat = Metric(distortion=lambda a, b: absolute(a.detach(), b), weight=1.0, lambdas_per_mse=1.0)
steep = Metric(
    distortion=lambda a, b: absolute(a, b) + (a - b).square().flatten(1).sum(1).mul(0).sqrt(),
    weight=1.0,
    lambdas_per_mse=1.0,
)
fails = Metric(distortion=lambda a, b: torch.cat([a, b[0]]), weight=1.0, lambdas_per_mse=1.0)
weightless = Metric(distortion=absolute, weight=0.0, lambdas_per_mse=1.0)
no_metric = absolute
not_a_number = Metric(
    distortion=absolute, weight=1.0, lambdas_per_mse=1.0, figure=lambda a, b: float("nan")
)
