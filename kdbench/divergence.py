"""Divergence of discretised Gaussians, in bits: what the entropy term is made of.

Q(s) is the Gaussian of scale s integrated over unit bins, what the range coder uses.
"""

import math
from functools import cache
from typing import Any

import torch
from compressai.ops.bound_ops import LowerBoundFunction
from torch import Tensor
from torch.autograd.function import once_differentiable

SCALE_MIN = 0.11  # CompressAI's lower bound of sigma
SCALE_MAX = 1024.0  # its upper one, 256, at temperature 4
TABLE_STEP = 0.03  # of ln sigma
N_BINS = 17  # 0 .. 16 hold all but 1e-7 of a Gaussian of scale 3
EXACT_BELOW = 3.0


def discretised_kl_bits(sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """KL(Q(sigma_t) || Q(sigma)) of zero-mean Gaussians over unit bins [bit], element by element.

    Looked up, since the sum over bins took longer than the rest of a training step: with
    d = ln(sigma / sigma_t), `_kl_table` holds ln(KL / d^2), which is smooth, and is read linearly;
    within 0.2 % of `summed_kl_bits` above 1e-4 bits. Both scales are clamped to the table; `sigma`
    under its lower end, CompressAI's bound, still gets a gradient that raises it.
    """
    last = sigma.ndim == 4 and sigma.is_contiguous(memory_format=torch.channels_last)
    order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if last else (tuple(range(sigma.ndim)),) * 2
    theirs, own = (each.permute(order).contiguous() for each in (sigma_t, sigma))
    bits: Tensor = _LookedUp.apply(theirs, own, _kl_table(str(sigma.device)))
    return bits.permute(back)


class _LookedUp(torch.autograd.Function):
    """d^2 e^T with T read from the table; the gradient is that of the linear pieces."""

    @staticmethod
    def forward(ctx: Any, sigma_t: Tensor, sigma: Tensor, table: Tensor) -> Tensor:
        scales = sigma_t.clamp(SCALE_MIN, SCALE_MAX), sigma.clamp(SCALE_MIN, SCALE_MAX)
        u, v = (scale.log() for scale in scales)
        row, column = ((t - math.log(SCALE_MIN)).div_(TABLE_STEP) for t in (u, v))
        n = len(table)
        i, j = (t.int().clamp_(0, n - 2) for t in (row, column))  # NaN is some integer
        flat, at, shape = table.view(-1), (i * n).add_(j).view(-1), sigma.shape
        row, column = row.sub_(i), column.sub_(j)
        low_left, high_left, low_right, high_right = (
            flat.index_select(0, at + offset).view(shape) for offset in (0, n, 1, n + 1)
        )
        left, right = low_left.lerp(high_left, row), low_right.lerp(high_right, row)
        factor = left.lerp(right, column).exp_()
        difference = v.sub_(u)
        slope_v = right.sub_(left).div_(TABLE_STEP)
        slope_u = None
        if ctx.needs_input_grad[0]:
            low, high = high_left.sub_(low_left), high_right.sub_(low_right)
            slope_u = low.lerp(high, column).div_(TABLE_STEP)
        ctx.save_for_backward(sigma_t, sigma, *scales, factor, difference, slope_u, slope_v)
        return difference.square().mul_(factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sigma_t, sigma, scale_t, scale, factor, difference, slope_u, slope_v = ctx.saved_tensors
        common = (factor * difference).mul_(grads[0])
        found = (difference * slope_v).add_(2).mul_(common).div_(scale)
        found.mul_((sigma >= SCALE_MIN) | (found < 0)).mul_(sigma <= SCALE_MAX)
        if slope_u is None:
            return None, found, None
        found_t = (difference * slope_u).sub_(2).mul_(common).div_(scale_t)
        return found_t.mul_((sigma_t >= SCALE_MIN) & (sigma_t <= SCALE_MAX)), found, None


def mean_shift_bits(shift: Tensor, sigma: Tensor) -> Tensor:
    """What a Gaussian of scale `sigma` pays for a mean that is off by `shift` steps [bit].

    Of two wide Gaussians this is the part of their KL divergence that their means cause. A bin of
    width 1 adds the variance 1/12; within 10 % of the sum over bins from sigma 0.5 on, too large
    below, where a bin hides small shifts.
    """
    return shift.square() / (2 * math.log(2) * (sigma.square() + 1 / 12))


def channel_kl_bits(y: Tensor, y_t: Tensor) -> Tensor:
    """KL(N_t || N) of the distributions of the latents in each channel [bit a latent], (B, C).

    The latents of one channel of one photo, (B, C, h, w) over h and w, are taken as a sample of a
    Gaussian of their mean and deviation, discretised as everywhere here. It is what a coder built
    for the student's distribution wastes on each of the teacher's latents, 0 where the two agree,
    and says nothing about where in the photo a latent stands.
    """
    (mean, scale), (mean_t, scale_t) = _moments(y), _moments(y_t)
    return discretised_kl_bits(scale_t, scale) + mean_shift_bits(mean_t - mean, bounded(scale))


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (B, C); the root has a slope at 0, too."""
    variance, mean = torch.var_mean(y, dim=(2, 3), correction=0)
    return mean, (variance + 1e-6).sqrt()


def bounded(sigma: Tensor) -> Tensor:
    """`sigma` from SCALE_MIN to SCALE_MAX; one under the lower end can still be raised."""
    raised: Tensor = LowerBoundFunction.apply(sigma, sigma.new_tensor(SCALE_MIN))
    return raised.clamp_max(SCALE_MAX)


def summed_kl_bits(sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """What `discretised_kl_bits` looks up, bin by bin.

    Every bin is taken while sigma_t is under 3. Above, the terms change so slowly from bin to bin
    that one in sigma_t / 3 is enough: within 0.1 % of the whole sum.
    """
    bins = torch.arange(N_BINS, dtype=sigma.dtype, device=sigma.device)
    bins = bins.view(-1, *[1] * sigma_t.ndim) * (sigma_t / EXACT_BELOW).clamp_min(1.0)
    log_p, log_q = _log_bins(bins, sigma_t), _log_bins(bins, sigma)
    p = log_p.exp()
    p = torch.cat([p[:1], 2 * p[1:]])  # bins k and -k
    return (p * (log_p - log_q)).sum(0) / p.sum(0) / math.log(2)


def _log_bins(k: Tensor, sigma: Tensor) -> Tensor:
    """Natural logarithm of the mass of the unit bins around `k` (0 first); stable in the tail."""
    low, high = (k - 0.5) / sigma, (k + 0.5) / sigma
    log_low, log_high = torch.special.log_ndtr(-low), torch.special.log_ndtr(-high)
    tail = log_low + torch.log1p(-torch.exp((log_high - log_low).clamp_max(-1e-12)))
    centre = torch.log(torch.erf(high[:1] / math.sqrt(2)))
    return torch.cat([centre, tail[1:]])


@cache
def _kl_table(device: str) -> Tensor:
    """ln(KL / d^2) over (ln sigma_t, ln sigma), both from ln SCALE_MIN in steps of TABLE_STEP."""
    n = math.ceil(math.log(SCALE_MAX / SCALE_MIN) / TABLE_STEP) + 1
    log_scales = math.log(SCALE_MIN) + TABLE_STEP * torch.arange(n, dtype=torch.float64)
    u, v = log_scales[:, None].expand(n, n), log_scales[None, :].expand(n, n)
    v = v + torch.eye(n, dtype=torch.float64) * TABLE_STEP / 30  # on the diagonal: the limit
    kl = summed_kl_bits(u.exp(), v.exp())
    return (kl / (v - u) ** 2).log().float().to(device)
