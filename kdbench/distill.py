r"""The loss: R + rd_lambda 255^2 D + distillation terms, every term in bits per pixel of loss.

    L = R + rd_lambda 255^2 D + w_y K_y + w_z K_z + w_x K_x + w_p K_p + w_f K_f

R [bit/px] is the rate, D the MSE on [0, 1]. (Another distortion of `metrics` stands in the place of
D and of the MSE in K_x, with a weight of its own in the place of 255^2.) The terms, per pixel of
the crop, teacher marked t:

    K_y = 6/ln 2  sum (y - y_t)^2 / pixels          latent, before rounding, gained: in steps
    K_z = 6/ln 2  sum (z - z_t)^2 / pixels          hyper-latent, before rounding
    K_x = rd_lambda 255^2 MSE(x_hat, x_hat_t)       output
    K_p = c(tau) sum KL(Q(tau sigma_t) || Q(tau sigma)) / pixels    entropy model, in bits
    K_f                                             features of a layer, see `features`

Why 6/ln 2. In a codec at its optimum, halving a quantisation step of 1 costs one bit per
coefficient and saves as much distortion: with uniform noise of variance step^2/12 the loss grows by
c step^2/12, and d/d ln(step) gives c/6 = 1/ln 2 bits. So a squared error of one step costs
c = 6/ln 2 = 8.66 bits of loss, and a weight of 1 means: as much as if the teacher's latents were
the truth. (High-rate argument; a unit, not a theorem.)

Channels of y. Of a trained codec's latent channels many carry next to nothing, and at their low
rates the argument above fails: a step of error there costs no step of distortion. With
`channel_weights: by_bits` the squared errors of channel c count w_c = b_c sum(b) / sum(b^2), where
b_c are the teacher's bits in it: in proportion to them, and such that the mean of w over the
teacher's *bits* is 1. So channels of equal bits weigh 1 each among any number of dead ones, and the
term is the unweighted one where all are equal. (A mean of 1 over the channels instead would make
the term stronger the more of them are dead; one over their energy would hang on the one or two that
hold the local brightness.) Weighting by entropy is from FEDS (arXiv 2503.06399).

Q(s) is the Gaussian of scale s integrated over unit bins, what the range coder uses. Where both
codecs predict means, the teacher's lies off the student's bins by mu_t - mu, and K_p has the term

    (mu_t - mu)^2 / (2 (tau^2 sigma^2 + 1/12) ln 2)

besides: exact for wide Gaussians, with Sheppard's 1/12 for the width of a bin (`mean_shift_bits`).
The temperature tau scales both. c(tau) makes the gradient norm of K_p on the first batch what it is
at tau = 1: tau chooses *where* the term looks (small scales at small tau), w_p how strongly.

With `latent_loss: kl` the latent term compares distributions in the place of values:

    K_y = h w sum_c KL(Q(mu_tc, s_tc) || Q(mu_c, s_c)) / pixels    in bits

mu and s being mean and deviation of channel c over the h w positions of the crop. (The squared
error is a KL, too: of Gaussians of one width, the variance 1/12 of the rounding noise, in bits. A
KL that says something else must let the widths differ. The paper's code has a softmax over the
channels, left to a default and averaged to next to nothing; on latents that span dozens of steps a
softmax is one-hot, and sees one channel.)

Each term is 0 where student and teacher agree, and only the student gets a gradient.

With `paper_compat` the loss is that of Allemand et al. 2025 (arXiv 2509.10366), whose terms are no
bits, so that their weights can be tried as they were published:

    L = w_y MSE(y_hat, y_hat_t) + w_z MSE(z_hat, z_hat_t) + w_x MSE(x_hat, x_hat_t)
        + w_rd (R + rd_lambda 255^2 D)

with the mean over all channels of KL(Q_tc || Q_c), in nats, for the first with `latent_loss: kl`;
means over all elements, x_hat on [0, 1], latents after rounding (the student's with the gradient of
the identity). Beside rd_lambda 255^2 its output term is next to nothing, as published.

A schedule multiplies the weights over the training (`strength`): a teacher that helps a student on
its way may hold it back at the end, when the student has a trade of its own to find. With `staged`
the terms come first, alone, and R + rd_lambda 255^2 D joins them after a third of the steps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdbench.codecs.hyperprior import images_bits
from kdbench.divergence import bounded, channel_kl_bits, discretised_kl_bits, mean_shift_bits
from kdbench.errors import TrainingError
from kdbench.features import FeatureTerm
from kdbench.metrics import MSE, Metric
from kdbench.records import AnyArchitecture, Distillation, Offer, Schedule
from kdbench.squares import squared_error

BITS_PER_SQUARED_STEP = 6 / math.log(2)
STAGE = 3  # the first stage of a staged training is this part of the steps


class Targets(NamedTuple):
    """What the teacher gives for one batch, at the levels of the batch.

    Attributes:
        y: Gained latent before rounding, (B, M_t, h, w).
        x_hat: Reconstruction on [0, 1], (B, 3, H, W).
        z: Hyper-latent before rounding, (B, H_t, h/4, w/4), of a teacher that has one.
        scales: sigma, (B, M_t, h, w), of a teacher that predicts it.
        means: mu, (B, M_t, h, w), likewise.
        y_hat: Gained latent after rounding; of a plan with `paper_compat`.
        z_hat: Hyper-latent after rounding; likewise.
        features: Of the plan's `feature_layer`, (B, C_t, h, w); of a plan with a feature term.
    """

    y: Tensor
    x_hat: Tensor
    z: Tensor | None = None
    scales: Tensor | None = None
    means: Tensor | None = None
    y_hat: Tensor | None = None
    z_hat: Tensor | None = None
    features: Tensor | None = None

    @classmethod
    def of(cls, out: Mapping[str, Any]) -> "Targets":
        """The targets in what a teacher's forward pass gives."""
        return cls(**{name: out[name] for name in cls._fields if name in out})


