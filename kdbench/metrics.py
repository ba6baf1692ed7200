"""Distortions that a codec can be trained for, by name: `training.distortion` of a study.

    L = R + rd_lambda weight D(x_hat, x)

    mse       D is the mean squared error on [0, 1], weight 255^2
    ms-ssim   D is 1 - MS-SSIM, weight 1: CompressAI's RateDistortionLoss(metric="ms-ssim"), whose
              rd_lambdas are 2.40 4.58 8.73 16.64 31.73 60.50 115.37 220.00 for qualities 1 to 8

Other packages bring more by entry points of the group `kdbench.metrics`:

    [project.entry-points."kdbench.metrics"]
    mine = "my_package.metrics:METRIC"

Behind one is a `Metric`. It is loaded to check a study, so its module should import torch inside
its functions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench import plugins
from kdbench.errors import CodecError
from kdbench.names import nearest_first

if TYPE_CHECKING:  # a study is checked without torch
    from torch import Tensor

MS_SSIM_MIN_PX = 161  # five scales, window 11
MS_SSIM_LAMBDAS_PER_MSE = 1290.0  # geometric mean of CompressAI's eight pairs, 1222 to 1333


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A distortion.

    Attributes:
        distortion: D of each image (B,) of x_hat and x, both (B, 3, H, W) fp32, x in [0, 1], x_hat
            not clamped; 0 where they are equal, differentiable in x_hat.
        weight: What rd_lambda D is multiplied by in the loss.
        lambdas_per_mse: rd_lambda here over the rd_lambda of the MSE that spends about as many
            bits; says where a student's gains start.
        min_px: Smallest side of an image that it can be computed on [px].
        figure: Of a decoded and an original 8-bit image, (H, W, 3) uint8 each, for the evaluation;
            None: there is none.
    """

    distortion: "Callable[[Tensor, Tensor], Tensor]"
    weight: float
    lambdas_per_mse: float
    min_px: int = 1
    figure: Callable[[Any, Any], float] | None = None


def _mse(x_hat: "Tensor", x: "Tensor") -> "Tensor":
    from kdbench.squares import squared_error

    return squared_error(x_hat, x) / x[0].numel()


def _ms_ssim(x_hat: "Tensor", x: "Tensor") -> "Tensor":
    from pytorch_msssim import ms_ssim

    similar: Tensor = ms_ssim(x_hat, x, data_range=1, size_average=False)
    return 1 - similar


MSE = Metric(distortion=_mse, weight=255**2, lambdas_per_mse=1.0)
MS_SSIM = Metric(
    distortion=_ms_ssim,
    weight=1.0,
    lambdas_per_mse=MS_SSIM_LAMBDAS_PER_MSE,
    min_px=MS_SSIM_MIN_PX,
)
BUILTIN = {"mse": MSE, "ms-ssim": MS_SSIM}  # their figures are in every evaluation


def find(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        CodecError: Nobody brings it, it cannot be imported, or it is no metric.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    known = {*BUILTIN, *plugins.known(plugins.METRICS)}
    if name not in known:
        raise CodecError(
            f"there is no metric {name!r}",
            fix=f"known, nearest first: {', '.join(nearest_first(name, list(known)))}; a package "
            f"brings one by an entry point of the group {plugins.METRICS}",
        )
    found = plugins.load(name, plugins.METRICS)
    problem = "is no kdbench.metrics.Metric" if not isinstance(found, Metric) else _wrong(found)
    if problem is None:
        return found  # type: ignore[no-any-return]
    raise _broken(name, problem)


def _broken(name: str, problem: str) -> CodecError:
    return CodecError(
        f"metric {name} ({plugins.find(name, plugins.METRICS).value}) {problem}",
        fix="repair or update the package that brings it; see kdbench/metrics.py",
    )


def _wrong(metric: Metric) -> str | None:
    for name in ("weight", "lambdas_per_mse"):
        if not 0 < getattr(metric, name) < math.inf:
            return f"must have a {name} above 0"
    return None


def require_trainable(name: str, crop_px: int) -> None:
    """Computes the metric called `name` and its gradient on crops of `crop_px`.

    Raises:
        CodecError: It fails, or does not do what `Metric` says.
    """
    if name in BUILTIN:
        return
    import torch

    metric = find(name)
    torch_state = torch.get_rng_state()
    x = torch.rand(2, 3, crop_px, crop_px, generator=torch.Generator().manual_seed(0))
    x_hat = (x + 0.1 * (x.flip(3) - x)).requires_grad_()
    try:
        distortion, same = metric.distortion(x_hat, x), metric.distortion(x, x)
        found = distortion.detach()
        shape = tuple(found.shape)
        if shape != (2,):
            raise _broken(name, f"gives the shape {shape} of 2 images; it must be (2,), one each")
        if not bool((found > 0).all()) or float(same.abs().max()) > 1e-3 * float(found.min()):
            raise _broken(
                name,
                f"gives {found.tolist()} of unequal images and {same.tolist()} of equal ones; it "
                "must be above 0 and 0",
            )
        (slope,) = torch.autograd.grad(distortion.sum(), x_hat)
        if not bool(slope.isfinite().all() and slope.any()):
            raise _broken(name, "has no gradient to learn from, or one that is no number")
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as why:
        reason = (str(why).splitlines() or ["no reason given"])[0]
        what = f"fails on crops of {crop_px} px: {type(why).__name__}: {reason}"
        raise _broken(name, what) from why
    finally:
        torch.set_rng_state(torch_state)
