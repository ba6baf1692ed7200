"""The distillation terms: zero for the teacher itself, in one unit, with a gradient."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from torch import Tensor

from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.distill import (
    BITS_PER_SQUARED_STEP,
    Distiller,
    Targets,
    discretised_kl_bits,
    mean_shift_bits,
    output_bpp,
    rate_distortion,
    squared_steps_bpp,
    summed_kl_bits,
)
from kdbench.errors import TrainingError
from kdbench.records import Distillation, Offer, Prior
from tests.support.codecs import architecture, as_tensor, crops, finished

TERMS = ("latent", "hyper_latent", "output", "entropy")
LEVELS = torch.tensor([0, 1])
RD_LAMBDA = torch.tensor([0.0018, 0.025])


@pytest.fixture(scope="module")
def x() -> Tensor:
    return as_tensor(crops(2))


@pytest.fixture(scope="module", params=["scale", "mean_scale"])
def teacher(request: pytest.FixtureRequest) -> Hyperprior:
    model = finished(architecture(prior=request.param))
    with torch.no_grad():
        model.h_s[4].weight.mul_(1000)  # type: ignore[operator]  # scales that differ
    return model


@pytest.fixture(scope="module")
@torch.no_grad()
def targets(teacher: Hyperprior, x: Tensor) -> Targets:
    out = teacher(x, LEVELS)
    return Targets.of(out)


def _alone(term: str, *, weight: float = 1.0, temperature: float = 1.0) -> Distillation:
    return Distillation(teacher="teacher:tiny", temperature=temperature, **{term: weight})


def _distiller(plan: Distillation, *, prior: Prior = "scale") -> Distiller:
    return Distiller(plan, architecture(prior=prior), architecture(prior=prior).offer)


def _perturbed(teacher: Hyperprior) -> Hyperprior:
    student = Hyperprior(teacher.architecture)
    student.load_state_dict(teacher.state_dict())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    student.eval()
    return student


# --- laws of every term ------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_zero_where_student_and_teacher_are_one(
    term: str, teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    found = _distiller(_alone(term), prior=teacher.architecture.hyper.prior)(
        teacher(x, LEVELS), targets, RD_LAMBDA
    )
    assert list(found) == [term]
    assert found[term].item() == 0.0


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_positive_and_moves_the_part_it_is_about(
    term: str, teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    student = _perturbed(teacher)
    value = _distiller(_alone(term), prior=teacher.architecture.hyper.prior)(
        student(x, LEVELS), targets, RD_LAMBDA
    )[term]
    assert value.item() > 0
    value.backward()
    last = {"latent": "g_a.6", "hyper_latent": "h_a.4", "output": "g_s.6", "entropy": "h_s.4"}
    moved = {
        name
        for name, p in student.named_parameters()
        if p.grad is not None and bool(p.grad.abs().sum() > 0)
    }
    assert {f"{last[term]}.weight", f"{last[term]}.bias"} <= moved
    others = [name for key, name in last.items() if key != term and _is_after(name, last[term])]
    assert not any(name.startswith(tuple(others)) for name in moved)


def _is_after(part: str, of: str) -> bool:
    """Whether `part` comes after `of` on the way from photo to its estimate."""
    later = {"g_a.6": ("h_a.4", "h_s.4", "g_s.6"), "h_a.4": ("h_s.4", "g_s.6")}
    return part in later.get(of, ())


@pytest.mark.parametrize("term", TERMS)
def test_nothing_flows_back_to_the_teacher(term: str, teacher: Hyperprior, x: Tensor) -> None:
    """Its outputs come from the cache; should they ever be live, they are constants."""
    student, out = _perturbed(teacher), teacher(x, LEVELS)
    live = Targets.of(out)
    assert all(target.requires_grad for target in live if target is not None)
    value = _distiller(_alone(term), prior=teacher.architecture.hyper.prior)(
        student(x, LEVELS), live, RD_LAMBDA
    )[term]
    value.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_terms_of_weight_zero_are_not_computed(
    teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    off = Distillation(teacher="teacher:tiny")
    assert _distiller(off)(teacher(x, LEVELS), targets, RD_LAMBDA) == {}


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_multiplies_its_term(
    term: str, teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    out = _perturbed(teacher)(x, LEVELS)
    single, triple = (
        _distiller(_alone(term, weight=w))(out, targets, RD_LAMBDA)[term] for w in (1.0, 3.0)
    )
    assert triple.item() == pytest.approx(3 * single.item())


# --- the unit ----------------------------------------------------------------------------------


def test_a_step_of_error_costs_what_it_costs_a_codec_at_its_optimum() -> None:
    """6 / ln 2: the curvature c of c step^2 / 12 whose slope per ln(step) is 1 / ln 2 bits."""
    assert pytest.approx(6 / math.log(2)) == BITS_PER_SQUARED_STEP
    step, change = 1.0, 1e-4
    noise = [BITS_PER_SQUARED_STEP * s**2 / 12 for s in (step * (1 - change), step * (1 + change))]
    rate = [-math.log2(s) for s in (step * (1 - change), step * (1 + change))]
    assert noise[1] - noise[0] == pytest.approx(-(rate[1] - rate[0]), rel=1e-6)


def test_latent_terms_are_squared_steps_per_pixel_averaged_over_images() -> None:
    student, teacher = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    student[0, 1, 2, 3] = 2.0  # 4 squared steps in one of two images of 4096 px
    found = squared_steps_bpp(student, teacher, 64 * 64)
    assert float(found) == pytest.approx(BITS_PER_SQUARED_STEP * 4 / 2 / 4096)


def test_the_output_term_is_the_distortion_with_the_teacher_as_the_photo() -> None:
    torch.manual_seed(0)
    x, x_hat = torch.rand(2, 2, 3, 64, 64)
    ones = {"y": torch.ones(2, 1), "z": torch.ones(2, 1)}
    out: Any = {"x_hat": x_hat, "likelihoods": ones}
    distortion = rate_distortion(out, x, RD_LAMBDA).loss
    assert float(output_bpp(x_hat, x, RD_LAMBDA)) == pytest.approx(float(distortion))


def test_rate_distortion_adds_bits_per_pixel_and_weighted_squared_error() -> None:
    likelihoods = {"y": torch.full((2, 4), 0.5), "z": torch.full((2, 1), 0.25)}
    out: Any = {"x_hat": torch.full((2, 3, 8, 8), 0.1), "likelihoods": likelihoods}
    found = rate_distortion(out, torch.zeros(2, 3, 8, 8), RD_LAMBDA)
    assert float(images_bits(likelihoods)[0]) == 6
    assert float(found.bpp) == pytest.approx(6 / 64)
    assert float(found.mse) == pytest.approx(0.01)
    mean_lambda = float(RD_LAMBDA.mean())
    assert float(found.loss) == pytest.approx(6 / 64 + mean_lambda * 255**2 * 0.01)


# --- the entropy term --------------------------------------------------------------------------


def _brute_force_kl_bits(sigma_t: float, sigma: float) -> float:
    """Every integer up to forty deviations, in float64."""
    k = np.arange(int(max(40 * sigma_t, 60)) + 1)

    def log_mass(s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        log_low, log_high = log_ndtr(-(k - 0.5) / s), log_ndtr(-(k + 0.5) / s)
        mass = log_low + np.log1p(-np.exp(np.minimum(log_high - log_low, -1e-300)))
        mass[0] = math.log(math.erf(0.5 / s / math.sqrt(2)))
        return np.asarray(mass)

    log_p, log_q = log_mass(sigma_t), log_mass(sigma)
    both_sides = np.where(k == 0, 1, 2)
    return float((both_sides * np.exp(log_p) * (log_p - log_q)).sum() / math.log(2))


def _kl_bits(sigma_t: float, sigma: float) -> float:
    return float(discretised_kl_bits(torch.tensor([sigma_t]), torch.tensor([sigma])))


@pytest.mark.parametrize("sigma_t", [0.11, 0.15, 0.2, 0.5, 1.0, 2.9, 3.0, 3.1, 7.7, 30.0, 200.0])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0, 10.0])
def test_the_divergence_is_the_sum_over_all_integers(sigma_t: float, ratio: float) -> None:
    sigma = min(max(0.11, sigma_t * ratio), 1024.0)
    expected = _brute_force_kl_bits(sigma_t, sigma)
    assert _kl_bits(sigma_t, sigma) == pytest.approx(expected, rel=5e-3, abs=2e-7)
    exact = summed_kl_bits(torch.tensor(sigma_t).double(), torch.tensor(sigma).double())
    assert float(exact) == pytest.approx(expected, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("tau", "small_bits", "large_bits"),
    [(0.5, 0.001, 0.184), (1.0, 0.089, 0.184), (2.0, 0.130, 0.184), (4.0, 0.159, 0.184)],
)
def test_temperature_wakes_scales_that_are_small_against_the_step_and_no_others(
    tau: float, small_bits: float, large_bits: float
) -> None:
    """.2 -> .3 sleeps at tau = .5; 10 -> 15 looks the same at every temperature."""
    assert _kl_bits(tau * 0.2, tau * 0.3) == pytest.approx(small_bits, abs=5.1e-4)
    assert _kl_bits(tau * 10, tau * 15) == pytest.approx(large_bits, abs=7e-4)


def test_a_scale_that_is_no_number_makes_a_divergence_that_is_none() -> None:
    """So that the loss is NaN, which ends the training by name."""
    for sigma_t, sigma in ((1.0, math.nan), (math.nan, 1.0)):
        assert math.isnan(_kl_bits(sigma_t, sigma))


@pytest.mark.parametrize("sigma_t", [0.2, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("ratio", [0.55, 0.9, 1.2, 2.0])
def test_the_gradient_is_that_of_the_sum(sigma_t: float, ratio: float) -> None:
    def gradient(kl: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> float:
        sigma = torch.tensor([sigma_t * ratio], dtype=dtype, requires_grad=True)
        kl(torch.tensor([sigma_t], dtype=dtype), sigma).sum().backward()  # type: ignore[no-untyped-call]
        assert sigma.grad is not None
        return float(sigma.grad)

    expected = gradient(summed_kl_bits, torch.float64)
    assert gradient(discretised_kl_bits, torch.float32) == pytest.approx(expected, rel=0.02)


def test_a_scale_under_the_coders_bound_can_still_be_raised_but_not_lowered() -> None:
    sigma = torch.tensor([0.05, 0.05], requires_grad=True)
    discretised_kl_bits(torch.tensor([1.0, 0.01]), sigma).sum().backward()  # type: ignore[no-untyped-call]
    assert sigma.grad is not None
    assert sigma.grad[0] < 0
    assert sigma.grad[1] == 0


def test_scales_that_are_far_apart_stay_numbers() -> None:
    sigma = torch.tensor([0.0, 0.11, 1e6, 1e-9], requires_grad=True)
    kl = discretised_kl_bits(torch.tensor([1e6, 300.0, 0.0, 1e6]), sigma)
    kl.sum().backward()  # type: ignore[no-untyped-call]
    assert sigma.grad is not None
    assert bool(kl.isfinite().all())
    assert bool(sigma.grad.isfinite().all())


def _first_batch() -> tuple[Tensor, Tensor]:
    """Scales of a student and its teacher from far under the step to far over it."""
    torch.manual_seed(0)
    teachers = torch.logspace(-0.8, 1.5, 2 * 16 * 16).reshape(2, 16, 4, 4)
    return teachers * torch.exp(0.2 * torch.randn_like(teachers)), teachers


@pytest.mark.parametrize("tau", [0.5, 2.0, 4.0])
def test_temperature_leaves_the_gradient_norm_of_the_first_batch_alone(tau: float) -> None:
    """tau says where the term looks; how strongly is its weight's business."""
    scales, teachers = _first_batch()
    norms, directions = [], []
    for t in (1.0, tau):
        leaf = scales.clone().requires_grad_()
        distiller = _distiller(_alone("entropy", temperature=t))
        distiller.entropy_bpp(leaf, teachers, 64 * 64).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        norms.append(float(leaf.grad.norm()))
        directions.append(leaf.grad / leaf.grad.norm())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert float((directions[0] * directions[1]).sum()) < 0.99  # it does look elsewhere


