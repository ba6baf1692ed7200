r"""CompressAI's entropy models with noise, made cheaper to train: same likelihoods, same gradients.

Each likelihood is one autograd function with its gradient written out, in fp32 under autocast too
(there CompressAI's products of the factorised prior are bf16). In eval mode both classes are
CompressAI's own.

    Gaussian    p = (erfc a - erfc b) / 2,   a, b = (|v| -+ 1/2) / (sqrt(2) sigma),   v = y + n - mu

        dp/d|v| = (e^(-b^2) - e^(-a^2)) / (sqrt(2 pi) sigma)
        dp/ds   = (a e^(-a^2) - b e^(-b^2)) / (sqrt(pi) sigma)

    factorised  p = sigmoid(f(v + 1/2)) - sigmoid(f(v - 1/2)),   f the 5 layers of Balle et al. 2018
                (arXiv 1802.01436, appendix 6.1), which see both ends of a bin in one product

n is uniform on [-1/2, 1/2), drawn as CompressAI draws it. sigma and p are bounded from below, and a
value under its bound can still be raised (`LowerBoundFunction`).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class NoisyGaussian(GaussianConditional):  # type: ignore[misc]  # CompressAI has no types
    """CompressAI's `GaussianConditional`."""

    def forward(
        self,
        inputs: Tensor,
        scales: Tensor,
        means: Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`inputs` with noise, or rounded, and their likelihoods, all (B, M, h, w)."""
        if not (self.training if training is None else training):
            plain: tuple[Tensor, Tensor] = super().forward(inputs, scales, means, False)
            return plain
        noisy = self.quantize(inputs, "noise")
        values = noisy if means is None else noisy - means
        likelihoods = _GaussianBins.apply(
            values, scales, self.lower_bound_scale.bound, self.likelihood_lower_bound.bound
        )
        return noisy, likelihoods


class NoisyFactorised(EntropyBottleneck):  # type: ignore[misc]
    """CompressAI's `EntropyBottleneck` of four hidden layers."""

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """`x` with noise, or rounded, and its likelihoods, both (B, C, h, w)."""
        if not (self.training if training is None else training):
            plain: tuple[Tensor, Tensor] = super().forward(x, False)
            return plain
        by_channel = x.transpose(0, 1).contiguous()  # the order in which CompressAI draws noise
        noisy = self.quantize(by_channel.view(len(by_channel), 1, -1), "noise")
        with torch.autocast(x.device.type, enabled=False):
            likelihoods = _FactorisedBins.apply(
                noisy,
                self.likelihood_lower_bound.bound,
                *self.matrices,
                *self.biases,
                *self.factors,
            )
        noisy, likelihoods = (
            each.view(by_channel.shape).transpose(0, 1) for each in (noisy, likelihoods)
        )
        return noisy, likelihoods


def _passing(values: Tensor, bound: Tensor, grad: Tensor) -> Tensor:
    """`grad` in place, 0 where it pushes `values` further under `bound`."""
    return grad.mul_((values >= bound) | (grad < 0))


class _GaussianBins(torch.autograd.Function):
    """Mass of the unit bins around `values` under N(0, max(scales, scale_bound)^2)."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scales: Tensor, scale_bound: Tensor, bound: Tensor
    ) -> Tensor:
        steepness = (math.sqrt(2) * torch.max(scales, scale_bound)).reciprocal_()  # 1/(sqrt2 sigma)
        magnitudes = values.abs()
        a, b = (magnitudes - 0.5).mul_(steepness), magnitudes.add_(0.5).mul_(steepness)
        p = torch.erfc(a).sub_(torch.erfc(b)).mul_(0.5)
        ctx.save_for_backward(values, scales, scale_bound, bound, steepness, a, b, p)
        return torch.max(p, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, scales, scale_bound, bound, steepness, a, b, p = ctx.saved_tensors
        grad = _passing(p, bound, grads[0] / math.sqrt(math.pi)).mul_(steepness)
        at_a, at_b = (each.square().neg_().exp_() for each in (a, b))
        grad_values = (at_b - at_a).mul_(grad).mul_(values.sign())
        grad_scales = at_a.mul_(a).sub_(at_b.mul_(b)).mul_(grad).mul_(math.sqrt(2))
        return grad_values, _passing(scales, scale_bound, grad_scales), None, None


class _FactorisedBins(torch.autograd.Function):
    """Mass of the unit bins around values (C, 1, n) under each channel's learned density."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: Tensor, *parameters: Tensor) -> Tensor:
        matrices, biases, factors = _layers(parameters)
        n = values.shape[-1]
        seen = torch.cat([values - 0.5, values + 0.5], -1)
        inputs, slopes, gates = [], [], []
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            inputs.append(seen)
            seen = torch.baddbmm(bias, functional.softplus(matrix), seen)
            if i < len(factors):
                gates.append(factors[i].tanh())
                slopes.append(seen.tanh())
                seen = torch.addcmul(seen, gates[i], slopes[i])
        cumulative = seen.sigmoid()
        p = cumulative[..., n:] - cumulative[..., :n]
        ctx.save_for_backward(p, bound, cumulative, *matrices, *inputs, *slopes, *gates)
        return torch.max(p, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, bound, cumulative, *saved = ctx.saved_tensors
        grad_p = _passing(p, bound, grads[0].clone())
        depth = (len(saved) + 2) // 4
        matrices, inputs = saved[:depth], saved[depth : 2 * depth]
        slopes, gates = saved[2 * depth : 3 * depth - 1], saved[3 * depth - 1 :]
        grad = torch.cat([-grad_p, grad_p], -1).mul_(cumulative).mul_(1 - cumulative)
        by_matrix, by_bias, by_factor = [], [], []
        for i in reversed(range(depth)):
            if i < depth - 1:
                through = grad * slopes[i]
                by_factor.append(through.sum(-1, keepdim=True) * (1 - gates[i].square()))
                grad = torch.addcmul(grad, gates[i], grad - through * slopes[i])
            by_bias.append(grad.sum(-1, keepdim=True))
            by_matrix.append((grad @ inputs[i].mT) * matrices[i].sigmoid())
            grad = functional.softplus(matrices[i]).mT @ grad
        n = p.shape[-1]
        reached = *reversed(by_matrix), *reversed(by_bias), *reversed(by_factor)
        return grad[..., :n] + grad[..., n:], None, *reached


def _layers(
    parameters: Sequence[Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Matrices, biases and factors; the last layer has no factor."""
    depth = (len(parameters) + 1) // 3
    return parameters[:depth], parameters[depth : 2 * depth], parameters[2 * depth :]
