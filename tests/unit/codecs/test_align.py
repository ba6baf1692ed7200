"""A student that starts in its teacher's coordinates, with the hyperprior it inherits."""

import pytest
import torch
from torch import Tensor

from kdbench.codecs.align import align, strongest_channels
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.inherit import can_inherit
from kdbench.codecs.start import klt_start
from kdbench.records import Architecture, Hyper, Prior
from tests.support.codecs import RD_LAMBDAS, architecture, as_tensor, crops, trained

LEVELS = (0, 1)
PRIORS: tuple[Prior, ...] = ("scale", "mean_scale")


@pytest.fixture(scope="module", params=PRIORS)
def teacher(request: pytest.FixtureRequest) -> Hyperprior:
    return trained(architecture(16, hyper=8, latent=32, prior=request.param), 20)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return as_tensor(crops(48))


def aligned(teacher: Hyperprior, plan: Architecture, x: Tensor) -> Hyperprior:
    """A student of `plan`, aligned on `x`."""
    torch.manual_seed(0)
    student = Hyperprior(plan)
    student.eval()
    features = klt_start(student, x, RD_LAMBDAS)
    with torch.no_grad():
        y = teacher.g_a(x)
    taken = strongest_channels(teacher, y, LEVELS[-1], plan.latent.channels)
    align(student, teacher, crops=x, y=y, features=features, levels=LEVELS, channels=taken)
    return student


def plan_of(teacher: Hyperprior, *, latent: int = 32) -> Architecture:
    """A student narrower than `teacher`, with its prior."""
    return architecture(8, hyper=8, latent=latent, prior=teacher.architecture.hyper.prior)


@torch.no_grad()
def test_latents_are_the_teachers_as_far_as_a_narrow_encoder_goes(
    teacher: Hyperprior, x: Tensor
) -> None:
    student = aligned(teacher, plan_of(teacher), x)
    y, y_t = student.g_a(x), teacher.g_a(x)
    unexplained = (y - y_t).var() / y_t.var()
    assert unexplained < 0.2


@torch.no_grad()
def test_a_hyperprior_of_the_teachers_width_is_taken_whole(teacher: Hyperprior, x: Tensor) -> None:
    student = aligned(teacher, plan_of(teacher), x)
    for part in ("h_a", "h_s"):
        own, theirs = getattr(student, part).state_dict(), getattr(teacher, part).state_dict()
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    z = torch.randn(2, 8, 2, 2)
    assert torch.equal(student.entropy_bottleneck(z)[1], teacher.entropy_bottleneck(z)[1])


@torch.no_grad()
def test_fewer_latents_keep_the_predictions_of_the_channels_they_take(
    teacher: Hyperprior, x: Tensor
) -> None:
    plan = plan_of(teacher, latent=20)
    student = aligned(teacher, plan, x)
    y = teacher.g_a(x)
    taken = strongest_channels(teacher, y, LEVELS[-1], 20)
    gained = y * teacher.gain(1)
    z_hat = teacher.rounded_hyper_latent(teacher.hyper_latent(gained))
    theirs = teacher.gaussians(z_hat)
    own = student.gaussians(student.rounded_hyper_latent(student.hyper_latent(gained[:, taken])))
    error = (own.scales - theirs.scales[:, taken]).abs().mean()
    assert error < 0.5 * theirs.scales[:, taken].std()
    assert (own.means is None) is (theirs.means is None)


@torch.no_grad()
def test_an_aligned_start_is_close_to_the_teachers_photo(teacher: Hyperprior, x: Tensor) -> None:
    student = aligned(teacher, plan_of(teacher), x)
    error, error_t = (
        (model(x, 1)["x_hat"].clamp(0, 1) - x).square().mean() for model in (student, teacher)
    )
    assert error < 4 * error_t


@pytest.mark.parametrize("own", PRIORS)
@pytest.mark.parametrize("theirs", PRIORS)
@pytest.mark.parametrize("width", [8, 9])
def test_only_a_hyperprior_of_the_same_kind_and_no_wider_is_inherited(
    own: Prior, theirs: Prior, width: int
) -> None:
    expected = own == theirs and width == 8
    assert can_inherit(Hyper(width=width, prior=own), Hyper(width=8, prior=theirs)) is expected
