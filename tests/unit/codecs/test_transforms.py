"""Two-layer and separable transforms: shapes, costs by formula, a start that shows the photo."""

import json
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor, nn

from kdbench.codecs.align import align
from kdbench.codecs.bitfile import Image, analyse_image, expectation
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.regression import (
    solve_deconv,
    solve_separable_conv,
    solve_separable_deconv,
)
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.transforms import SeparableConv, SeparableDeconv, analysis, synthesis
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.complexity import measure_complexity
from kdbench.conformance import CLAUSES, Subject, try_clause
from kdbench.data import load_images
from kdbench.rd import psnr_db
from kdbench.records import Architecture, Hyper, Latent, Transform, canonical_json, plain
from tests.support.codecs import RD_LAMBDAS, architecture, as_tensor, crops, trained

M, N = 48, 12
SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "show.schema.json"
FULL = Transform(width=16)
SEPARABLE = Transform(width=16, convolution="separable")
TAPERED = Transform(width=32, kernel=3, taper=2)
TWO: list[Transform] = [
    Transform(width=N, kernel=3, layers=2, stride=2),
    Transform(width=N, kernel=3, layers=2, stride=4),
    Transform(width=N, kernel=3, layers=2, stride=8),
    Transform(width=N, kernel=5, layers=2, stride=2),
    Transform(width=N, kernel=5, layers=2, stride=4),
    Transform(width=N, kernel=5, layers=2, stride=8),
]


def _plan(encoder: Transform, decoder: Transform, n_levels: int = 2) -> Architecture:
    return Architecture(
        encoder=encoder,
        decoder=decoder,
        hyper=Hyper(width=8),
        latent=Latent(channels=M),
        n_levels=n_levels,
    )


def _describe(transform: Transform) -> str:
    return canonical_json(transform)


@pytest.fixture(scope="module")
def photo() -> Image:
    return load_images("builtin", "validation").image(0)[:256, :384]


@pytest.fixture(scope="module")
def teacher() -> Hyperprior:
    return trained(architecture(16, hyper=8, latent=M), 20)


# --- what is built -----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("convolution", ["full", "separable"])
@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("stride", [2, 4, 8])
@torch.no_grad()
def test_every_transform_goes_between_photo_and_a_sixteenth_of_it(
    kernel: int,
    convolution: Literal["full", "separable"],
    layers: Literal[2, 4],
    stride: Literal[2, 4, 8],
) -> None:
    transform = Transform(
        width=N,
        kernel=kernel,
        convolution=convolution,
        layers=layers,
        stride=stride,
    )
    y, x = torch.zeros(2, M, 3, 5), torch.zeros(2, 3, 48, 80)
    assert synthesis(transform, M)(y).shape == x.shape
    if layers == 4:
        assert analysis(transform, M)(x).shape == y.shape
    else:
        with pytest.raises(ValueError, match="an encoder has four layers of one width"):
            analysis(transform, M)


@pytest.mark.parametrize("transform", TWO, ids=_describe)
@torch.no_grad()
def test_a_layer_of_two_is_centred_on_the_pixels_that_its_inputs_stand_for(
    transform: Transform,
) -> None:
    for layer in synthesis(transform, M)[::2]:
        assert isinstance(layer, nn.ConvTranspose2d)
        layer.weight.fill_(1.0)
        layer.bias.zero_()  # type: ignore[union-attr]
        h = torch.zeros(1, layer.in_channels, 5, 5)
        h[:, :, 2, 2] = 1.0
        seen = layer(h)[0, 0].nonzero()
        stride = layer.stride[0]
        first, last = seen.min().item(), seen.max().item()
        assert first + last == 2 * (2 * stride) + stride - 1  # as far before as behind
        assert last - first + 1 == layer.kernel_size[0]
        assert stride * transform.kernel / 2 <= layer.kernel_size[0] <= 2.5 * stride + 1


