"""Likelihoods for training: CompressAI's noise, values and gradients."""

from collections.abc import Sequence

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from torch import Tensor

from kdbench.codecs.likelihoods import NoisyFactorised, NoisyGaussian


def _values() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, scales and means: narrow, wide, under the bound, and far in a tail."""
    generator = torch.Generator().manual_seed(0)
    y, means = (torch.randn(4, 6, 5, 5, dtype=torch.float64, generator=generator) for _ in "ym")
    scales = 4 * torch.rand(4, 6, 5, 5, dtype=torch.float64, generator=generator)
    scales[0] *= 0.01
    scales[1] = 100.0
    y[2, 0] *= 60  # likelihoods under their bound
    return 5 * y, scales, means


def _outcome(model: EntropyModel, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Noisy values, likelihoods and the gradients of weighted bits in every input and weight."""
    torch.manual_seed(3)
    leaves = [values.clone().requires_grad_() for values in inputs]
    noisy, p = model(*leaves)
    weights = torch.linspace(-0.5, 2, p.numel(), dtype=p.dtype).view(p.shape)
    bits = -(weights * p.log2()).sum()
    named = model.named_parameters()
    weights_of = [value for name, value in named if name != "quantiles"]
    return [noisy.detach(), p.detach(), *torch.autograd.grad(bits, [*leaves, *weights_of])]


@pytest.mark.parametrize("n_inputs", [2, 3])
def test_the_gaussians_are_those_of_compressai(n_inputs: int) -> None:
    inputs = _values()[:n_inputs]
    found = _outcome(NoisyGaussian(None).double(), inputs)
    expected = _outcome(GaussianConditional(None).double(), inputs)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    bound = expected[1].min()
    assert float(bound) == pytest.approx(1e-9, rel=1e-6)
    assert int((expected[1] == bound).sum()) > 5  # the bound was tried


def test_the_factorised_prior_is_that_of_compressai() -> None:
    torch.manual_seed(0)
    plain = EntropyBottleneck(6).double()
    with torch.no_grad():
        for value in plain.parameters():
            value.add_(0.3 * torch.randn_like(value))
    model = NoisyFactorised(6).double()
    model.load_state_dict(plain.state_dict())
    found, expected = (_outcome(m, _values()[:1]) for m in (model, plain))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [NoisyFactorised, NoisyGaussian])
def test_in_eval_mode_they_are_compressais(kind: type[EntropyModel]) -> None:
    factorised = kind is NoisyFactorised
    inputs = _values()[: 1 if factorised else 3]
    model = (kind(6) if factorised else kind(None)).double().eval()
    plain = EntropyBottleneck(6) if factorised else GaussianConditional(None)
    plain = plain.double().eval()
    plain.load_state_dict(model.state_dict())
    for own, other in zip(model(*inputs), plain(*inputs), strict=True):
        assert torch.equal(own, other)


def test_the_factorised_prior_is_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    model, z = NoisyFactorised(6), torch.randn(2, 6, 4, 4)
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(model(z)[1])
    assert torch.equal(*found)