def unit_range(pixels: Tensor) -> Tensor:
    """Pixels, uint8 (B, 3, H, W) -> float on [0, 1], channels last."""
    last = torch.stack(pixels.unbind(1), -1)  # a third of the time of a change of memory format
    return last.float().div_(255).permute(0, 3, 1, 2)


class RateDistortion(NamedTuple):
    """R [bit/px], MSE on [0, 1] and R + rd_lambda 255^2 D, each averaged over the batch.

    The loss has the distortion that is trained for, MSE or not.
    """

    bpp: Tensor
    mse: Tensor
    loss: Tensor

    @property
    def distortion(self) -> Tensor:
        """rd_lambda 255^2 D [bit/px of loss]; rate and distortion sum to the loss."""
        return self.loss - self.bpp


def rate_distortion(
    out: dict[str, Tensor], x: Tensor, rd_lambda: Tensor, metric: Metric = MSE
) -> RateDistortion:
    """R + rd_lambda * 255^2 * D; a larger `rd_lambda` buys quality with bits.

    Args:
        out: Of `Hyperprior.forward`.
        x: (B, 3, H, W) in [0, 1].
        rd_lambda: (B,), one an image.
        metric: D, and what stands in the place of 255^2.
    """
    pixels = x.shape[-2] * x.shape[-1]
    bpp = images_bits(out["likelihoods"]) / pixels  # type: ignore[arg-type]
    mse = MSE.distortion(out["x_hat"], x)
    distortion = mse if metric is MSE else metric.distortion(out["x_hat"], x)
    loss = bpp + rd_lambda * metric.weight * distortion
    return RateDistortion(bpp.mean(), mse.mean(), loss.mean())


def strength(schedule: Schedule, step: int, n_steps: int) -> float:
    """What a weight of this schedule is multiplied by at `step` of `n_steps`, 1 to 0."""
    if schedule == "decaying":
        return 0.5 * (1 + math.cos(math.pi * step / n_steps))
    if schedule == "first_half":
        return 1.0 if 2 * step < n_steps else 0.0
    return 1.0


def weights_now(plan: Distillation, step: int, n_steps: int) -> dict[str, float]:
    """The weight of each term at `step` of `n_steps`; those at 0 are left out."""
    now = {
        name: plan.weights[name] * strength(schedule, step, n_steps)
        for name, schedule in plan.schedules.items()
    }
    return {name: weight for name, weight in now.items() if weight > 0}


def rd_weight(plan: Distillation, step: int, n_steps: int) -> float:
    """What R + rd_lambda 255^2 D is multiplied by at `step` of `n_steps`.

    1, but in the paper's loss, and in the first stage of a staged training.
    """
    if plan.schedule == "staged" and not plan.is_off and STAGE * step < n_steps:
        return 0.0
    return plan.rd if plan.paper_compat else 1.0


def squared_steps_bpp(
    student: Tensor, teacher: Tensor, pixels: int, weights: Tensor | None = None
) -> Tensor:
    """K_y or K_z: squared error in quantisation steps, as bits per pixel of loss.

    `weights` (C,) are of the channels, 1 each if None.
    """
    if weights is not None:
        root = weights.sqrt()[:, None, None]
        student, teacher = student * root, teacher * root
    return BITS_PER_SQUARED_STEP * squared_error(student, teacher).mean() / pixels