def test_the_unit_of_the_first_batch_is_kept_and_travels_in_the_state_dict() -> None:
    distiller = _distiller(_alone("entropy", temperature=2.0))
    scales, teachers = _first_batch()
    distiller.entropy_bpp(scales, teachers, 4096)
    unit = float(distiller.entropy_unit)
    distiller.entropy_bpp(3 * scales, teachers, 4096)
    assert float(distiller.entropy_unit) == unit
    assert unit not in (0.0, 1.0)
    resumed = _distiller(_alone("entropy", temperature=2.0))
    resumed.load_state_dict(distiller.state_dict())
    assert float(resumed.entropy_unit) == unit


# --- means -------------------------------------------------------------------------------------


def _brute_force_shift_bits(shift: float, sigma: float) -> float:
    """KL of two discretised Gaussians of one scale, less that of no shift, in float64."""
    k = np.arange(-int(40 * sigma + 60), int(40 * sigma + 60) + 1)

    def log_mass(mean: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        distance = np.abs(k - mean)
        low, high = log_ndtr(-(distance - 0.5) / sigma), log_ndtr(-(distance + 0.5) / sigma)
        return np.asarray(low + np.log1p(-np.exp(high - low)))

    log_p, log_q = log_mass(shift), log_mass(0.0)
    return float((np.exp(log_p) * (log_p - log_q)).sum() / math.log(2))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("shift", [0.05, 0.3, 1.0, 3.0])
def test_a_shifted_mean_costs_what_the_sum_over_bins_says(shift: float, sigma: float) -> None:
    found = float(mean_shift_bits(torch.tensor(shift), torch.tensor(sigma)))
    assert found == pytest.approx(_brute_force_shift_bits(shift, sigma), rel=0.1)


def test_a_bin_that_is_wide_hides_small_shifts() -> None:
    """What the docstring owns up to: under half a step the term says more than the coder pays."""
    found = float(mean_shift_bits(torch.tensor(0.2), torch.tensor(0.15)))
    assert found > 2 * _brute_force_shift_bits(0.2, 0.15)


def test_temperature_moves_the_entropy_term_from_means_to_scales() -> None:
    """At a high temperature a mean that is off counts less, a scale that is off as much."""
    scales = torch.tensor([[[[0.5, 2.0]]]])

    def shares(tau: float) -> float:
        distiller = _distiller(_alone("entropy", temperature=tau), prior="mean_scale")
        distiller.entropy_unit.fill_(1.0)
        of_scales = distiller.entropy_bpp(1.3 * scales, scales, 1, torch.zeros_like(scales))
        both = distiller.entropy_bpp(1.3 * scales, scales, 1, torch.full_like(scales, 0.5))
        return float((both - of_scales) / of_scales)

    assert shares(0.5) > 2 * shares(1.0) > 4 * shares(2.0) > 0


def test_the_entropy_term_between_codecs_with_and_without_means_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"16 latent channels \(scale\) and its teacher 16 \(mean"
    ):
        Distiller(_alone("entropy"), architecture(), architecture(prior="mean_scale").offer)


