"""An h_s in integers: the same on any machine, and as good as the float one it was made from."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdbench.codecs import integer
from kdbench.codecs.bitfile import (
    Image,
    analyse_image,
    decode_image,
    encode_image,
    expectation,
)
from kdbench.codecs.context import Context
from kdbench.codecs.deterministic import with_integer_prior
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.integer import IntegerContext, IntegerLayer, IntegerSynthesis, fill_context
from kdbench.codecs.weights import codec_bytes, codec_identity, load_codec
from kdbench.data import load_images
from kdbench.errors import CodecError
from kdbench.onnx_files import HyperDecoder, run_onnx, write_onnx
from kdbench.records import ContextName, Prior
from kdbench.teacher import load_teacher
from tests.support.codecs import architecture, trained

CODECS: Mapping[str, tuple[Prior, ContextName]] = {
    "scale": ("scale", "none"),
    "mean_scale": ("mean_scale", "none"),
    "context": ("scale", "checkerboard"),
    "mean_scale, context": ("mean_scale", "checkerboard"),
}


@pytest.fixture(scope="module")
def photo() -> Image:
    return load_images("builtin", "validation").image(0)[:192, :256]


@pytest.fixture(scope="module", params=CODECS)
def plain(request: pytest.FixtureRequest) -> Hyperprior:
    prior, context = CODECS[request.param]
    return trained(architecture(prior=prior, context=context, hyper=16), 40)


@pytest.fixture(scope="module")
def exact(plain: Hyperprior, photo: Image) -> Hyperprior:
    return with_integer_prior(plain, [photo])


@pytest.fixture(scope="module")
def z_hat(plain: Hyperprior, photo: Image) -> Tensor:
    with torch.no_grad():
        z = plain.hyper_latent(analyse_image(plain, photo).latent * plain.gain(1))
        return plain.rounded_hyper_latent(z)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Intel GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            yield


WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "one thread": lambda: threads(1),
    "two threads": lambda: threads(2),
    "without oneDNN": without_onednn,
}


def reversed_inputs(layer: IntegerLayer) -> Callable[[Tensor], Tensor]:
    """The same layer, which sums its inputs in another order."""

    def forward(x: Tensor) -> Tensor:
        other = copy.deepcopy(layer)
        n = x.shape[1]
        order = torch.cat([torch.arange(n - 1, -1, -1) + n * tap for tap in range(9)])
        other.weight.copy_(layer.weight[:, order])
        return IntegerLayer.forward(other, x.flip(1))

    return forward


# --- the same whatever computes it -------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_it_gives_the_same_whatever_computes_it(exact: Hyperprior, z_hat: Tensor, way: str) -> None:
    wanted = exact.h_s(z_hat)
    with WAYS[way]():
        found = exact.h_s(z_hat)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_its_files_decode_whatever_computes(exact: Hyperprior, photo: Image, way: str) -> None:
    """The transforms are floats still: their pixels may differ in a last bit, no latent does."""
    data = encode_image(exact, photo, 1)
    wanted = decode_image(exact, data).astype(int)
    with WAYS[way]():
        found = decode_image(exact, data).astype(int)
    assert np.abs(found - wanted).max() <= 1


@torch.no_grad()
def test_it_gives_the_same_in_whatever_order_it_sums(exact: Hyperprior, z_hat: Tensor) -> None:
    x = torch.round(z_hat.double() * exact.h_s.scale.double())  # type: ignore[operator]
    for layer in exact.h_s:
        assert isinstance(layer, IntegerLayer)
        assert torch.equal(reversed_inputs(layer)(x), layer(x))
        x = layer(x)


@torch.no_grad()
def test_it_is_what_whole_numbers_of_python_give(exact: Hyperprior) -> None:
    """One output by hand, in integers of any size."""
    layer = exact.h_s[2]
    assert isinstance(layer, IntegerLayer)
    n = layer.weight.shape[1] // 9
    x = torch.randint(0, 2**20, (1, n, 3, 3), generator=torch.Generator().manual_seed(0)).double()
    taps = x[0].permute(1, 2, 0).reshape(-1).long().tolist()  # tap by tap, as rows of weights are
    total = sum(w * v for w, v in zip(layer.weight[5].tolist(), taps, strict=True))
    total += int(layer.bias[5])
    shift = -round(float(layer.scale.log2()))
    by_hand = (total + (1 << (shift - 1))) >> shift
    lowest = 0 if layer.is_rectified else -layer.largest
    assert float(layer(x)[0, 5, 1, 1]) == min(max(by_hand, lowest), layer.largest)


def test_onnx_runtime_gives_the_same_integers_and_indexes(
    exact: Hyperprior, z_hat: Tensor, photo: Image, tmp_path: Path
) -> None:
    checked = {each.name: each for each in write_onnx(exact, tmp_path, photo)}
    assert checked["hyper_decoder.onnx"].max_abs_difference == 0
    assert checked["hyper_decoder.onnx"].largest > 0
    assert ("context.onnx" in checked) == exact.has_context
    with torch.no_grad():
        wanted = HyperDecoder(exact)(z_hat)
    found = run_onnx(tmp_path / "hyper_decoder.onnx", {"z_hat": z_hat.numpy()})
    for ours, theirs in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    prior = exact.gaussian_conditional
    indexes = prior.build_indexes(torch.from_numpy(found[0]))
    assert torch.equal(indexes, prior.build_indexes(wanted[0]))
    assert len(set(indexes.flatten().tolist())) > 1  # else there was nothing to agree on


class ContextByOnnx(nn.Module):
    """A context, computed by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def forward(self, residuals: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        values = {"symbols": residuals, "scales_before": scales, "means_before": means}
        found = run_onnx(self.path, {name: each.numpy() for name, each in values.items()})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])


