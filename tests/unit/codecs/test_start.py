"""The KLT start: energy-ordered, invertible, for every kernel, activation and width."""

import itertools

import pytest
import torch

from kdbench.codecs.bitfile import Image, analyse_image, expectation
from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.codecs.klt import basis
from kdbench.codecs.start import klt_start, scale_start
from kdbench.data import load_images
from kdbench.rd import psnr_db
from kdbench.records import Activation, Architecture, Hyper, Latent, Transform
from tests.support.codecs import RD_LAMBDAS, architecture, as_tensor, crops, started

N_CROPS = 48


@pytest.fixture(scope="module")
def photo() -> Image:
    return load_images("builtin", "validation").image(0)[:256, :384]


def _plan(
    kernel: tuple[int, int], activation: tuple[Activation, Activation], width: tuple[int, int]
) -> Architecture:
    encoder, decoder = (
        Transform(width=w, kernel=k, activation=a)
        for k, a, w in zip(kernel, activation, width, strict=True)
    )
    return Architecture(
        encoder=encoder,
        decoder=decoder,
        hyper=Hyper(width=16),
        latent=Latent(channels=128),
        n_levels=2,
    )


def _psnr_db(model: Hyperprior, photo: Image) -> float:
    return psnr_db(
        photo, expectation(model.eval(), analyse_image(model, photo), 1).reconstruction, peak=255
    )


@pytest.mark.parametrize("kernel", list(itertools.product((3, 5), repeat=2)), ids=str)
@pytest.mark.parametrize("activation", list(itertools.product(("gdn", "relu"), repeat=2)), ids=str)
@pytest.mark.parametrize("width", [(16, 8), (64, 8), (16, 48), (32, 32)], ids=str)
def test_a_started_codec_shows_the_photo_before_its_first_step(
    kernel: tuple[int, int],
    activation: tuple[Activation, Activation],
    width: tuple[int, int],
    photo: Image,
) -> None:
    plan = _plan(kernel, activation, width)
    torch.manual_seed(0)
    model = Hyperprior(plan)
    assert _psnr_db(model, photo) < 10  # measured 4 to 6 dB: nothing of it
    klt_start(model, as_tensor(crops(N_CROPS)), RD_LAMBDAS)
    assert _psnr_db(model, photo) > 30  # measured 32.1 to 36.8 dB


def test_more_decoder_channels_show_more(photo: Image) -> None:
    found = []
    for width in (4, 8, 16, 32):
        model = started(_plan((5, 5), ("gdn", "gdn"), (32, width)))
        found.append(_psnr_db(model, photo))
    assert found == sorted(found)
    assert found[-1] - found[0] > 3


def test_a_higher_level_starts_with_finer_steps(photo: Image) -> None:
    model = started(_plan((5, 5), ("gdn", "gdn"), (32, 32))).eval()
    low, high = (
        psnr_db(photo, expectation(model, analyse_image(model, photo), i).reconstruction, peak=255)
        for i in (0, 1)
    )
    assert high > low + 2
    steps = model.log_gain.exp()[:, 0]
    assert (steps[1] / steps[0]).item() == pytest.approx((RD_LAMBDAS[1] / RD_LAMBDAS[0]) ** 0.5)


def test_a_single_level_starts_as_the_top_level_of_many(photo: Image) -> None:
    """Its gain lies in the last layer of g_a and the first of g_s."""
    images = as_tensor(crops(N_CROPS))
    found = []
    for n_levels in (1, 2):
        torch.manual_seed(0)
        model = Hyperprior(architecture(16, latent=64, n_levels=n_levels))
        klt_start(model, images, RD_LAMBDAS[-n_levels:])
        found.append(
            expectation(
                model.eval(), analyse_image(model, photo), n_levels - 1
            ).reconstruction.astype(int)
        )
    assert abs(found[0] - found[1]).max() <= 1


def test_the_same_photos_and_seed_give_the_same_start() -> None:
    first, second = (started(architecture()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_starts_on_other_noise_share_basis_and_signs() -> None:
    """Latents of two students mean the same: the kernels differ by their noise alone."""
    plan = architecture(16, latent=64)
    x = as_tensor(crops(N_CROPS)[:8])
    a, b = (started(plan, seed=seed).eval() for seed in (0, 1))
    with torch.no_grad():
        y_a, y_b = (model.g_a(x).transpose(0, 1).flatten(1) for model in (a, b))
    y_a, y_b = (y - y.mean(1, keepdim=True) for y in (y_a, y_b))
    cosine = (y_a * y_b).sum(1) / (y_a.norm(dim=1) * y_b.norm(dim=1))
    assert float(cosine[:16].min()) > 0.9
    assert float(cosine.min()) > 0


def test_every_basis_vector_has_its_largest_entry_positive() -> None:
    """Else two machines' LAPACKs could start students that mean the opposite."""
    torch.manual_seed(0)
    rows = torch.randn(500, 12) @ torch.randn(12, 12)
    vectors = basis(rows, 8)
    assert (vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(8), atol=1e-5, rtol=0)
    energy = (rows @ vectors.T).square().mean(0)
    assert (energy.diff() < 0).all()


def test_latents_come_by_falling_energy() -> None:
    model = started(architecture(16, latent=64)).eval()
    with torch.no_grad():
        energy = model.g_a(as_tensor(crops(N_CROPS))).var((0, 2, 3))
    assert float(energy[:8].min()) > float(energy[32:].max())


def test_the_three_layer_features_are_returned() -> None:
    torch.manual_seed(0)
    features = klt_start(Hyperprior(architecture(16)), as_tensor(crops(4)), RD_LAMBDAS)
    assert features.shape == (4, 16, 8, 8)


@torch.no_grad()
def test_scales_start_at_the_deviation_of_each_latent() -> None:
    torch.manual_seed(0)
    model, x = Hyperprior(architecture(16, latent=64)), as_tensor(crops(N_CROPS))
    klt_start(model, x, RD_LAMBDAS)
    scale_start(model, x)
    out = [model.eval()(x, level) for level in range(2)]
    predicted = torch.stack([o["scales"].mean((0, 2, 3)) for o in out]).mean(0)
    measured = torch.stack([o["y"].std((0, 2, 3)) for o in out]).mean(0)
    torch.testing.assert_close(predicted, measured, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_measured_scales_save_most_of_the_bits_of_a_default_start() -> None:
    bits, x = [], as_tensor(crops(8))
    for is_measured in (False, True):
        torch.manual_seed(0)
        model = Hyperprior(architecture(16, latent=64))
        klt_start(model, x, RD_LAMBDAS)
        if is_measured:
            scale_start(model, x)
        bits.append(float(images_bits(model.eval()(x, 1)["likelihoods"]).sum()))
    assert bits[1] < bits[0] / 2
