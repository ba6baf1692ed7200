"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for convolution kernels.

Vyas et al. 2024 (arXiv 2409.11321), algorithm 3, on the two channel axes of each kernel; the taps
are not mixed. With G the gradient as a tensor (a, taps, b):

    L <- beta L + (1 - beta) sum over taps, b  G G^T        (a, a)
    R <- beta R + (1 - beta) sum over a, taps  G^T G        (b, b)
    Q_L, Q_R: eigenvectors, refreshed every `refresh_every` steps by one power iteration and a QR
    step: Adam on Q_L^T G Q_R, turned back

Everything else (biases, GDN, gains, the factorised prior) takes plain Adam steps. In channels-last
memory both products are views, so a step is six matrix products per kernel; general-purpose
implementations precondition the 5x5 taps as well and took five times as long per step here
(`benchmarks/optimiser.py`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """SOAP for 4-D parameters, Adam for all others.

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
        """One update; the first only measures the eigenvectors of the kernels."""
        if closure is not None:
            raise TypeError("Soap takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad, self.state[parameter], group)


def _update(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    is_kernel = parameter.ndim == 4
    if is_kernel:
        grad = grad.permute(0, 2, 3, 1).contiguous()
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        if is_kernel:
            state["left"], state["right"] = (gram / 20 for gram in _grams(grad))
            state["q_left"], state["q_right"] = map(_eigenvectors, (state["left"], state["right"]))
            return
    state["step"] += 1
    beta1, beta2 = group["betas"]
    rotated = _turn(grad, state["q_left"].T, state["q_right"]) if is_kernel else grad
    state["mean"].lerp_(rotated, 1 - beta1)
    state["square"].mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
    denominator = state["square"].sqrt().add_(group["eps"])
    size = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    update = state["mean"] / denominator
    if is_kernel:
        update = _turn(update, state["q_left"], state["q_right"].T).permute(0, 3, 1, 2)
    parameter.sub_(update, alpha=group["lr"] * size)
    if is_kernel:
        for name, gram in zip(("left", "right"), _grams(grad), strict=True):
            state[name].lerp_(gram, 1 - beta2)
        if state["step"] % group["refresh_every"] == 0:
            _refresh(state)


def _grams(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Both second-moment matrices of (a, h, w, b): (a, a) and (b, b)."""
    by_row, by_column = grad.flatten(1), grad.flatten(0, 2)
    return by_row @ by_row.T, by_column.T @ by_column


def _turn(values: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`left` on the first axis of (a, h, w, b), `right` on the last."""
    turned = (left @ values.flatten(1)).view(-1, values.shape[-1]) @ right
    return turned.view(values.shape)


def _eigenvectors(gram: Tensor) -> Tensor:
    """Columns by falling eigenvalue."""
    damped = gram + 1e-12 * torch.eye(len(gram), device=gram.device)
    return torch.linalg.eigh(damped)[1].flip(1).contiguous()


def _refresh(state: dict[str, Any]) -> None:
    """One power iteration and QR per side; both moments move to the new basis."""
    mean = _turn(state["mean"], state["q_left"], state["q_right"].T)
    for name, axis in (("left", 0), ("right", 3)):
        gram, q = state[name], state[f"q_{name}"]
        image = gram @ q
        order = (q * image).sum(0).argsort(descending=True)
        state["square"] = state["square"].index_select(axis, order)
        state[f"q_{name}"] = torch.linalg.qr(image[:, order])[0].contiguous()
    state["mean"] = _turn(mean, state["q_left"].T, state["q_right"])
