"""The distillation terms: zero for the teacher itself, in one unit, with a gradient."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.distill import (
    BITS_PER_SQUARED_STEP,
    Distiller,
    Targets,
    bit_weights,
    output_bpp,
    rate_distortion,
    rd_weight,
    squared_steps_bpp,
    strength,
    weights_now,
)
from kdbench.errors import TrainingError
from kdbench.records import Distillation, Offer, Prior, Schedule
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
    weights: dict[str, Any] = {term: weight}
    return Distillation(teacher="teacher:tiny", temperature=temperature, **weights)


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


# --- the schedule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("decaying", [1.0, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0.0]),
        ("first_half", [1.0, 1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_a_schedule_is_a_function_of_the_step_and_their_number(
    schedule: Schedule, expected: list[float]
) -> None:
    for n_steps in (4, 400):
        steps = [n_steps * quarter // 4 for quarter in range(5)]
        found = [strength(schedule, step, n_steps) for step in steps]
        assert found == pytest.approx(expected, abs=1e-12)


def test_of_an_odd_number_of_steps_the_middle_one_is_in_the_first_half() -> None:
    assert [strength("first_half", step, 5) for step in range(5)] == [1, 1, 1, 0, 0]
    assert strength("first_half", 0, 1) == 1.0


def test_the_strength_multiplies_every_term_and_at_zero_there_are_none(
    teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    prior = teacher.architecture.hyper.prior
    plan = replace(_alone("latent"), hyper_latent=0.5, output=0.25, entropy=2.0)
    out, distiller = _perturbed(teacher)(x, LEVELS), _distiller(plan, prior=prior)
    thirds = {name: weight / 3 for name, weight in plan.weights.items()}
    whole, third, none = (distiller(out, targets, RD_LAMBDA, w) for w in (None, thirds, {}))
    assert list(whole) == list(TERMS)
    for term in TERMS:
        assert third[term].item() == pytest.approx(whole[term].item() / 3)
    assert none == {}


def test_a_term_may_have_a_schedule_of_its_own() -> None:
    plan = replace(
        _alone("latent"),
        features=3.0,
        output=0.5,
        schedule="decaying",
        features_schedule="constant",
    )
    assert plan.schedules == {
        "latent": "decaying",
        "output": "decaying",
        "features": "constant",
    }
    assert weights_now(plan, 0, 8) == {"latent": 1.0, "output": 0.5, "features": 3.0}
    assert weights_now(plan, 4, 8) == pytest.approx({"latent": 0.5, "output": 0.25, "features": 3})
    assert weights_now(plan, 8, 8) == {"features": 3.0}


def test_a_staged_training_begins_with_the_terms_alone() -> None:
    plan = replace(_alone("latent"), schedule="staged")
    assert [rd_weight(plan, step, 6) for step in range(6)] == [0, 0, 1, 1, 1, 1]
    assert [weights_now(plan, step, 6) for step in range(6)] == [{"latent": 1.0}] * 6
    twin = replace(plan, latent=0.0)
    assert rd_weight(twin, 0, 6) == 1.0


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


def test_channels_weigh_in_proportion_to_their_bits_and_one_a_bit_on_average() -> None:
    bits = torch.tensor([4.0, 2.0, 0.0])
    weights = bit_weights(bits)
    assert weights.tolist() == pytest.approx([4 * 6 / 20, 2 * 6 / 20, 0.0])
    assert float((bits * weights).sum() / bits.sum()) == pytest.approx(1.0)


def test_channels_of_equal_bits_weigh_one_however_many_others_are_dead() -> None:
    assert bit_weights(torch.full((5,), 0.3)).tolist() == pytest.approx([1.0] * 5)
    assert bit_weights(torch.tensor([7.0, 0, 0, 7.0, 0])).tolist() == pytest.approx([1, 0, 0, 1, 0])


def test_the_latent_term_counts_each_channel_with_its_weight(
    teacher: Hyperprior, targets: Targets, x: Tensor
) -> None:
    out = _perturbed(teacher)(x, LEVELS)
    plain = _alone("latent", weight=0.5)
    plans = (plain, replace(plain, channel_weights="by_bits"))

    def term(plan: Distillation, bits: Tensor | None) -> float:
        distiller = Distiller(plan, architecture(), architecture().offer, None, bits)
        value: float = distiller(out, targets, RD_LAMBDA)["latent"].item()
        return value

    assert term(plans[1], torch.full((16,), 2.0)) == pytest.approx(term(plans[0], None))
    bits = torch.arange(16.0)
    squared = (out["y"] - targets.y).square().sum((0, 2, 3)) / 2
    by_hand = float((squared.detach() * bits).sum() * bits.sum() / bits.square().sum())
    expected = 0.5 * BITS_PER_SQUARED_STEP * by_hand / 64**2
    assert term(plans[1], bits) == pytest.approx(expected)
    assert term(plans[1], bits) != pytest.approx(term(plans[0], None))


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


# --- the paper's loss --------------------------------------------------------------------------


def _of_the_paper() -> tuple[dict[str, Tensor], Targets]:
    """Two latents, one hyper-latent and a photo of four pixels, to be worked out by hand."""
    out = {
        "y_hat": torch.tensor([[[[3.0]], [[-1.0]]]]),
        "z_hat": torch.tensor([[[[2.0]]]]),
        "x_hat": torch.full((1, 3, 2, 2), 0.5),
        "y": torch.full((1, 2, 1, 1), 99.0),  # before rounding: not what the paper compares
        "z": torch.full((1, 1, 1, 1), 99.0),
    }
    targets = Targets(
        y=torch.zeros(1, 2, 1, 1),
        z=torch.zeros(1, 1, 1, 1),
        scales=torch.ones(1, 2, 1, 1),
        x_hat=torch.full((1, 3, 2, 2), 0.7),
        y_hat=torch.tensor([[[[1.0]], [[-1.0]]]]),
        z_hat=torch.tensor([[[[-1.0]]]]),
    )
    return out, targets


def test_the_papers_terms_are_mean_squared_errors_of_rounded_latents_and_of_x_on_0_to_1() -> None:
    """((3 - 1)^2 + 0) / 2 = 2, (2 + 1)^2 = 9, 0.2^2 = 0.04."""
    plan = Distillation(
        teacher="teacher:tiny", latent=0.2, output=0.2, hyper_latent=0.1, rd=0.5, paper_compat=True
    )
    out, targets = _of_the_paper()
    distiller = _distiller(plan)
    found = distiller(out, targets, RD_LAMBDA)
    assert {name: term.item() for name, term in found.items()} == {
        "latent": pytest.approx(0.2 * 2),
        "hyper_latent": pytest.approx(0.1 * 9),
        "output": pytest.approx(0.2 * 0.04),
    }
    assert rd_weight(plan, 0, 1) == 0.5
    halved = distiller(out, targets, RD_LAMBDA, {"latent": 0.1})
    assert halved["latent"].item() == pytest.approx(0.2)


def test_the_weight_of_rate_and_distortion_is_the_papers_alone() -> None:
    assert rd_weight(_alone("latent"), 0, 1) == 1.0


@pytest.mark.parametrize(
    "what", [{"entropy": 0.1}, {"features": 0.1}, {"channel_weights": "by_bits"}]
)
def test_what_the_paper_has_not_is_refused_with_its_loss(what: dict[str, Any]) -> None:
    plan = replace(_alone("latent"), paper_compat=True, **what)
    with pytest.raises(
        TrainingError, match="no entropy term, no features and no weights"
    ) as refused:
        _distiller(plan)
    assert "paper_compat" in refused.value.fix


# --- the entropy term --------------------------------------------------------------------------


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
