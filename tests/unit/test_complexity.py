"""Costs that can be worked out by hand."""

import copy
from typing import Any

import pytest
import torch
from compressai.models import ScaleHyperprior
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.complexity import count_macs, measure_complexity
from kdbench.errors import CountError
from kdbench.records import Activation, Architecture, Hyper, Latent, Transform

N, M = 8, 24
K_PX = 512 * 768 * 1000


def student(
    *, kernel: int = 5, activation: Activation = "gdn", hyper: int = N, n_levels: int = 1
) -> Hyperprior:
    side = Transform(width=N, kernel=kernel, activation=activation)
    return Hyperprior(
        Architecture(
            encoder=side,
            decoder=side,
            hyper=Hyper(width=hyper),
            latent=Latent(channels=M),
            n_levels=n_levels,
        )
    )


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_strided_convolution_costs_c_in_k2_per_output_value(kernel: int) -> None:
    part = conv(3, 7, kernel_size=kernel)  # stride 2: 35x51 gives 18x26
    assert count_macs(part, "g_a", [(1, 3, 35, 51)]) == 3 * kernel**2 * 7 * 18 * 26


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_transposed_convolution_costs_c_out_k2_per_input_value(kernel: int) -> None:
    part = deconv(6, 5, kernel_size=kernel)
    assert count_macs(part, "g_s", [(1, 6, 9, 13)]) == 6 * kernel**2 * 5 * 9 * 13


def test_groups_divide_the_cost() -> None:
    part = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert count_macs(part, "g_a", [(1, 8, 5, 7)]) == 9 * 8 * 5 * 7


def test_relu_is_free_and_gdn_costs_one_product_of_channels_per_pixel() -> None:
    by_hand = {"relu": 0, "gdn": N * N * (256 * 384 + 128 * 192 + 64 * 96)}
    bare = 25 * (3 * N * 256 * 384 + N * N * (128 * 192 + 64 * 96) + N * M * 32 * 48)
    for activation in ("relu", "gdn"):
        g_a = measure_complexity(student(activation=activation)).g_a
        assert round(g_a * K_PX) == bare + by_hand[activation]


def test_kernels_of_3_cost_9_25ths_of_kernels_of_5_in_both_transforms() -> None:
    small, large = (
        measure_complexity(student(kernel=kernel, activation="relu")) for kernel in (3, 5)
    )
    assert small.g_a == pytest.approx(large.g_a * 9 / 25)
    assert small.g_s == pytest.approx(large.g_s * 9 / 25)
    assert small.h_a == large.h_a


def test_the_hyperprior_s_width_decides_its_parts_alone() -> None:
    narrow, wide = (measure_complexity(student(hyper=hyper)) for hyper in (4, 16))
    assert (narrow.g_a, narrow.g_s) == (wide.g_a, wide.g_s)
    assert wide.h_s > narrow.h_s
    assert round(wide.entropy_model * K_PX) == 2 * 33 * 16 * 8 * 12  # z is 8x12


def test_a_plain_student_costs_what_compressai_s_model_costs() -> None:
    assert measure_complexity(student()) == measure_complexity(ScaleHyperprior(N, M))


def test_gains_cost_parameters_and_no_macs() -> None:
    plain, gained = measure_complexity(student()), measure_complexity(student(n_levels=5))
    assert gained.kmac_per_px == plain.kmac_per_px
    assert gained.params == plain.params + 2 * 5 * M


def test_the_model_is_left_as_it_was() -> None:
    model = student()
    state = copy.deepcopy(model.state_dict())
    measure_complexity(model)
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_figures_do_not_depend_on_weights_or_tables() -> None:
    model = student()
    untrained = measure_complexity(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    model.update(force=True, update_quantiles=True)
    assert measure_complexity(model) == untrained


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Attention(), "aten::scaled_dot_product_attention"),
        (nn.LayerNorm(6), "layer_norm"),  # fvcore guesses 5 flops a value
        (nn.Softmax(dim=1), "aten::softmax"),
    ],
)
def test_an_operation_nobody_counts_is_an_error_that_names_it_and_its_part(
    layer: nn.Module, name: str
) -> None:
    with pytest.raises(CountError, match=rf"{name} in g_s(?s:.*)fix: .*ELEMENTWISE"):
        count_macs(nn.Sequential(nn.Conv2d(3, 3, 1), layer), "g_s", [(1, 3, 6, 6)])


def test_a_part_that_cannot_be_counted_stops_the_whole_model() -> None:
    model: Any = student()
    model.h_s.append(nn.Softmax(dim=1))
    with pytest.raises(CountError, match=r"aten::softmax in h_s"):
        measure_complexity(model)


def test_a_decode_holds_three_widths_of_the_last_igdn_and_the_decoder_s_weights() -> None:
    model = student()
    weights = sum(
        p.numel() for name, p in model.named_parameters() if name[:3] not in ("g_a", "h_a")
    )
    y_hat = M * 32 * 48  # its caller holds it
    igdn = 3 * N * 256 * 384 + N * N + N  # x, x^2, their sum; gamma, beta
    assert measure_complexity(model).peak_memory_bytes == 4 * (weights + y_hat + igdn)


def test_relu_needs_less_memory_than_gdn() -> None:
    gdn, relu = (measure_complexity(student(activation=a)) for a in ("gdn", "relu"))
    assert gdn.peak_memory_bytes is not None
    assert relu.peak_memory_bytes is not None
    assert relu.peak_memory_bytes < gdn.peak_memory_bytes
