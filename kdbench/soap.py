"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al. 2024 (arXiv 2409.11321), algorithm 3. The gradient G of a parameter with two or more
axes is seen as (a, t, b): channels out, taps, channels in for a kernel. For each axis that is
longer than 1 and not longer than the others multiplied:

    P <- beta P + (1 - beta) (G unfolded along the axis) (the same)^T
    Q = eigenvectors of P, refreshed every `refresh_every` steps by one power iteration and a QR
    step: Adam on G turned by the Q, turned back

A longer axis has more eigenvectors than a gradient has directions, and the dearest products: 192
latents beside 9 taps of 16 channels. Without them a student ends with the same loss, sooner
(`reports/LOG.md`). Parameters with one axis take plain Adam steps. Kernels are unfolded in
channels-last order, the memory order they train in. Parameters that unfold to one shape are stacked
and go through every product together, and all vectors are one vector: of a step at N=16 the calls
took longer than what they computed. A general-purpose implementation took three times as long per
step here before that (`benchmarks/optimiser.py`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

AXES = ("a", "t", "b")


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

        self._batches: list[_Batch] = []
        self._batched: list[Tensor] = []  # parameters with a gradient, when batches were made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up `state_dict`, which holds each parameter's state by itself."""
        self._batches, self._batched = [], []
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a matrix's first only measures the eigenvectors."""
        if closure is not None:
            raise TypeError("Soap takes no closure")
        given = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if len(given) != len(self._batched) or any(
            p is not q for p, q in zip(given, self._batched, strict=True)
        ):
            self._batches, self._batched = self._in_batches(), given
        for batch in self._batches:
            batch.update()

    def _in_batches(self) -> "list[_Batch]":
        """Parameters with a gradient by what may be computed together."""
        found: dict[Any, list[Tensor]] = {}
        groups = {}
        for i, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.grad is None:
                    continue
                shape = None if p.ndim <= 1 else _unfolded(p).shape
                key = i, shape, self.state[p].get("step"), p.dtype, p.device
                found.setdefault(key, []).append(p)
                groups[key] = group
        return [
            (_Vectors if key[1] is None else _Matrices)(
                parameters, [self.state[p] for p in parameters], groups[key]
            )
            for key, parameters in found.items()
        ]


class _Batch(ABC):
    """Parameters that are updated together; each one's state is a view of the batch's.

    Args:
        parameters: Of one group, with gradients.
        states: One a parameter, empty before the first step; written to.
        group: Of the optimiser.
    """

    def __init__(
        self, parameters: Sequence[Tensor], states: Sequence[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        self.parameters, self.states, self.group = parameters, states, group
        self.step: int | None = states[0].get("step")
        self.moments: dict[str, Tensor] = {}
        if self.step is not None:
            self.keep({name: self.joined([state[name] for state in states]) for name in self.names})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors in a state."""
        return "mean", "square"

    @abstractmethod
    def joined(self, each: Sequence[Tensor]) -> Tensor:
        """One tensor of one tensor a parameter."""

    @abstractmethod
    def apart(self, values: Tensor) -> Sequence[Tensor]:
        """Views of a joined tensor, one a parameter."""

    def keep(self, moments: dict[str, Tensor]) -> None:
        """Joined tensors, by name, become part of the states."""
        self.moments |= moments
        for name, values in moments.items():
            for state, own in zip(self.states, self.apart(values), strict=True):
                state[name] = own

    def advance(self) -> None:
        """One step more; the first of all is number 0."""
        self.step = 0 if self.step is None else self.step + 1
        for state in self.states:
            state["step"] = self.step

    def adam(self, grad: Tensor) -> Tensor:
        """Takes in a gradient; the update for a learning rate of 1, to be taken away."""
        beta1, beta2 = self.group["betas"]
        mean, square, step = self.moments["mean"], self.moments["square"], self.step
        assert step is not None
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = square.sqrt().add_(self.group["eps"])
        size = math.sqrt(1 - beta2**step) / (1 - beta1**step)
        return torch.div(mean, denominator, out=denominator).mul_(size)

    @abstractmethod
    def update(self) -> None:
        """One step of all."""


class _Vectors(_Batch):
    """All vectors, end to end: Adam."""

    def joined(self, each: Sequence[Tensor]) -> Tensor:
        return torch.cat([values.reshape(-1) for values in each])

    def apart(self, values: Tensor) -> Sequence[Tensor]:
        parts = torch.split(values, [p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def update(self) -> None:
        grad = self.joined([p.grad for p in self.parameters])  # type: ignore[misc]
        if self.step is None:
            self.step = 0
            self.keep({name: torch.zeros_like(grad) for name in self.names})
        self.advance()
        for parameter, change in zip(self.parameters, self.apart(self.adam(grad)), strict=True):
            parameter.sub_(change, alpha=self.group["lr"])


class _Matrices(_Batch):
    """Parameters that unfold to one shape, stacked: (n, a, t, b)."""

    def __init__(
        self, parameters: Sequence[Tensor], states: Sequence[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        shape = _unfolded(parameters[0]).shape
        turned = [1 < n <= shape.numel() / n for n in shape]
        self.axes = [(i, axis) for i, axis in enumerate(AXES, 1) if turned[i - 1]]
        super().__init__(parameters, states, group)

    @property
    def names(self) -> tuple[str, ...]:
        by_axis = (name for _, axis in self.axes for name in (axis, f"q_{axis}"))
        return *super().names, *by_axis

    def joined(self, each: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(each))

    def apart(self, values: Tensor) -> Sequence[Tensor]:
        return values.unbind()

    def update(self) -> None:
        grad = self.joined([_unfolded(p.grad) for p in self.parameters])  # type: ignore[arg-type]
        self.advance()
        beta = self.group["betas"][1]
        if self.step == 0:
            self.keep({name: torch.zeros_like(grad) for name in ("mean", "square")})
            for i, axis in self.axes:
                gram = _gram(grad, i)
                self.keep({axis: gram * (1 - beta), f"q_{axis}": _eigenvectors(gram)})
            return
        update = self._out_of_basis(self.adam(self._into_basis(grad)))
        for parameter, change in zip(self.parameters, self.apart(update), strict=True):
            parameter.sub_(_folded(change, parameter), alpha=self.group["lr"])
        for i, axis in self.axes:
            self.moments[axis].lerp_(_gram(grad, i), 1 - beta)
        if self.step % self.group["refresh_every"] == 0:
            self._refresh()

    def _into_basis(self, values: Tensor) -> Tensor:
        for i, axis in self.axes:
            values = _turned(values, self.moments[f"q_{axis}"].mT, i)
        return values

    def _out_of_basis(self, values: Tensor) -> Tensor:
        for i, axis in self.axes:
            values = _turned(values, self.moments[f"q_{axis}"], i)
        return values

    def _refresh(self) -> None:
        """One power iteration and QR per axis; both moments move to the new basis."""
        mean = self._out_of_basis(self.moments["mean"])
        for i, axis in self.axes:
            q, square = self.moments[f"q_{axis}"], self.moments["square"]
            image = self.moments[axis] @ q
            order = (q * image).sum(1).argsort(descending=True)
            image = image.gather(2, order[:, None].expand_as(image))
            shape = [len(order), 1, 1, 1]
            shape[i] = order.shape[1]
            square.copy_(square.gather(i, order.view(shape).expand_as(square)))
            q.copy_(torch.linalg.qr(image)[0])
        self.moments["mean"].copy_(self._into_basis(mean))


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


def _gram(grad: Tensor, axis: int) -> Tensor:
    """Second moments of each (n, a, t, b) along an axis, (n, its length, the same)."""
    if axis == 1:
        rows = grad.flatten(2)
        return rows @ rows.mT
    if axis == 2:
        return (grad @ grad.mT).sum(1)
    rows = grad.flatten(1, 2)
    return rows.mT @ rows


def _turned(values: Tensor, q: Tensor, axis: int) -> Tensor:
    """Each of (n, a, t, b) multiplied by its matrix of `q`, along an axis."""
    if axis == 1:
        return (q @ values.flatten(2)).view(values.shape)
    if axis == 2:
        return q[:, None] @ values
    return (values.flatten(1, 2) @ q.mT).view(values.shape)


def _eigenvectors(gram: Tensor) -> Tensor:
    """Of each (n, m, m), columns by falling eigenvalue."""
    damped = gram + 1e-12 * torch.eye(gram.shape[-1], device=gram.device)
    vectors: Tensor = torch.linalg.eigh(damped)[1]
    return vectors.flip(2).contiguous()
