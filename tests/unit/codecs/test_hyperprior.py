"""The student family: CompressAI's scale hyperprior where it should be, levels elsewhere."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from compressai.models import ScaleHyperprior
from torch import Tensor

from kdbench.codecs.bitfile import analyse_image, decode_image, encode_image, expectation
from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.errors import CodecError
from kdbench.records import Architecture, Hyper, Latent, Training, Transform
from kdbench.space import load_space
from kdbench.train import Batch, train
from tests.support.codecs import architecture, as_tensor, crops, finished, started

WIDTH, LATENT = 8, 16
SIDE = ("width", "kernel", "activation")


@pytest.fixture(scope="module")
def reference() -> ScaleHyperprior:
    """CompressAI's own, with latents large enough to be coded."""
    torch.manual_seed(0)
    model = ScaleHyperprior(WIDTH, LATENT).eval()
    with torch.no_grad():
        model.g_a[6].weight.mul_(40)
        model.h_a[4].weight.mul_(10)
    model.update(force=True, update_quantiles=True)
    return model


@pytest.fixture(scope="module")
def ours(reference: ScaleHyperprior) -> Hyperprior:
    model = Hyperprior(architecture(WIDTH, hyper=WIDTH, latent=LATENT, n_levels=1))
    model.eval()
    model.load_state_dict(reference.state_dict())
    return model


@pytest.fixture(scope="module")
def x() -> Tensor:
    return as_tensor(crops(2))


def test_one_level_uniform_width_has_the_state_dict_of_compressai() -> None:
    fresh = Hyperprior(architecture(WIDTH, hyper=WIDTH, latent=LATENT, n_levels=1))
    theirs = ScaleHyperprior(WIDTH, LATENT)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@torch.no_grad()
def test_one_level_gives_the_outputs_of_compressai_bit_for_bit(
    reference: ScaleHyperprior, ours: Hyperprior, x: Tensor
) -> None:
    expected, found = reference(x), ours(x)
    assert expected["likelihoods"]["y"].min() < 0.5  # something is coded at all
    torch.testing.assert_close(found["x_hat"], expected["x_hat"], rtol=0, atol=0)
    torch.testing.assert_close(found["likelihoods"], expected["likelihoods"], rtol=0, atol=0)


@torch.no_grad()
def test_one_level_writes_the_bitstreams_of_compressai(
    reference: ScaleHyperprior, ours: Hyperprior, x: Tensor
) -> None:
    expected, found = reference.compress(x), ours.compress(x)
    assert found["strings"] == expected["strings"]
    assert found["shape"] == tuple(expected["shape"])
    decoded = ours.decompress(expected["strings"], tuple(expected["shape"]))
    assert torch.equal(
        decoded["x_hat"], reference.decompress(found["strings"], found["shape"])["x_hat"]
    )


@torch.no_grad()
def test_in_training_the_hyper_latents_get_the_noise_of_compressai(
    reference: ScaleHyperprior, ours: Hyperprior, x: Tensor
) -> None:
    likelihoods = []
    for model in (reference, ours):
        model.train()
        torch.manual_seed(1)
        likelihoods.append(model(x)["likelihoods"]["z"])
        model.eval()
    torch.testing.assert_close(*likelihoods, rtol=1e-5, atol=0)  # other noise: some percent


@torch.no_grad()
def test_in_training_the_decoder_sees_what_it_will_see_when_decoding(
    ours: Hyperprior, x: Tensor
) -> None:
    decoding = ours(x)
    ours.train()
    training = ours(x)
    ours.eval()
    assert torch.equal(training["scales"], decoding["scales"])
    assert torch.equal(training["x_hat"], decoding["x_hat"])
    assert not torch.equal(training["likelihoods"]["y"], decoding["likelihoods"]["y"])


@torch.no_grad()
def test_a_state_dict_of_the_model_zoo_loads(reference: ScaleHyperprior, x: Tensor) -> None:
    """Those on the server were saved before CompressAI 1.2.7 and name the prior's values so."""
    old_names = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    zoo = {}
    for key, value in reference.state_dict().items():
        name = key
        for new, old in old_names.items():
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}")
        zoo[name] = value
    assert "entropy_bottleneck._matrix0" in zoo
    fresh = Hyperprior(architecture(WIDTH, hyper=WIDTH, latent=LATENT, n_levels=1)).eval()
    fresh.load_state_dict(zoo)
    assert fresh.compress(x)["strings"] == reference.compress(x)["strings"]