class ByOnnx(nn.Module):
    """h_s, computed by ONNX Runtime: another machine, as far as the last bits go."""

    def __init__(self, path: Path, has_means: bool) -> None:
        super().__init__()
        self.path, self.has_means = path, has_means

    def forward(self, z_hat: Tensor) -> Tensor:
        found = run_onnx(self.path, {"z_hat": z_hat.numpy()})
        return torch.cat([torch.from_numpy(each) for each in found], 1)


def elsewhere(model: Hyperprior, path: Path) -> Hyperprior:
    """`model` with its h_s, and context if it has one, in ONNX Runtime."""
    other = copy.deepcopy(model)
    del other.h_s
    other.add_module("h_s", ByOnnx(path, model.has_means))
    if model.has_context:
        del other.context
        other.add_module("context", ContextByOnnx(path.with_name("context.onnx")))
    return other


def test_files_of_an_integer_h_s_decode_elsewhere(
    exact: Hyperprior, photo: Image, tmp_path: Path
) -> None:
    write_onnx(exact, tmp_path, photo)
    data = encode_image(exact, photo, 1)
    decoded = decode_image(elsewhere(exact, tmp_path / "hyper_decoder.onnx"), data)
    np.testing.assert_array_equal(decoded, decode_image(exact, data))


@torch.no_grad()
def test_an_integer_context_is_the_float_one_rounded(
    plain: Hyperprior, exact: Hyperprior, photo: Image
) -> None:
    if plain.context is None:
        assert exact.context is None
        return
    assert isinstance(exact.context, IntegerContext)
    y = analyse_image(plain, photo).latent * plain.gain(1)
    torch.manual_seed(0)
    residuals, scales, means = y.round(), torch.rand_like(y) * 50, torch.randn_like(y)
    scales, means = ((each * 2**14).round() / 2**14 for each in (scales, means))
    wanted = plain.context(residuals, scales, means)
    found = exact.context(residuals, scales, means)
    assert not torch.equal(found[0], scales)  # else nothing was learned
    torch.testing.assert_close(found[0], wanted[0].clamp_min(0), atol=0.02, rtol=2**-12)
    torch.testing.assert_close(found[1], wanted[1], atol=1e-3, rtol=0)


@torch.no_grad()
def test_an_integer_context_is_what_whole_numbers_of_python_give() -> None:
    """One scale and one mean by hand; the middle of 5x5 is coded second."""
    context = IntegerContext(1)
    torch.manual_seed(0)
    for weights in (context.to_scale, context.to_mean):
        weights.copy_(torch.randint(-(2**28), 2**28, weights.shape))
    context.factor.fill_(3333)
    context.offset.fill_(-(2**29) - 1)
    r = torch.randint(-40, 40, (1, 1, 5, 5)).float()
    sigma, mu = 12345678, -4321
    scales, means = (torch.full((1, 1, 5, 5), each / 2**14) for each in (sigma, mu))
    around = [int(r[0, 0, y, x]) for y in range(5) for x in range(5) if (y + x) % 2]
    to_scale, to_mean = (each[0].tolist() for each in (context.to_scale, context.to_mean))
    near = sum(w * abs(v) for w, v in zip(to_scale, around, strict=True))
    shift = sum(w * v for w, v in zip(to_mean, around, strict=True))
    by_hand = (3333 * sigma + near - (2**29) - 1 + (1 << 11)) >> 12
    found = context(r, scales, means)
    assert float(found[0][0, 0, 2, 2]) == min(max(by_hand, 0), 2**24 - 1) / 2**14
    assert float(found[1][0, 0, 2, 2]) == (mu + ((shift + (1 << 11)) >> 12)) / 2**14
    assert found[0][0, 0, 2, 1] == scales[0, 0, 2, 1]


def test_a_context_whose_sums_could_be_inexact_is_refused() -> None:
    context = Context(2)
    with torch.no_grad():
        context.to_mean.weight[1].fill_(2e4)
    with pytest.raises(CodecError, match="the integer context could reach sums"):
        fill_context(IntegerContext(2), context)


