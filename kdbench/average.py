"""A running mean of weights in training: what they circle around while the learning rate is high.

Under a high rate a student's own weights look worse than they will end, the more so the higher the
rate, so students of different rates cannot be told apart by them. Their mean over some fifty steps
can (`benchmarks/order.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DECAY = 0.98  # of 0.9, 0.95 and 0.98 the one with the lowest losses after a ninth and a third


class Average:
    """Exponential mean of parameters, of which each step so far counts as if it were the first.

    Args:
        parameters: Read at every `update`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        self._n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        self._n_updates += 1
        share = (1 - DECAY) / (1 - DECAY**self._n_updates)
        torch._foreach_lerp_(self._means, self._values(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters are their mean within, and what they were after it.

        Before the first update there is no mean, and they stay what they are.
        """
        if not self._n_updates:
            yield
            return
        own = [value.clone() for value in self._values()]
        torch._foreach_copy_(self._values(), self._means)
        try:
            yield
        finally:
            torch._foreach_copy_(self._values(), own)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """What `load_state_dict` takes."""
        return {"n_updates": self._n_updates, "means": self._means}

    def load_state_dict(self, state: Mapping[str, int | Sequence[Tensor]]) -> None:
        """Goes on from the state of another one of the same parameters."""
        means, n_updates = state["means"], state["n_updates"]
        assert isinstance(n_updates, int)
        assert not isinstance(means, int)
        torch._foreach_copy_(self._means, list(means))
        self._n_updates = n_updates

    def _values(self) -> list[Tensor]:
        return [p.data for p in self._parameters]
