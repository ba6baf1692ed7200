"""Layers for training: CompressAI's outputs, bit by bit, and its gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compressai import layers as theirs
from compressai.models import utils
from torch import Tensor, nn

from kdbench.codecs import layers as ours

Make = Callable[[], nn.Module]


def _gdn(kind: Any, *, inverse: bool) -> nn.Module:
    """With values off the diagonal, one of them at its bound and one below, and beta too."""
    layer = kind(5, inverse=inverse)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.gamma.add_(0.1 * torch.rand(5, 5, generator=generator))
        layer.gamma[0, 1] = layer.gamma_reparam.lower_bound.bound
        layer.gamma[2, 1], layer.beta[3] = -0.1, -0.1
    made: nn.Module = layer
    return made


def _pairs() -> list[tuple[Make, Make]]:
    found: list[tuple[Make, Make]] = [
        (lambda i=i: _gdn(ours.GDN, inverse=i), lambda i=i: _gdn(theirs.GDN, inverse=i))  # type: ignore[misc]
        for i in (False, True)
    ]
    for kernel, stride in ((5, 2), (3, 2), (3, 1)):
        how = {"kernel_size": kernel, "stride": stride}
        found.append((lambda h=how: ours.deconv(5, 4, **h), lambda h=how: utils.deconv(5, 4, **h)))  # type: ignore[misc]
        found.append((lambda h=how: ours.conv(5, 4, **h), lambda h=how: utils.conv(5, 4, **h)))  # type: ignore[misc]
    return found


@pytest.mark.parametrize(("make", "make_plain"), _pairs())
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_compressai(
    make: Make, make_plain: Make, training: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer, plain = (m().double().train(training) for m in (make, make_plain))
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    found = []
    for each in (layer, plain):
        out = each(x)
        slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        found.append([out, *torch.autograd.grad(out, [x, *each.parameters()], slope)])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)
    assert torch.equal(found[0][0], found[1][0])


def test_a_value_under_its_bound_can_be_raised_and_not_lowered() -> None:
    layer = _gdn(ours.GDN, inverse=False).double()
    x = torch.ones(1, 5, 2, 2, dtype=torch.float64)
    for sign in (1.0, -1.0):
        layer.zero_grad()
        (sign * layer(x).sum()).backward()
        grad = layer.gamma.grad
        assert isinstance(grad, Tensor)
        assert bool(grad[2, 1] == 0) == (sign < 0)  # a larger gamma makes outputs smaller
        assert float(grad[4, 4]) != 0


@pytest.mark.parametrize("make", [lambda: ours.GDN(5), lambda: ours.deconv(5, 4)])
def test_under_autocast_maps_are_bf16_and_gradients_fp32(make: Make) -> None:
    torch.manual_seed(0)
    layer = make()
    x = torch.randn(2, 5, 8, 8, requires_grad=True)
    exact = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    rounded = torch.autograd.grad(out.float().square().sum(), [x, *layer.parameters()])
    for own, other in zip(rounded, exact, strict=True):
        assert own.dtype == torch.float32
        assert float((own - other).norm() / other.norm()) < 0.02  # bf16 has 8 bits