@torch.no_grad()
def test_a_separable_layer_is_one_full_layer_of_products() -> None:
    """Kernel of channels i, o = taps of the coarse side's channel x weight of (i, o)."""
    full = nn.Conv2d(6, 4, 5, stride=2, padding=2)
    own = SeparableConv(full)
    across, along = cast(nn.Conv2d, own[0]), cast(nn.Conv2d, own[1])
    full.weight.copy_(along.weight * across.weight)  # (4, 1, 5, 5) x (4, 6, 1, 1)
    full.bias.copy_(along.bias)  # type: ignore[union-attr,arg-type]
    x = torch.randn(2, 6, 16, 24)
    torch.testing.assert_close(own(x), full(x))
    back = nn.ConvTranspose2d(6, 4, 5, stride=2, padding=2, output_padding=1)
    own_back = SeparableDeconv(back)
    spread, mixed = cast(nn.ConvTranspose2d, own_back[0]), cast(nn.Conv2d, own_back[1])
    back.weight.copy_(spread.weight * mixed.weight.transpose(0, 1))  # (6, 1, 5, 5) x (6, 4, 1, 1)
    back.bias.copy_(mixed.bias)  # type: ignore[union-attr,arg-type]
    torch.testing.assert_close(own_back(x), back(x))


# --- what it costs -----------------------------------------------------------------------------


def _macs_per_px(encoder: Transform, decoder: Transform) -> tuple[float, float]:
    costs = measure_complexity(Hyperprior(_plan(encoder, decoder)))
    return costs.g_a * 1000, costs.g_s * 1000


@pytest.mark.parametrize(
    ("transform", "sides"),
    list(zip(TWO, [(4, 12), (6, 6), (12, 4), (6, 20), (10, 10), (20, 6)], strict=True)),
    ids=str,
)
def test_two_layers_cost_what_their_kernels_say(
    transform: Transform, sides: tuple[int, int]
) -> None:
    coarse, fine = sides
    px = (16 / transform.stride) ** 2  # of one of their middle values
    expected = M * N * coarse**2 / 256 + N * 3 * fine**2 / px + N * N / px
    assert _macs_per_px(FULL, transform)[1] == pytest.approx(expected)


def test_separable_layers_cost_a_1x1_on_the_fine_grid_and_a_kernel_a_channel_on_the_coarse() -> (
    None
):
    n = SEPARABLE.width
    gdn = n * n * (1 / 4 + 1 / 16 + 1 / 64)
    g_a = 3 * n + 25 * n / 4 + n * n / 4 + 25 * n / 16 + n * n / 16 + 25 * n / 64
    g_a += n * M / 64 + 25 * M / 256
    g_s = 25 * M / 256 + n * M / 64 + 25 * n / 64 + n * n / 16 + 25 * n / 16 + n * n / 4
    g_s += 25 * n / 4 + 3 * n
    assert _macs_per_px(SEPARABLE, SEPARABLE) == pytest.approx((g_a + gdn, g_s + gdn))


def test_a_tapered_decoder_costs_what_its_widths_say() -> None:
    a, b, c = TAPERED.widths
    assert (a, b, c) == (32, 16, 8)
    layers = 9 * (M * a / 256 + a * b / 64 + b * c / 16 + c * 3 / 4)
    gdn = a * a / 64 + b * b / 16 + c * c / 4
    assert _macs_per_px(FULL, TAPERED)[1] == pytest.approx(layers + gdn)


# --- how it starts -----------------------------------------------------------------------------

STARTS = {
    "full": (FULL, Transform(width=16)),
    "separable decoder": (FULL, SEPARABLE),
    "separable encoder": (SEPARABLE, FULL),
    "separable, relu": tuple(
        Transform(width=16, convolution="separable", activation="relu") for _ in range(2)
    ),
    "two, stride 2": (FULL, TWO[0]),
    "two, stride 4": (FULL, TWO[1]),
    "two, stride 8": (FULL, TWO[2]),
    "tapered": (FULL, Transform(width=48, kernel=3, taper=2)),
    "tapered, relu": (FULL, Transform(width=48, kernel=3, taper=2, activation="relu")),
    "two, relu": (FULL, Transform(width=N, kernel=3, layers=2, stride=4, activation="relu")),
    "two, separable": (
        FULL,
        Transform(width=24, kernel=3, layers=2, stride=2, convolution="separable"),
    ),
}


def _started(plan: Architecture) -> Hyperprior:
    torch.manual_seed(0)
    model = Hyperprior(plan)
    model.eval()
    klt_start(model, as_tensor(crops(48)), RD_LAMBDAS[-plan.n_levels :])
    return model


def _psnr_db(model: LearnedCodec, photo: Image, level: int) -> float:
    found = expectation(model, analyse_image(model, photo), level).reconstruction
    return psnr_db(photo, found, peak=255)


