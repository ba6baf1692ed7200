r"""The loss: R + rd_lambda 255^2 D + distillation terms, every term in bits per pixel of loss.

    L = R + rd_lambda 255^2 D + w_y K_y + w_z K_z + w_x K_x + w_p K_p

R [bit/px] is the rate, D the MSE on [0, 1]. The terms, per pixel of the crop, teacher marked t:

    K_y = 6/ln 2  sum (y - y_t)^2 / pixels          latent, before rounding, gained: in steps
    K_z = 6/ln 2  sum (z - z_t)^2 / pixels          hyper-latent, before rounding
    K_x = rd_lambda 255^2 MSE(x_hat, x_hat_t)       output
    K_p = c(tau) sum KL(Q(tau sigma_t) || Q(tau sigma)) / pixels    entropy model, in bits

Why 6/ln 2. In a codec at its optimum, halving a quantisation step of 1 costs one bit per
coefficient and saves as much distortion: with uniform noise of variance step^2/12 the loss grows by
c step^2/12, and d/d ln(step) gives c/6 = 1/ln 2 bits. So a squared error of one step costs
c = 6/ln 2 = 8.66 bits of loss, and a weight of 1 means: as much as if the teacher's latents were
the truth. (High-rate argument; a unit, not a theorem.)

Q(s) is the Gaussian of scale s integrated over unit bins, what the range coder uses. Where both
codecs predict means, the teacher's lies off the student's bins by mu_t - mu, and K_p has the term

    (mu_t - mu)^2 / (2 (tau^2 sigma^2 + 1/12) ln 2)

besides: exact for wide Gaussians, with Sheppard's 1/12 for the width of a bin (`mean_shift_bits`).
The temperature tau scales both. c(tau) makes the gradient norm of K_p on the first batch what it is
at tau = 1: tau chooses *where* the term looks (small scales at small tau), w_p how strongly.

Each term is 0 where student and teacher agree, and only the student gets a gradient.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from compressai.ops.bound_ops import LowerBoundFunction
from torch import Tensor, nn

from kdbench.codecs.hyperprior import images_bits
from kdbench.errors import TrainingError
from kdbench.records import Architecture, Distillation

BITS_PER_SQUARED_STEP = 6 / math.log(2)
SCALE_MIN = 0.11  # CompressAI's lower bound of sigma
SCALE_MAX = 1024.0  # its upper one, 256, at temperature 4
TABLE_STEP = 0.03  # of ln sigma
N_BINS = 17  # 0 .. 16 hold all but 1e-7 of a Gaussian of scale 3
EXACT_BELOW = 3.0


class Targets(NamedTuple):
    """What the teacher gives for one batch, at the levels of the batch.

    Attributes:
        y: Gained latent before rounding, (B, M_t, h, w).
        z: Hyper-latent before rounding, (B, H_t, h/4, w/4).
        scales: sigma, (B, M_t, h, w).
        x_hat: Reconstruction on [0, 1], (B, 3, H, W).
        means: mu, (B, M_t, h, w), of a teacher that predicts it.
    """

    y: Tensor
    z: Tensor
    scales: Tensor
    x_hat: Tensor
    means: Tensor | None = None

    @classmethod
    def of(cls, out: Mapping[str, Any]) -> "Targets":
        """The targets in what a teacher's forward pass gives."""
        return cls(**{name: out[name] for name in cls._fields if name in out})


class RateDistortion(NamedTuple):
    """R [bit/px], D (MSE on [0, 1]) and R + rd_lambda 255^2 D, each averaged over the batch."""

    bpp: Tensor
    mse: Tensor
    loss: Tensor

    @property
    def distortion(self) -> Tensor:
        """rd_lambda 255^2 D [bit/px of loss]; rate and distortion sum to the loss."""
        return self.loss - self.bpp


