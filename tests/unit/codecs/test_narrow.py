"""A student whose transforms start as a slice of its teacher's."""

import copy
from dataclasses import replace

import pytest
import torch
from compressai.layers import GDN
from torch import Tensor, nn

from kdbench.codecs.align import align, strongest_channels
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.narrow import _rescale, best_channels, can_narrow
from kdbench.codecs.regression import refine, solve_conv
from kdbench.codecs.start import klt_start
from kdbench.records import Architecture, Transform
from kdbench.teacher import load_teacher
from tests.support.codecs import architecture, as_tensor, crops, trained

WIDTH = 12
LEVELS = (0, 1)
NEVER = 2.0


@pytest.fixture(scope="module")
def teacher() -> Hyperprior:
    return trained(architecture(WIDTH, hyper=8, latent=24), 20)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return as_tensor(crops(48))


def aligned(
    teacher: Hyperprior,
    plan: Architecture,
    x: Tensor,
    least_share: float = 0.5,
    *,
    levels: tuple[int, ...] = LEVELS,
) -> Hyperprior:
    """A student of `plan` that starts under `teacher`."""
    torch.manual_seed(0)
    student = Hyperprior(plan)
    student.eval()
    features = klt_start(student, x, [0.01] * plan.n_levels)  # gains become the teacher's
    with torch.no_grad():
        y = teacher.g_a(x)
    align(
        student,
        teacher,
        crops=x,
        y=y,
        features=features,
        levels=levels,
        channels=strongest_channels(teacher, y, levels[-1], plan.latent.channels),
        least_share=least_share,
    )
    return student


def with_dead_channels(teacher: Hyperprior, dead: list[int]) -> Hyperprior:
    """A copy whose channels `dead` are 0 in every hidden layer."""
    model = copy.deepcopy(teacher)
    with torch.no_grad():
        for part, side in ((model.g_a, 0), (model.g_s, 1)):
            for layer in part[:-1:2]:
                layer.weight.transpose(0, side)[dead] = 0.0  # type: ignore[operator]
                layer.bias[dead] = 0.0  # type: ignore[operator]
    return model


def parts(model: Hyperprior) -> tuple[nn.Sequential, nn.Sequential]:
    """What may be sliced."""
    return model.g_a, model.g_s


def plain_gdn(n: int, *, inverse: bool = False) -> GDN:
    """A GDN with random beta and gamma."""
    torch.manual_seed(1)
    layer = GDN(n, inverse=inverse)
    with torch.no_grad():
        layer.beta.copy_(layer.beta_reparam.init(torch.rand(n) + 0.5))
        layer.gamma.copy_(layer.gamma_reparam.init(torch.rand(n, n)))
    return layer


def test_a_slice_of_everything_is_the_teacher(teacher: Hyperprior, x: Tensor) -> None:
    student = aligned(teacher, teacher.architecture, x).state_dict()
    theirs = teacher.state_dict()
    names = [name for name, _ in teacher.named_parameters() if not name.endswith("quantiles")]
    assert all(torch.equal(student[name], theirs[name]) for name in names)


@torch.no_grad()
def test_of_fewer_latents_a_whole_encoder_gives_the_teachers(
    teacher: Hyperprior, x: Tensor
) -> None:
    student = aligned(teacher, architecture(WIDTH, hyper=8, latent=10), x)
    y = teacher.g_a(x)
    taken = strongest_channels(teacher, y, LEVELS[-1], 10)
    torch.testing.assert_close(student.g_a(x), y[:, taken])


@torch.no_grad()
def test_channels_that_are_always_0_are_left_out_at_no_loss(teacher: Hyperprior, x: Tensor) -> None:
    lame = with_dead_channels(teacher, [0, 3, 7, 10])
    student = aligned(lame, architecture(WIDTH - 4, hyper=8, latent=24), x)
    torch.testing.assert_close(student.g_a(x), lame.g_a(x), rtol=1e-2, atol=1e-3)
    own, theirs = (model(x, 1)["x_hat"] for model in (student, lame))
    unlike = (own - theirs).square().mean() / (theirs - x).square().mean()
    assert unlike < 0.2  # the last layer is solved for the photo: it may be better, not worse
    assert (own - x).square().mean() < 1.01 * (theirs - x).square().mean()


@torch.no_grad()
def test_a_slice_of_a_real_teacher_starts_closer_than_a_klt(x: Tensor) -> None:
    teacher = load_teacher("teacher:default").model
    levels = tuple(range(teacher.architecture.n_levels))
    plan = replace(teacher.architecture, encoder=Transform(width=48), decoder=Transform(width=48))
    slices, klt = (aligned(teacher, plan, x, share, levels=levels) for share in (0.5, NEVER))
    y = teacher.g_a(x)
    unexplained = [(model.g_a(x) - y).var() / y.var() for model in (slices, klt)]
    assert unexplained[0] < unexplained[1]
    errors = [(model(x, levels[0])["x_hat"] - x).square().mean() for model in (slices, klt)]
    assert errors[0] < errors[1]