def test_a_float_h_s_whose_scale_falls_to_the_other_side_of_a_border_is_noticed(
    plain: Hyperprior, photo: Image, tmp_path: Path
) -> None:
    """Torch and ONNX Runtime differ in last bits; a border of the table put between two such."""
    write_onnx(plain, tmp_path, photo)
    other = elsewhere(plain, tmp_path / "hyper_decoder.onnx")
    ours, theirs = (_scales(model, photo) for model in (plain, other))
    above = plain.gaussian_conditional.lower_bound_scale.bound.item()
    apart = (ours != theirs) & (torch.minimum(ours, theirs) > above)
    assert apart.any(), "ONNX Runtime computed the same bits: nothing to tell apart"
    at = int(apart.flatten().nonzero()[0])
    border = torch.minimum(ours, theirs).flatten()[at]
    for model in (plain, other):
        table = model.gaussian_conditional.scale_table
        k = int(torch.searchsorted(table, border))
        model.gaussian_conditional.scale_table = table.clone()
        model.gaussian_conditional.scale_table[k] = border
    data = encode_image(plain, photo, 1, machine="a desk in Turin")
    decode_image(plain, data)
    with pytest.raises(CodecError, match="encoded on a desk in Turin; decoded on a phone"):
        decode_image(_named_as(other, plain), data, machine="a phone")


@torch.no_grad()
def _scales(model: Hyperprior, photo: Image) -> Tensor:
    y = analyse_image(model, photo).latent * model.gain(1)
    return model.coding_gaussians(y, model.rounded_hyper_latent(model.hyper_latent(y))).scales


def _named_as(model: Hyperprior, original: Hyperprior) -> Hyperprior:
    """`model` with the weights of `original` in its state, which ONNX Runtime has in its file."""
    model.state_dict = original.state_dict
    return model


# --- as good as the float one ----------------------------------------------------------------


def test_it_predicts_what_the_float_one_predicts(
    plain: Hyperprior, exact: Hyperprior, z_hat: Tensor
) -> None:
    with torch.no_grad():
        ours, theirs = exact.gaussians(z_hat), plain.gaussians(z_hat)
    torch.testing.assert_close(ours.scales, theirs.scales, atol=2e-3, rtol=2e-3)
    if theirs.means is not None:
        assert ours.means is not None
        torch.testing.assert_close(ours.means, theirs.means, atol=2e-3, rtol=2e-3)


def test_its_files_are_as_long_and_decode_to_what_is_expected(
    plain: Hyperprior, exact: Hyperprior, photo: Image
) -> None:
    for level in (0, 1):
        data = encode_image(exact, photo, level)
        assert len(data) == pytest.approx(len(encode_image(plain, photo, level)), rel=0.005)
        np.testing.assert_array_equal(
            decode_image(exact, data),
            expectation(exact, analyse_image(exact, photo), level).reconstruction,
        )


def test_two_transposed_layers_are_their_four_phases() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 5, 5, stride=2, padding=2, output_padding=1)
    kernels, bias = integer._as_3x3(layer)
    x = torch.randn(2, 3, 6, 7)
    phases = nn.functional.conv2d(
        x.double(),
        kernels.reshape(20, 3, 3, 3).permute(0, 3, 1, 2),
        bias,
        padding=1,
    )
    torch.testing.assert_close(nn.functional.pixel_shuffle(phases, 2), layer(x).double())


def test_photos_with_latents_far_beyond_those_it_was_made_with_still_decode(
    exact: Hyperprior,
) -> None:
    """Activations are clamped there: more bits, never other indexes."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        decode_image(exact, encode_image(exact, noise, 1)),
        expectation(exact, analyse_image(exact, noise), 1).reconstruction,
    )
    n_z = exact.architecture.hyper.z_channels
    with torch.no_grad():
        assert torch.isfinite(exact.h_s(torch.full((1, n_z, 2, 2), 1e9))).all()


# --- what is stored, what is refused ---------------------------------------------------------


def test_it_is_stored_with_its_codec(exact: Hyperprior, photo: Image, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(exact, {}))
    found, _ = load_codec(path)
    assert found.has_integer_prior
    assert isinstance(found.h_s, IntegerSynthesis)
    assert codec_identity(found) == codec_identity(exact)
    data = encode_image(exact, photo, 1, machine="here")
    np.testing.assert_array_equal(decode_image(found, data), decode_image(exact, data))


def test_weights_whose_sums_a_double_cannot_hold_are_refused(
    exact: Hyperprior, tmp_path: Path
) -> None:
    spoiled = copy.deepcopy(exact)
    assert isinstance(spoiled.h_s[1], IntegerLayer)
    spoiled.h_s[1].weight.fill_(2**31 - 1)
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(spoiled, {}))
    with pytest.raises(CodecError, match="a double does not hold exactly"):
        load_codec(path)


def test_rounding_twice_is_refused(exact: Hyperprior, photo: Image) -> None:
    with pytest.raises(CodecError, match="already"):
        with_integer_prior(exact, [photo])


def test_a_file_says_that_it_needs_integers(
    plain: Hyperprior, exact: Hyperprior, photo: Image
) -> None:
    data = encode_image(exact, photo, 1, machine="here")
    with pytest.raises(CodecError, match="that one has an integer h_s, this one a float one"):
        decode_image(plain, data)


def test_it_teaches_nobody(exact: Hyperprior, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(exact, {"training": {"rd_lambdas": [0.0018, 0.025]}}))
    with pytest.raises(CodecError, match="integer h_s"):
        load_teacher(f"file:{path}")