def test_one_level_has_no_gains_and_many_have_one_per_level_and_channel() -> None:
    single = dict(Hyperprior(architecture(n_levels=1)).named_parameters())
    many = dict(Hyperprior(architecture(n_levels=5, latent=LATENT)).named_parameters())
    assert many.keys() - single.keys() == {"log_gain", "log_inverse_gain"}
    assert many["log_gain"].shape == many["log_inverse_gain"].shape == (5, LATENT)


@torch.no_grad()
def test_a_level_multiplies_latents_by_its_gain_and_takes_it_away_before_synthesis(
    x: Tensor,
) -> None:
    model = started(architecture()).eval()
    model.log_gain.normal_()
    model.log_inverse_gain.normal_()
    out = model(x, 1)
    y = model.g_a(x) * model.log_gain[1].exp()[:, None, None]
    assert torch.equal(out["y"], y)
    decoded = y.round() * model.log_inverse_gain[1].exp()[:, None, None]
    assert torch.equal(out["x_hat"], model.g_s(decoded))
    assert torch.equal(out["z"], model.h_a(y.abs()))


@torch.no_grad()
def test_a_batch_of_mixed_levels_gives_each_image_its_own(x: Tensor) -> None:
    model = started(architecture()).eval()
    mixed = model(x, torch.tensor([1, 0]))
    for i, level in enumerate((1, 0)):
        alone = model(x[i : i + 1], level)
        torch.testing.assert_close(mixed["x_hat"][i : i + 1], alone["x_hat"])
        torch.testing.assert_close(
            images_bits(mixed["likelihoods"])[i : i + 1], images_bits(alone["likelihoods"])
        )


@pytest.mark.parametrize("level", [-1, 2, torch.tensor([0, 2]), torch.tensor([-1, 0])])
def test_a_level_that_was_not_trained_is_an_error(level: int | Tensor, x: Tensor) -> None:
    model = finished(architecture())
    with pytest.raises(CodecError, match="outside the trained levels 0 to 1"):
        model(x, level)


def test_coding_at_a_level_that_was_not_trained_is_an_error(x: Tensor) -> None:
    model = finished(architecture())
    out = model.compress(x, 0)
    with pytest.raises(CodecError, match="outside the trained levels"):
        model.compress(x, 2)
    with pytest.raises(CodecError, match="outside the trained levels"):
        model.decompress(out["strings"], out["shape"], 2)  # type: ignore[arg-type]


def test_latents_and_likelihoods_are_fp32_where_the_transforms_are_bf16(x: Tensor) -> None:
    model = started(architecture()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x, 0)
        assert model.g_a(x).dtype == torch.bfloat16
    tensors = [*out["likelihoods"].values(), *(out[k] for k in ("x_hat", "y", "z", "scales"))]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_every_value_but_the_quantiles_gets_a_gradient(x: Tensor) -> None:
    model = started(architecture()).train()
    out = model(x, torch.tensor([0, 1]))
    (images_bits(out["likelihoods"]).sum() + out["x_hat"].square().sum()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"entropy_bottleneck.quantiles"}
    assert model.g_a[0].weight.grad.abs().max() > 0  # through rounding


def _default_space() -> Iterator[Architecture]:
    """Every encoder and every decoder of the default space, two by two, all widths of the rest."""
    space = load_space("hyperprior")

    def sides(name: str) -> list[Transform]:
        side = getattr(space, name)
        options = itertools.product(*(getattr(side, f).values for f in SIDE))
        return [Transform(**dict(zip(SIDE, values, strict=True))) for values in options]

    encoders, decoders = sides("encoder"), sides("decoder")[::-1]
    n = max(len(encoders), len(decoders))
    hypers, latents = space.hyper.width.values, space.latent.channels.values
    for i in range(n):
        yield Architecture(
            encoder=encoders[i % len(encoders)],
            decoder=decoders[i % len(decoders)],
            hyper=Hyper(width=hypers[i % len(hypers)]),
            latent=Latent(channels=latents[i % len(latents)]),
            n_levels=2,
        )