def latent_kl_bpp(
    student: Tensor, teacher: Tensor, pixels: int, weights: Tensor | None = None
) -> Tensor:
    """K_y between the distributions of each channel's latents [bit/px]; as `squared_steps_bpp`."""
    bits = channel_kl_bits(student, teacher)
    if weights is not None:
        bits = bits * weights
    positions = student.shape[-2] * student.shape[-1]
    return positions * (bits.sum() / student.shape[0]) / pixels


def bit_weights(bits: Tensor) -> Tensor:
    """Weights (M,) in proportion to `bits` (M,), the teacher's in each channel; 1 a bit on average.

    All 1 where all bits are equal; see the head of this module.
    """
    return bits * bits.sum() / bits.square().sum()


def output_bpp(student: Tensor, teacher: Tensor, rd_lambda: Tensor, metric: Metric = MSE) -> Tensor:
    """K_x: the distortion term with the teacher's reconstruction in the place of the photo."""
    return (rd_lambda * metric.weight * metric.distortion(student, teacher)).mean()


class Distiller(nn.Module):
    """The weighted distillation terms of one trial, and the connectors they need.

    Where student and teacher differ in latent or hyper-latent channels a 1x1 convolution, trained
    with the student and thrown away after, carries the student's latents to the teacher's. The
    entropy term compares channel by channel and has no connector.
    """

    def __init__(
        self,
        plan: Distillation,
        student: AnyArchitecture,
        teacher: Offer,
        channels: Sequence[int] | None = None,
        channel_bits: Tensor | None = None,
        *,
        connect: bool = False,
        metric: Metric = MSE,
    ) -> None:
        """Connectors start as the identity on the channels both sides have.

        Args:
            plan: Weights and temperature.
            student: Whose latents are carried.
            teacher: Where to.
            channels: The teacher's latent channel of each of the student's, where they started
                aligned (`codecs.align`).
            channel_bits: The teacher's bits in each of its latent channels, (M_t,); needed where
                the plan weights channels by them.
            connect: Whether to connect latents of the same width, too.
            metric: Distortion of the output term.

        Raises:
            TrainingError: A term that needs what the teacher has not, the entropy term between
                latents of different width or prior, or anything that the paper's loss has not with
                `paper_compat`.
        """
        super().__init__()
        _require_served(plan, student, teacher)
        self.plan = plan
        self._metric = metric
        own, theirs = student.offer.channels, teacher.channels
        z_own = student.offer.hyper_width or 1  # its connector has no use without a hyper-latent
        z_theirs = teacher.hyper_width or z_own
        self.y_connector = _connector(own, theirs, channels, always=connect)
        self.z_connector = _connector(z_own, z_theirs, always=connect)
        self.channel_weights: Tensor | None
        self.register_buffer("channel_weights", _weights(plan, channel_bits), persistent=False)
        self.feature_term: FeatureTerm | None = None  # the lesson solves for it
        self.entropy_unit: Tensor
        self.register_buffer("entropy_unit", torch.zeros(()))  # c(tau); 0 until the first batch

    def set_feature_term(self, teacher: int, term: FeatureTerm) -> None:
        """The term, solved on the start's crops; `teacher` is 0, for there is one alone."""
        self.feature_term = term

    def forward(
        self,
        out: dict[str, Tensor],
        targets: Targets,
        rd_lambda: Tensor,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Each term of `weights`, weighted [bit/px], by its name in `Distillation`.

        `weights` are those of the step (`weights_now`), the plan's own if None; a term that is not
        among them is not computed.
        """
        weights = self.plan.weights if weights is None else weights
        known = {name: v for name, v in targets._asdict().items() if v is not None}
        targets = Targets.of({name: target.detach() for name, target in known.items()})
        terms = self._paper_terms if self.plan.paper_compat else self._terms
        found = terms(out, targets, rd_lambda, set(weights))
        return {name: weights[name] * term for name, term in found.items()}

    def _terms(
        self, out: dict[str, Tensor], targets: Targets, rd_lambda: Tensor, asked: set[str]
    ) -> dict[str, Tensor]:
        """The terms of the names in `asked` that the teacher serves, unweighted [bit/px]."""
        pixels = targets.x_hat.shape[-2] * targets.x_hat.shape[-1]
        terms = {}
        if "latent" in asked:
            y = self.y_connector(out["y"])
            compare = latent_kl_bpp if self.plan.latent_loss == "kl" else squared_steps_bpp
            terms["latent"] = compare(y, targets.y, pixels, self.channel_weights)
        if "hyper_latent" in asked and targets.z is not None:
            z = self.z_connector(out["z"])
            terms["hyper_latent"] = squared_steps_bpp(z, targets.z, pixels)
        if "output" in asked:
            terms["output"] = output_bpp(out["x_hat"], targets.x_hat, rd_lambda, self._metric)
        if "entropy" in asked and targets.scales is not None:
            shift = None if targets.means is None else targets.means - out["means"]
            terms["entropy"] = self.entropy_bpp(out["scales"], targets.scales, pixels, shift)
        if "features" in asked and self.feature_term is not None and targets.features is not None:
            terms["features"] = self.feature_term(out["features"], targets.features, pixels)
        return terms

    def _paper_terms(
        self, out: dict[str, Tensor], targets: Targets, rd_lambda: Tensor, asked: set[str]
    ) -> dict[str, Tensor]:
        """The terms of arXiv 2509.10366: mean squared errors, no bits."""
        terms = {}
        if "latent" in asked:
            y_hat = self.y_connector(out["y_hat"])
            y_hat_t: Tensor = targets.y_hat  # type: ignore[assignment]
            if self.plan.latent_loss == "kl":
                terms["latent"] = math.log(2) * channel_kl_bits(y_hat, y_hat_t).mean()
            else:
                terms["latent"] = mse_loss(y_hat, y_hat_t)
        if "hyper_latent" in asked:
            z_hat = self.z_connector(out["z_hat"])
            terms["hyper_latent"] = mse_loss(z_hat, targets.z_hat)  # type: ignore[arg-type]
        if "output" in asked:
            terms["output"] = mse_loss(out["x_hat"], targets.x_hat)
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


def _weights(plan: Distillation, channel_bits: Tensor | None) -> Tensor | None:
    """Of the teacher's latent channels in the latent term; None where all count alike."""
    if plan.channel_weights == "equal":
        return None
    if channel_bits is None:
        raise TrainingError(
            "channels can be weighted by the bits of a teacher of ours alone",
            fix="set `distillation.channel_weights` to equal, or take a teacher:NAME",
        )
    return bit_weights(channel_bits)


def _require_served(plan: Distillation, student: AnyArchitecture, teacher: Offer) -> None:
    """Raises TrainingError for a term of `plan` that the teacher cannot serve."""
    if plan.paper_compat and (
        plan.entropy > 0 or plan.features > 0 or plan.channel_weights != "equal"
    ):
        raise TrainingError(
            "the paper's loss has no entropy term, no features and no weights of channels",
            fix="set `distillation.entropy` and `distillation.features` to 0 and "
            "`distillation.channel_weights` to equal, or `distillation.paper_compat` to false",
        )
    if plan.hyper_latent > 0 and teacher.hyper_width is None:
        raise TrainingError(
            "the hyper-latent term needs a hyper-latent, and the teacher has none",
            fix="set `distillation.hyper_latent` to 0, or take a teacher with a hyperprior",
        )
    if plan.hyper_latent > 0 and student.offer.hyper_width is None:
        raise TrainingError(
            "the hyper-latent term needs a hyper-latent, and the student has none",
            fix="set `distillation.hyper_latent` to 0",
        )
    if plan.entropy > 0 and student.offer.prior is None:
        raise TrainingError(
            "the entropy term compares the Gaussians of the latents, and the student offers none: "
            "it has a context, or is of a family without",
            fix="set `distillation.entropy` to 0",
        )
    if plan.entropy > 0 and teacher.prior is None:
        raise TrainingError(
            "the entropy term needs the Gaussians of the latents, and the teacher offers none: it "
            "has no hyperprior, or a context",
            fix="set `distillation.entropy` to 0, or take a teacher with a hyperprior and no "
            "context",
        )
    own, theirs = student.coordinates, teacher.coordinates
    if plan.entropy > 0 and own != theirs:
        raise TrainingError(
            f"the entropy term compares channel by channel, but the student has "
            f"{own.channels} latent channels ({own.prior}) and its teacher "
            f"{theirs.channels} ({theirs.prior})",
            fix="set `distillation.entropy` to 0, or `latent.channels` and `hyper.prior` to "
            "the teacher's",
        )


def _entropy_bits(
    scales: Tensor, teacher_scales: Tensor, shift: Tensor | None, tau: float
) -> Tensor:
    """KL of the Gaussians at `tau`, summed [bit]; `shift` is teacher's means less student's."""
    bits = discretised_kl_bits(tau * teacher_scales, tau * scales).sum()
    return bits if shift is None else bits + mean_shift_bits(shift, tau * bounded(scales)).sum()


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


def _connector(
    n_student: int,
    n_teacher: int,
    channels: Sequence[int] | None = None,
    *,
    always: bool = False,
) -> nn.Module:
    if n_student == n_teacher and not always:
        return nn.Identity()
    layer = nn.Conv2d(n_student, n_teacher, kernel_size=1)
    pairs = range(min(n_student, n_teacher)) if channels is None else channels
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for own, teachers in enumerate(pairs):
        layer.weight.data[teachers, own] = 1.0
    return layer