# --- connectors --------------------------------------------------------------------------------


def test_a_student_of_other_widths_gets_connectors_that_start_as_the_identity() -> None:
    plan = Distillation(teacher="teacher:tiny", latent=1.0, hyper_latent=1.0)
    distiller = Distiller(
        plan, architecture(latent=8, hyper=12), architecture(latent=16, hyper=8).offer
    )
    y, z = torch.randn(2, 8, 4, 4), torch.randn(2, 12, 1, 1)
    carried_y, carried_z = distiller.y_connector(y), distiller.z_connector(z)
    assert torch.equal(carried_y[:, :8], y)
    assert not carried_y[:, 8:].any()
    assert torch.equal(carried_z, z[:, :8])
    assert len(list(distiller.parameters())) == 4


def test_a_connector_carries_each_latent_to_the_teachers_channel_it_started_from() -> None:
    plan = Distillation(teacher="teacher:tiny", latent=1.0)
    taken = [1, 2, 5, 6, 9, 11, 14, 15]
    distiller = Distiller(plan, architecture(latent=8), architecture(latent=16).offer, taken)
    y = torch.randn(2, 8, 4, 4)
    carried = distiller.y_connector(y)
    assert torch.equal(carried[:, taken], y)
    assert carried.abs().sum().item() == pytest.approx(y.abs().sum().item())


