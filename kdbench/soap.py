"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al. 2024 (arXiv 2409.11321), algorithm 3. The gradient G of a parameter with two or more
axes is seen as (a, t, b): channels out, taps, channels in for a kernel. For each axis:

    P <- beta P + (1 - beta) (G unfolded along the axis) (the same)^T
    Q = eigenvectors of P, refreshed every `refresh_every` steps by one power iteration and a QR
    step: Adam on G turned by the three Q, turned back

Parameters with one axis take plain Adam steps. Kernels are unfolded in channels-last order, the
memory order they train in, so that the large products need no copy; a general-purpose
implementation took three times as long per step here (`benchmarks/optimiser.py`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """SOAP for parameters with two axes or more, Adam for vectors.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate; about three times Adam's.
        betas: Decay of gradient and of its square; the preconditioners decay with the second.
        eps: Added to the root of the second moment.
        refresh_every: Steps between two refreshes of the eigenvectors.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        refresh_every: int = 10,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "refresh_every": refresh_every}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; the first only measures the eigenvectors."""
        if closure is not None:
            raise TypeError("Soap takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad, self.state[parameter], group)


AXES = ("a", "t", "b")


def _update(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    is_matrix = parameter.ndim > 1
    if is_matrix:
        grad = _unfolded(grad)
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        if is_matrix:
            beta = group["betas"][1]
            for axis, gram in zip(AXES, _grams(grad), strict=True):
                state[axis] = gram * (1 - beta)
                state[f"q_{axis}"] = _eigenvectors(gram)
            return
    state["step"] += 1
    beta1, beta2 = group["betas"]
    rotated = _into_basis(grad, state) if is_matrix else grad
    state["mean"].lerp_(rotated, 1 - beta1)
    state["square"].mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
    denominator = state["square"].sqrt().add_(group["eps"])
    size = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    update = state["mean"] / denominator
    if is_matrix:
        update = _folded(_out_of_basis(update, state), parameter)
    parameter.sub_(update, alpha=group["lr"] * size)
    if is_matrix:
        for axis, gram in zip(AXES, _grams(grad), strict=True):
            state[axis].lerp_(gram, 1 - beta2)
        if state["step"] % group["refresh_every"] == 0:
            _refresh(state)


def _unfolded(grad: Tensor) -> Tensor:
    """(a, t, b): a kernel (a, b, h, w) as (a, h w, b), a matrix (a, b) as (a, 1, b)."""
    if grad.ndim == 4:
        return grad.permute(0, 2, 3, 1).reshape(grad.shape[0], -1, grad.shape[1])
    return grad.reshape(grad.shape[0], -1, grad.shape[-1])


def _folded(update: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of `_unfolded`."""
    if parameter.ndim == 4:
        a, b, height, width = parameter.shape
        return update.view(a, height, width, b).permute(0, 3, 1, 2)
    return update.view(parameter.shape)


def _grams(grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Second moments along each axis of (a, t, b): (a, a), (t, t), (b, b)."""
    by_a, by_b = grad.flatten(1), grad.flatten(0, 1)
    return by_a @ by_a.T, (grad @ grad.transpose(1, 2)).sum(0), by_b.T @ by_b


def _turned(values: Tensor, a: Tensor, t: Tensor, b: Tensor) -> Tensor:
    """One matrix on each axis of (a, t, b)."""
    turned = (a @ values.flatten(1)).view(values.shape)
    if len(t) > 1:
        turned = t @ turned
    return (turned.view(-1, values.shape[-1]) @ b.T).view(values.shape)


def _into_basis(values: Tensor, state: dict[str, Any]) -> Tensor:
    return _turned(values, *(state[f"q_{axis}"].T for axis in AXES))


def _out_of_basis(values: Tensor, state: dict[str, Any]) -> Tensor:
    return _turned(values, *(state[f"q_{axis}"] for axis in AXES))


def _eigenvectors(gram: Tensor) -> Tensor:
    """Columns by falling eigenvalue."""
    damped = gram + 1e-12 * torch.eye(len(gram), device=gram.device)
    vectors: Tensor = torch.linalg.eigh(damped)[1]
    return vectors.flip(1).contiguous()


def _refresh(state: dict[str, Any]) -> None:
    """One power iteration and QR per axis; both moments move to the new basis."""
    mean = _out_of_basis(state["mean"], state)
    for i, axis in enumerate(AXES):
        q = state[f"q_{axis}"]
        image = state[axis] @ q
        order = (q * image).sum(0).argsort(descending=True)
        state["square"] = state["square"].index_select(i, order)
        state[f"q_{axis}"] = torch.linalg.qr(image[:, order])[0].contiguous()
    state["mean"] = _into_basis(mean, state)