@pytest.mark.parametrize("plan", list(_default_space()), ids=lambda plan: plan.hash[:6])
def test_every_student_of_the_default_space_trains_a_step_and_round_trips(
    plan: Architecture,
) -> None:
    model = started(plan)
    training = Training(
        steps=1, batch=2, crop_px=64, rd_lambdas=(0.0018, 0.025), learning_rate=1e-3
    )
    batch = Batch(as_tensor(crops(2)), torch.tensor([0, 1]), None)
    train(
        model,
        lambda step: batch,
        training,
        distiller=None,
        seed=0,
        device="cpu",
        precision="fp32",
    )
    image = crops(1)[0].transpose(1, 2, 0)[:50, :40]
    for level in range(2):
        decoded = decode_image(model, encode_image(model, image, level))
        assert (
            decoded == expectation(model, analyse_image(model, image), level).reconstruction
        ).all()


# --- means -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_means() -> Hyperprior:
    """Predicts means that matter: up to some steps."""
    torch.manual_seed(0)
    model = finished(architecture(prior="mean_scale"))
    with torch.no_grad():
        model.h_s[4].weight[LATENT:].normal_(0, 3)  # type: ignore[index]
        model.h_s[4].bias[LATENT:].uniform_(-2, 2)  # type: ignore[index]
    return model


@torch.no_grad()
@pytest.mark.parametrize("level", [0, 1])
def test_with_means_the_decoder_gives_what_was_expected(with_means: Hyperprior, level: int) -> None:
    image = crops(1)[0].transpose(1, 2, 0)[:50, :40]
    analysed = analyse_image(with_means, image)
    expected = expectation(with_means, analysed, level).reconstruction
    assert (decode_image(with_means, encode_image(with_means, image, level)) == expected).all()


@torch.no_grad()
def test_with_means_the_distance_from_them_is_coded(with_means: Hyperprior, x: Tensor) -> None:
    out, coded = with_means(x, 1), with_means.compress(x, 1)
    assert out["means"].std() > 0.5
    assert torch.equal(coded["symbols"], (out["y"] - out["means"]).round().int())  # type: ignore[arg-type]
    decoded = with_means.decompress(coded["strings"], coded["shape"], 1)  # type: ignore[arg-type]
    torch.testing.assert_close(decoded["x_hat"], out["x_hat"].clamp(0, 1))


@torch.no_grad()
def test_means_that_are_right_save_bits(with_means: Hyperprior, x: Tensor) -> None:
    out = with_means(x, 1)
    prior, y = with_means.gaussian_conditional, out["y"]
    scales = torch.full_like(y, 0.3)
    right = -prior(y, scales, y + 0.1 * torch.randn_like(y))[1].log2().sum()
    assert right < -prior(y, scales, None)[1].log2().sum()


def test_means_get_a_gradient(x: Tensor) -> None:
    model = started(architecture(prior="mean_scale")).train()
    bits = images_bits(model(x, torch.tensor([0, 1]))["likelihoods"]).sum()
    bits.backward()  # type: ignore[no-untyped-call]
    assert model.h_s[4].bias.grad[LATENT:].abs().min() > 0


def test_means_start_at_zero_and_scales_at_their_deviation(x: Tensor) -> None:
    model = started(architecture(prior="mean_scale"))
    bias: Tensor = model.h_s[4].bias  # type: ignore[assignment]
    assert not bias[LATENT:].any()
    assert torch.equal(bias[:LATENT], started(architecture()).h_s[4].bias)  # type: ignore[arg-type]


# --- bits --------------------------------------------------------------------------------------


@torch.no_grad()
def test_real_bits_are_the_estimated_ones_because_the_nearest_scale_is_taken() -> None:
    """With the next larger scale, as CompressAI has it, they are more."""
    model = finished(architecture())
    coder = model.gaussian_conditional
    torch.manual_seed(0)
    sigma = torch.exp(torch.empty(1, 1, 300, 300).uniform_(math.log(0.15), math.log(60)))
    y = sigma * torch.randn_like(sigma)
    estimated = float(-coder(y, sigma)[1].log2().sum())

    def real_over_estimated() -> float:
        (string,) = coder.compress(y, coder.build_indexes(sigma))
        bits: int = 8 * len(string)
        return bits / estimated

    nearest = real_over_estimated()
    assert nearest == pytest.approx(1, abs=2e-3)
    model.update(force=True, update_quantiles=True)
    assert real_over_estimated() > nearest + 5e-4