def test_a_student_of_the_teachers_widths_has_nothing_to_learn_beside_itself() -> None:
    distiller = _distiller(_alone("latent"))
    assert list(distiller.parameters()) == []


def test_a_connector_is_trained_by_the_terms_it_serves(targets: Targets, x: Tensor) -> None:
    student = finished(architecture(latent=8, hyper=12))
    plan = Distillation(teacher="teacher:tiny", latent=1.0, hyper_latent=1.0)
    distiller = Distiller(plan, student.architecture, architecture().offer)
    sum(distiller(student(x, LEVELS), targets, RD_LAMBDA).values()).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in distiller.parameters())  # type: ignore[union-attr]


def test_the_entropy_term_between_latents_of_other_widths_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"8 latent channels \(scale\) and its teacher 16"
    ) as refused:
        Distiller(_alone("entropy"), architecture(latent=8), architecture(latent=16).offer)
    assert "distillation.entropy" in refused.value.fix


@pytest.mark.parametrize(
    ("term", "what"), [("hyper_latent", "the hyper-latent term"), ("entropy", "the entropy term")]
)
def test_a_term_that_the_teacher_has_nothing_for_is_refused_by_its_name(
    term: str, what: str
) -> None:
    bare = Offer(channels=16, hyper_width=None, prior=None)
    with pytest.raises(TrainingError, match=f"{what} needs .* the teacher") as refused:
        Distiller(_alone(term), architecture(), bare)
    assert f"distillation.{term}" in refused.value.fix
    Distiller(Distillation(teacher="x", latent=1.0, output=1.0), architecture(), bare)
