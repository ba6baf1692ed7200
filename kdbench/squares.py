"""Sums of squared differences, with the gradient written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Squared differences of each sample of (B, ...), summed, (B,)."""
    summed: Tensor = _SquaredError.apply(a, b)
    return summed


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        axes = tuple(range(1, difference.ndim))
        norms: Tensor = torch.linalg.vector_norm(difference, dim=axes)  # a pass less than squares
        return norms.square_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        grad = difference * (2 * grads[0]).view(-1, *[1] * (difference.ndim - 1))
        return grad, -grad if ctx.needs_input_grad[1] else None
