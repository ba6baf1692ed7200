"""The divergence of discretised Gaussians: the sum over all bins, and a gradient everywhere."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from torch import Tensor

from kdbench.divergence import discretised_kl_bits, mean_shift_bits, summed_kl_bits


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