def rate_distortion(out: dict[str, Tensor], x: Tensor, rd_lambda: Tensor) -> RateDistortion:
    """R + rd_lambda * 255^2 * D; a larger `rd_lambda` buys quality with bits.

    Args:
        out: Of `Hyperprior.forward`.
        x: (B, 3, H, W) in [0, 1].
        rd_lambda: (B,), one an image.
    """
    pixels = x.shape[-2] * x.shape[-1]
    bpp = images_bits(out["likelihoods"]) / pixels  # type: ignore[arg-type]
    mse = (out["x_hat"] - x).square().flatten(1).mean(1)
    return RateDistortion(bpp.mean(), mse.mean(), (bpp + rd_lambda * 255**2 * mse).mean())


def squared_steps_bpp(student: Tensor, teacher: Tensor, pixels: int) -> Tensor:
    """K_y or K_z: squared error in quantisation steps, as bits per pixel of loss."""
    squared = (student - teacher).square().sum() / student.shape[0]
    return BITS_PER_SQUARED_STEP * squared / pixels


def output_bpp(student: Tensor, teacher: Tensor, rd_lambda: Tensor) -> Tensor:
    """K_x: the distortion term with the teacher's reconstruction in the place of the photo."""
    return (rd_lambda * 255**2 * (student - teacher).square().flatten(1).mean(1)).mean()


