"""CompressAI's convolutions and GDN, made cheaper to train: same weights, same outputs.

In eval mode each layer is CompressAI's own, bit by bit. In training

    GDN     is one autograd function: the outputs, with gradients written out in 7 passes over the
            map where autograd takes 20 (x / sqrt(n) and its inverse, n = beta + gamma x^2)
    deconv  leaves the gradient of its bias to a plain sum: oneDNN's, inside a transposed
            convolution, took longer than all else in it (10 of 14 ms at N=64 on 128 px crops)

Measured by `python -m benchmarks.step`, 28 November 2026.
"""

from typing import Any

import torch
from compressai import layers
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight


class GDN(layers.GDN):  # type: ignore[misc]  # CompressAI has no types
    """CompressAI's GDN; its state dict too."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised; in training under autocast in its type, as a convolution is."""
        if not self.training:
            plain: Tensor = super().forward(x)
            return plain
        x = _as_autocast(x)
        with torch.autocast(x.device.type, enabled=False):
            normalised: Tensor = _Normalise.apply(x, self.beta, self.gamma, self)
            return normalised


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution with a cheap bias gradient."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, stride H, stride W)."""
        if not self.training or output_size is not None or self.bias is None:
            return super().forward(x, output_size)
        inputs = [_as_autocast(each) for each in (x, self.weight, self.bias)]
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = _Deconvolve.apply(*inputs, self)
            return out


def conv(n_in: int, n_out: int, kernel_size: int = 5, stride: int = 2) -> nn.Conv2d:
    """CompressAI's `conv`: "same" padding, halves height and width at stride 2."""
    return nn.Conv2d(n_in, n_out, kernel_size, stride=stride, padding=kernel_size // 2)


def deconv(n_in: int, n_out: int, kernel_size: int = 5, stride: int = 2) -> Deconv:
    """CompressAI's `deconv`: the transpose of `conv`."""
    return Deconv(
        n_in,
        n_out,
        kernel_size,
        stride=stride,
        output_padding=stride - 1,
        padding=kernel_size // 2,
    )


def _as_autocast(values: Tensor) -> Tensor:
    """`values` in the type that autocast has, if it is on."""
    kind = values.device.type
    if torch.is_autocast_enabled(kind):
        return values.to(torch.get_autocast_dtype(kind))
    return values


class _Normalise(torch.autograd.Function):
    """y = x n^(-1/2), or x n^(1/2) if `inverse`, n = beta + gamma x^2.

    `beta` and `gamma` come as CompressAI keeps them, under a root and bounded from below
    (`NonNegativeParametrizer`); a value at its bound can still be raised.

    With r = dy/dx at constant n and u = -2 dL/dn (or +2 dL/dn), dL/dx = r dL/dy -+ x (gamma^T u).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, gamma: Tensor, layer: GDN) -> Tensor:
        root_beta = torch.max(beta, layer.beta_reparam.lower_bound.bound)
        root_gamma = torch.max(gamma, layer.gamma_reparam.lower_bound.bound)
        offset = (root_beta.square() - layer.beta_reparam.pedestal).to(x.dtype)
        weights = (root_gamma.square() - layer.gamma_reparam.pedestal).to(x.dtype)
        n = functional.conv2d(x.square(), weights[:, :, None, None], offset)
        r = n.sqrt_() if layer.inverse else n.rsqrt_()
        y = x * r
        ctx.save_for_backward(x, r, y, weights, beta, root_beta, gamma, root_gamma)
        ctx.inverse = layer.inverse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, r, y, weights, beta, root_beta, gamma, root_gamma = ctx.saved_tensors
        sign = 1.0 if ctx.inverse else -1.0
        grad_x = grads[0] * r
        u = (grads[0] * x).div_(r) if ctx.inverse else (grad_x * y).mul_(r)
        grad_x.addcmul_(x, functional.conv2d(u, weights.T[:, :, None, None]), value=sign)
        summed = sign * u.sum((0, 2, 3)).to(beta.dtype)
        crossed = conv2d_weight(  # type: ignore[no-untyped-call]
            x.square(), (*weights.shape, 1, 1), u
        )[:, :, 0, 0]
        return (
            grad_x,
            _bounded_gradient(beta, root_beta, summed),
            _bounded_gradient(gamma, root_gamma, sign * crossed.to(gamma.dtype)),
            None,
        )


def _bounded_gradient(parameter: Tensor, root: Tensor, twice: Tensor) -> Tensor:
    """Of a parameter whose square counts, `twice` being 2 dL/d(square)."""
    grad = twice * root
    return grad.mul_((parameter >= root) | (grad < 0))


class _Deconvolve(torch.autograd.Function):
    """A transposed convolution; its gradients are those of the convolution it transposes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: Deconv) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = {"stride": layer.stride, "padding": layer.padding}
        return functional.conv_transpose2d(
            x, weight, bias, output_padding=layer.output_padding, **ctx.how
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        grad_x = functional.conv2d(grad, weight, **ctx.how) if ctx.needs_input_grad[0] else None
        grad_weight = conv2d_weight(grad, weight.shape, x, **ctx.how)  # type: ignore[no-untyped-call]
        return grad_x, grad_weight, grad.sum((0, 2, 3)), None