@pytest.mark.parametrize("n_levels", [1, 2])
@pytest.mark.parametrize("sides", STARTS.values(), ids=STARTS)
def test_it_shows_the_photo_before_its_first_step(
    sides: tuple[Transform, Transform], n_levels: int, photo: Image
) -> None:
    plan = _plan(*sides, n_levels)
    model = _started(plan)
    assert _psnr_db(model, photo, n_levels - 1) > 26  # MEASURED
    again = _started(plan).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_a_relu_decoder_of_two_layers_has_one_bias_for_all_phases() -> None:
    """A constant among the inputs must not be split between taps and biases of a phase."""
    torch.manual_seed(0)
    layer, true = (nn.ConvTranspose2d(3, 2, 6, stride=4, padding=1) for _ in range(2))
    x = torch.randn(8, 3, 12, 12) + 3.0
    x[:, 2] = 1.0
    target = true(x)
    errors = []
    for free_bias in (False, True):
        solve_deconv(layer, x, target, free_bias=free_bias)
        errors.append((layer(x) - target).square().mean().sqrt().item() / target.std().item())
    assert errors[1] < 0.02 < errors[0]


@torch.no_grad()
def test_a_separable_layer_is_found_again() -> None:
    torch.manual_seed(0)
    own, true = (SeparableConv(nn.Conv2d(6, 4, 5, stride=2, padding=2)) for _ in range(2))
    x = torch.randn(16, 6, 24, 24)
    solve_separable_conv(own, x, true(x))
    assert _unexplained(own(x), true(x)) < 1e-4
    dense = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
    back, true_back = (SeparableDeconv(dense) for _ in range(2))
    solve_separable_deconv(back, x, true_back(x))
    assert _unexplained(back(x), true_back(x)) < 1e-4


def _unexplained(own: Tensor, true: Tensor) -> float:
    return float((own - true).var() / true.var())


@pytest.mark.parametrize("decoder", [TWO[1], TAPERED, SEPARABLE], ids=_describe)
@torch.no_grad()
def test_under_a_teacher_it_makes_the_photo_of_the_teachers_latents(
    decoder: Transform, teacher: Hyperprior
) -> None:
    x = as_tensor(crops(48))
    plan = _plan(FULL, decoder)
    torch.manual_seed(0)
    student = Hyperprior(plan).eval()
    features, y = klt_start(student, x, RD_LAMBDAS), teacher.g_a(x)
    align(
        student,
        teacher,
        crops=x,
        y=y,
        features=features,
        levels=(0, 1),
        channels=torch.arange(M),
    )
    assert torch.equal(student.g_a(x), y)  # an encoder of the teacher's shape is the teacher's
    error, error_t = (
        (model(x, 1)["x_hat"].clamp(0, 1) - x).square().mean() for model in (student, teacher)
    )
    assert error < 4 * error_t  # MEASURED


# --- that it is a codec like any other -----------------------------------------------------------


@pytest.mark.parametrize(
    "sides", [STARTS["two, separable"], (SEPARABLE, SEPARABLE)], ids=["two", "four"]
)
def test_it_keeps_every_clause_of_the_contract(sides: tuple[Transform, Transform]) -> None:
    def start(model: Hyperprior, images: Tensor, rd_lambdas: Any) -> None:
        klt_start(model, images, rd_lambdas)
        scale_start(model, images)

    tried = Subject("own", lambda n: _plan(*sides, n), start)
    verdicts = [try_clause(clause, tried) for clause in CLAUSES]
    assert [(v.clause, v.problem) for v in verdicts if v.problem is not None] == []


def test_a_file_remembers_what_it_is(tmp_path: Path) -> None:
    plan = _plan(SEPARABLE, Transform(width=N, layers=2, stride=4, convolution="separable"))
    model = _started(plan)
    model.finalise()
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(model, {}))
    read, _ = load_codec(path)
    assert read.architecture == plan
    assert read.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("sides", STARTS.values(), ids=STARTS)
def test_the_schema_of_show_knows_it(sides: tuple[Transform, Transform]) -> None:
    told = json.loads(SCHEMA.read_text())["$defs"]["spec"]["properties"]
    for side, transform in zip(("encoder", "decoder"), sides, strict=True):
        Draft202012Validator(told[side]).validate(plain(transform))


def test_what_a_transform_was_before_keeps_its_name() -> None:
    assert canonical_json(Transform(width=8)) == '{"activation":"gdn","kernel":5,"width":8}'
    assert _plan(FULL, FULL).hash == "8bae5f69e109f297"
