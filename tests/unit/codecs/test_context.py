"""A checkerboard context: half of a latent says more of the other half, and nothing the reverse."""

import copy

import pytest
import torch
from torch import Tensor

from kdbench.codecs.align import align, strongest_channels
from kdbench.codecs.bitfile import (
    analyse_image,
    decode_image,
    encode_image,
    expectation,
    payload_bits,
)
from kdbench.codecs.context import Context, coded_first, halves
from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.codecs.start import klt_start
from kdbench.codecs.succeed import succeed
from kdbench.complexity import measure_complexity
from kdbench.errors import CodecError
from kdbench.records import Prior
from tests.support.codecs import RD_LAMBDAS, architecture, as_tensor, crops, started, trained

PRIORS: tuple[Prior, ...] = ("scale", "mean_scale")


@pytest.fixture(scope="module", params=PRIORS)
def model(request: pytest.FixtureRequest) -> Hyperprior:
    return trained(architecture(prior=request.param, context="checkerboard"), 40)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return as_tensor(crops(2))


def context_of(model: Hyperprior) -> Context:
    assert isinstance(model.context, Context)
    return model.context


def test_the_halves_are_all_positions_and_no_position_has_a_neighbour_of_its_own() -> None:
    like = torch.zeros(1, 1, 3, 4)
    first, second = halves(like)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(12))
    grid = coded_first(like)
    assert grid.flatten().nonzero()[:, 0].tolist() == first.tolist()
    assert (grid[:, 1:] + grid[:, :-1] == 1).all()
    assert (grid[1:] + grid[:-1] == 1).all()


@torch.no_grad()
def test_what_is_coded_second_changes_no_gaussian_and_what_is_coded_first_none_of_its_own(
    model: Hyperprior,
) -> None:
    torch.manual_seed(0)
    r, scales, means = (torch.randn(1, 16, 6, 8) * 5 for _ in range(3))
    first = coded_first(r)
    context = context_of(model)
    before = context(r.round(), scales, means)
    second_changed = context((r + (1 - first) * torch.randn_like(r) * 9).round(), scales, means)
    first_changed = context((r + first * torch.randn_like(r) * 9).round(), scales, means)
    for was, same, other, said in zip(
        before, second_changed, first_changed, (scales, means), strict=True
    ):
        assert torch.equal(was, same)
        assert torch.equal(was * first, said * first)
        assert not torch.equal(was * (1 - first), other * (1 - first))


@torch.no_grad()
@pytest.mark.parametrize("level", [0, 0.5, 1])
def test_the_decoder_gives_what_was_expected_in_as_many_bits(
    model: Hyperprior, level: float
) -> None:
    image = crops(1)[0].transpose(1, 2, 0)[:50, :40]
    expected = expectation(model, analyse_image(model, image), level)
    data = encode_image(model, image, level, machine="a desk in Turin")
    assert (decode_image(model, data) == expected.reconstruction).all()
    assert payload_bits(data) == pytest.approx(expected.estimated_bits, abs=130, rel=0.01)


@torch.no_grad()
def test_a_batch_is_coded_as_its_images_are(model: Hyperprior, x: Tensor) -> None:
    out, coded = model(x, 1), model.compress(x, 1)
    distance = out["y"] - out["means"]
    assert torch.equal(coded["symbols"], distance.round().int())  # type: ignore[arg-type]
    decoded = model.decompress(coded["strings"], coded["shape"], 1)  # type: ignore[arg-type]
    for name in ("symbols", "indexes"):
        assert torch.equal(decoded[name].int(), coded[name].int())  # type: ignore[attr-defined]
    torch.testing.assert_close(decoded["x_hat"], out["x_hat"].clamp(0, 1))
    alone = model.compress(x[1:], 1)
    assert alone["strings"][0][0] == coded["strings"][0][1]  # type: ignore[index]