def discretised_kl_bits(sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """KL(Q(sigma_t) || Q(sigma)) of zero-mean Gaussians over unit bins [bit], element by element.

    Looked up, since the sum over bins took longer than the rest of a training step: with
    d = ln(sigma / sigma_t), `_kl_table` holds ln(KL / d^2), which is smooth, and is read linearly;
    within 0.2 % of `summed_kl_bits` above 1e-4 bits. Both scales are clamped to the table; `sigma`
    under its lower end, CompressAI's bound, still gets a gradient that raises it.
    """
    table = _kl_table(str(sigma.device))
    u, v = sigma_t.clamp(SCALE_MIN, SCALE_MAX).log(), _clamped(sigma).log()
    row, column = ((t - math.log(SCALE_MIN)) / TABLE_STEP for t in (u, v))
    i, j = (t.detach().nan_to_num().long().clamp_max(len(table) - 2) for t in (row, column))
    left = table[i, j].lerp(table[i + 1, j], row - i)
    right = table[i, j + 1].lerp(table[i + 1, j + 1], row - i)
    return (v - u) ** 2 * left.lerp(right, column - j).exp()


def mean_shift_bits(shift: Tensor, sigma: Tensor) -> Tensor:
    """What a Gaussian of scale `sigma` pays for a mean that is off by `shift` steps [bit].

    Of two wide Gaussians this is the part of their KL divergence that their means cause. A bin of
    width 1 adds the variance 1/12; within 10 % of the sum over bins from sigma 0.5 on, too large
    below, where a bin hides small shifts.
    """
    return shift.square() / (2 * math.log(2) * (sigma.square() + 1 / 12))


def summed_kl_bits(sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """The same, exactly: bin by bin.

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


def _clamped(sigma: Tensor) -> Tensor:
    bounded: Tensor = LowerBoundFunction.apply(sigma, sigma.new_tensor(SCALE_MIN))
    return bounded.clamp_max(SCALE_MAX)


class Distiller(nn.Module):
    """The weighted distillation terms of one trial, and the connectors they need.

    Where student and teacher differ in latent or hyper-latent channels a 1x1 convolution, trained
    with the student and thrown away after, carries the student's latents to the teacher's. The
    entropy term compares channel by channel and has no connector.
    """

    def __init__(
        self,
        plan: Distillation,
        student: Architecture,
        teacher: Architecture,
        channels: Sequence[int] | None = None,
    ) -> None:
        """Connectors start as the identity on the channels both sides have.

        Args:
            plan: Weights and temperature.
            student: Whose latents are carried.
            teacher: Where to.
            channels: The teacher's latent channel of each of the student's, where they started
                aligned (`codecs.align`).

        Raises:
            TrainingError: The entropy term between latents of different width or prior.
        """
        super().__init__()
        if plan.entropy > 0 and student.coordinates != teacher.coordinates:
            own, theirs = student.coordinates, teacher.coordinates
            raise TrainingError(
                f"the entropy term compares channel by channel, but the student has "
                f"{own.channels} latent channels ({own.prior}) and its teacher "
                f"{theirs.channels} ({theirs.prior})",
                fix="set `distillation.entropy` to 0, or `latent.channels` and `hyper.prior` to "
                "the teacher's",
            )
        self.plan = plan
        self.y_connector = _connector(student.latent.channels, teacher.latent.channels, channels)
        self.z_connector = _connector(student.hyper.width, teacher.hyper.width)
        self.entropy_unit: Tensor
        self.register_buffer("entropy_unit", torch.zeros(()))  # c(tau); 0 until the first batch

    def forward(
        self, out: dict[str, Tensor], targets: Targets, rd_lambda: Tensor
    ) -> dict[str, Tensor]:
        """Each active term, weighted [bit/px], by its name in `Distillation`."""
        pixels = targets.x_hat.shape[-2] * targets.x_hat.shape[-1]
        known = {name: v for name, v in targets._asdict().items() if v is not None}
        targets = Targets.of({name: target.detach() for name, target in known.items()})
        plan, terms = self.plan, {}
        if plan.latent > 0:
            y = self.y_connector(out["y"])
            terms["latent"] = plan.latent * squared_steps_bpp(y, targets.y, pixels)
        if plan.hyper_latent > 0:
            z = self.z_connector(out["z"])
            terms["hyper_latent"] = plan.hyper_latent * squared_steps_bpp(z, targets.z, pixels)
        if plan.output > 0:
            terms["output"] = plan.output * output_bpp(out["x_hat"], targets.x_hat, rd_lambda)
        if plan.entropy > 0:
            shift = None if targets.means is None else targets.means - out["means"]
            terms["entropy"] = plan.entropy * self.entropy_bpp(
                out["scales"], targets.scales, pixels, shift
            )
        return terms

    def entropy_bpp(
        self, scales: Tensor, teacher_scales: Tensor, pixels: int, shift: Tensor | None = None
    ) -> Tensor:
        """K_p [bit/px]; the first call fixes c(tau)."""
        tau = self.plan.temperature
        if float(self.entropy_unit) == 0.0:
            self.entropy_unit.fill_(_entropy_unit(scales, teacher_scales, shift, tau))
        bits = _entropy_bits(scales, teacher_scales, shift, tau)
        return self.entropy_unit * bits / (scales.shape[0] * pixels)


def _entropy_bits(
    scales: Tensor, teacher_scales: Tensor, shift: Tensor | None, tau: float
) -> Tensor:
    """KL of the Gaussians at `tau`, summed [bit]; `shift` is teacher's means less student's."""
    bits = discretised_kl_bits(tau * teacher_scales, tau * scales).sum()
    return bits if shift is None else bits + mean_shift_bits(shift, tau * _clamped(scales)).sum()


def _entropy_unit(
    scales: Tensor, teacher_scales: Tensor, shift: Tensor | None, tau: float
) -> float:
    """Gradient norm of the KL with respect to what is predicted, at tau = 1 over that at `tau`."""
    if tau == 1.0:
        return 1.0
    norms = []
    for t in (1.0, tau):
        leaves = [v.detach().clone().requires_grad_() for v in (scales, shift) if v is not None]
        with torch.enable_grad():
            bits = _entropy_bits(leaves[0], teacher_scales, (*leaves, None)[1], t)
        grads = torch.autograd.grad(bits, leaves)
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
    return norms[0] / norms[1] if norms[1] > 0 else 1.0


def _connector(n_student: int, n_teacher: int, channels: Sequence[int] | None = None) -> nn.Module:
    if n_student == n_teacher:
        return nn.Identity()
    layer = nn.Conv2d(n_student, n_teacher, kernel_size=1)
    pairs = range(min(n_student, n_teacher)) if channels is None else channels
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for own, teachers in enumerate(pairs):
        layer.weight.data[teachers, own] = 1.0
    return layer
