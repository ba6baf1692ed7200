"""Squared differences: the sum and its slope."""

import pytest
import torch

from kdbench.squares import squared_error


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4)])
def test_sum_and_gradients_are_the_definitions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in "ab")
    assert torch.allclose(squared_error(a, b), (a - b).square().flatten(1).sum(1))
    assert torch.autograd.gradcheck(squared_error, (a, b))
    assert torch.autograd.gradcheck(lambda one: squared_error(one, b.detach()), (a,))