@torch.no_grad()
@pytest.mark.parametrize("prior", PRIORS)
def test_a_fresh_context_changes_nothing_but_the_order(prior: Prior, x: Tensor) -> None:
    plain = started(architecture(prior=prior)).eval()
    with_context = Hyperprior(architecture(prior=prior, context="checkerboard"))
    succeed(with_context, plain)
    with_context.eval()
    own, other = with_context(x, 1), plain(x, 1)
    assert torch.equal(own["x_hat"], other["x_hat"])
    assert torch.equal(own["likelihoods"]["y"], other["likelihoods"]["y"])


def test_a_codec_with_a_context_starts_none_without(model: Hyperprior) -> None:
    prior = model.architecture.hyper.prior
    with pytest.raises(CodecError, match="cannot start from one") as caught:
        succeed(Hyperprior(architecture(prior=prior)), model)
    assert "a context may be added" in caught.value.fix


def test_bits_reach_both_kernels_and_only_the_taps_that_count(model: Hyperprior, x: Tensor) -> None:
    trainee = copy.deepcopy(model).train()
    for parameter in trainee.parameters():
        parameter.requires_grad_(True)
    bits = images_bits(trainee(x, torch.tensor([0, 1]))["likelihoods"]).sum()
    bits.backward()  # type: ignore[no-untyped-call]
    context = context_of(trainee)
    assert context.factor.grad is not None
    assert context.factor.grad.abs().sum() > 0
    for layer in (context.to_scale, context.to_mean):
        grads = layer.weight.grad.abs().sum((0, 1))
        rows, columns = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
        assert (grads[(rows + columns) % 2 == 1] > 0).all()
        assert not grads[(rows + columns) % 2 == 0].any()


def test_training_a_context_saves_bits_of_the_half_that_it_tells_of() -> None:
    """Where neighbours are alike and z says nothing: sigma follows what was coded first."""
    torch.manual_seed(0)
    coarse = torch.randn(8, 1, 4, 4).exp().repeat_interleave(8, 2).repeat_interleave(8, 3)
    r = (torch.randn(8, 1, 32, 32) * 4 * coarse).round()
    scales = torch.full_like(r, float(r.std()))
    context, second = Context(1), 1 - coded_first(r)

    def bits() -> Tensor:
        sigma, mu = context(r, scales, torch.zeros_like(r))
        scaled = (r - mu) / sigma.clamp_min(0.11), 0.5 / sigma.clamp_min(0.11)
        p = torch.special.ndtr(scaled[0] + scaled[1]) - torch.special.ndtr(scaled[0] - scaled[1])
        found: Tensor = -(p.clamp_min(1e-9).log2() * second).sum()
        return found

    before = bits().item()
    optimiser = torch.optim.Adam(context.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        bits().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert bits().item() < 0.93 * before


@torch.no_grad()
def test_a_student_takes_the_context_of_its_teachers_channels(model: Hyperprior) -> None:
    prior = model.architecture.hyper.prior
    torch.manual_seed(0)
    student = Hyperprior(architecture(latent=12, prior=prior, context="checkerboard")).eval()
    x = as_tensor(crops(16))
    features, y = klt_start(student, x, RD_LAMBDAS), model.g_a(x)
    taken = strongest_channels(model, y, 1, 12)
    align(student, model, crops=x, y=y, features=features, levels=(0, 1), channels=taken)
    own, theirs = context_of(student), context_of(model)
    assert torch.equal(own.factor, theirs.factor[taken])
    assert torch.equal(own.to_mean.weight, theirs.to_mean.weight[taken])
    assert torch.equal(own.to_scale.bias, theirs.to_scale.bias[taken])


def test_its_multiply_accumulates_count_as_those_of_h_s(model: Hyperprior) -> None:
    prior = model.architecture.hyper.prior
    with_context = measure_complexity(model)
    plain = measure_complexity(Hyperprior(architecture(prior=prior)))
    per_position = 2 * 25 * 16  # two kernels of 16 channels
    assert with_context.h_s - plain.h_s == pytest.approx(per_position / 16**2 / 1000)
    assert with_context.g_s == plain.g_s
    assert with_context.params - plain.params == per_position + 2 * 16