def test_the_same_photos_give_the_same_slice(teacher: Hyperprior, x: Tensor) -> None:
    plan = architecture(8, hyper=8, latent=16)
    first, second = (aligned(teacher, plan, x).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def test_a_slice_of_one_rate_is_the_slice_of_many_at_that_rate(
    teacher: Hyperprior, x: Tensor
) -> None:
    whole = architecture(WIDTH, hyper=8, latent=24, n_levels=1)
    student = aligned(teacher, whole, x, levels=(1,))
    own, theirs = student(x), teacher(x, 1)
    torch.testing.assert_close(own["y"], theirs["y"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(own["x_hat"], theirs["x_hat"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"width": WIDTH // 2}, True),
        ({"width": WIDTH // 2 - 1}, False),
        ({"width": WIDTH + 1}, False),
        ({"kernel": 3}, False),
        ({"activation": "relu"}, False),
    ],
    ids=str,
)
def test_slices_are_half_as_wide_at_least_and_of_the_same_layers_on_both_sides(
    teacher: Hyperprior, side: str, change: dict[str, int | str], *, expected: bool
) -> None:
    plan = teacher.architecture
    student = Hyperprior(replace(plan, **{side: replace(getattr(plan, side), **change)}))
    assert can_narrow(parts(student), parts(teacher)) is expected


def test_layers_of_another_kind_are_no_slice(teacher: Hyperprior) -> None:
    """Whatever they are: what a slice is not told of stays a KLT."""
    part = teacher.g_a
    grouped = nn.Conv2d(WIDTH, WIDTH, 5, stride=2, padding=2, groups=WIDTH)
    for i, other in ((2, grouped), (2, nn.Sequential(part[2])), (3, nn.Identity())):
        changed = nn.Sequential(*part[:i], other, *part[i + 1 :])
        assert not can_narrow([changed], [part])
        assert not can_narrow([changed], [changed])
    assert not can_narrow([part[:5]], [part])


def test_what_is_no_slice_starts_as_it_would_without_one(teacher: Hyperprior, x: Tensor) -> None:
    plan = architecture(WIDTH, hyper=8, latent=24, kernel=3)
    own, klt = (aligned(teacher, plan, x, share).state_dict() for share in (0.0, NEVER))
    assert all(torch.equal(own[name], klt[name]) for name in own)


@torch.no_grad()
@pytest.mark.parametrize("inverse", [False, True])
def test_a_gdn_divides_as_before_where_the_channels_left_out_are_0(*, inverse: bool) -> None:
    theirs, own = plain_gdn(6, inverse=inverse), GDN(4, inverse=inverse)
    kept, full = torch.tensor([0, 2, 3, 5]), torch.randn(4, 6, 16, 16)
    full[:, [1, 4]] = 0.0
    _rescale(own, theirs, kept, full[:, kept], full)
    torch.testing.assert_close(own(full[:, kept]), theirs(full)[:, kept], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("inverse", [False, True])
def test_a_gdn_makes_up_for_channels_that_follow_others(*, inverse: bool) -> None:
    """x_1 = 2 x_0: gamma_i0 x_0^2 + gamma_i1 x_1^2 = (gamma_i0 + 4 gamma_i1) x_0^2."""
    theirs, own = plain_gdn(3, inverse=inverse), GDN(2, inverse=inverse)
    kept, full = torch.tensor([0, 2]), torch.randn(4, 3, 16, 16)
    full[:, 1] = 2 * full[:, 0]
    _rescale(own, theirs, kept, full[:, kept], full)
    torch.testing.assert_close(own(full[:, kept]), theirs(full)[:, kept], rtol=1e-4, atol=1e-4)
    gamma = theirs.gamma_reparam(theirs.gamma)
    found = own.gamma_reparam(own.gamma)
    torch.testing.assert_close(
        found[:, 0], (gamma[:, 0] + 4 * gamma[:, 1])[kept], rtol=1e-3, atol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("transposed", [False, True])
def test_the_channels_that_the_next_layer_reads_are_kept(*, transposed: bool) -> None:
    torch.manual_seed(0)
    layer: nn.Conv2d | nn.ConvTranspose2d = nn.Conv2d(6, 8, 5, stride=2, padding=2)
    if transposed:
        layer = nn.ConvTranspose2d(6, 8, 5, stride=2, padding=2, output_padding=1)
    read = torch.tensor([1, 4, 5])
    for unread in (0, 2, 3):
        layer.weight.transpose(0, 0 if transposed else 1)[unread] = 0.0
    maps = torch.randn(8, 6, 16, 16)
    maps[:, [0, 2, 3]] *= 10  # energy is not what counts
    assert torch.equal(best_channels(layer, maps, layer(maps), 3), read)
    assert torch.equal(best_channels(layer, maps, layer(maps), 6), torch.arange(6))


@torch.no_grad()
def test_of_two_channels_that_say_the_same_one_is_kept() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    maps = torch.randn(8, 4, 16, 16)
    maps[:, 1], maps[:, 3] = maps[:, 0], 0.3 * maps[:, 3]
    assert set(best_channels(layer, maps, layer(maps), 3).tolist()) in ({0, 2, 3}, {1, 2, 3})


@torch.no_grad()
def test_refining_leaves_a_layer_that_is_right_as_it_is() -> None:
    torch.manual_seed(0)
    for layer in (
        nn.Conv2d(4, 6, 5, stride=2, padding=2),
        nn.ConvTranspose2d(4, 6, 5, stride=2, padding=2, output_padding=1),
    ):
        maps, before = torch.randn(8, 4, 16, 16), layer.weight.clone()
        refine(layer, maps, layer(maps))
        torch.testing.assert_close(layer.weight, before)
        refine(layer, maps, layer(maps) + 1.0)
        assert layer.bias is not None
        torch.testing.assert_close(layer.weight, before, rtol=0.0, atol=0.01)


@torch.no_grad()
def test_a_solve_on_a_coarser_grid_finds_the_same_layer() -> None:
    """Two images of 256 x 256 positions are more than a solve looks at."""
    torch.manual_seed(0)
    layer, own = (nn.Conv2d(2, 3, 3, stride=1, padding=1) for _ in range(2))
    maps = torch.randn(2, 2, 256, 256)
    solve_conv(own, maps, layer(maps))
    torch.testing.assert_close(own.weight, layer.weight, rtol=0.0, atol=0.01)
