"""SOAP: it finds minima, on matrices as on vectors, and resumes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdbench.soap import Soap, _folded, _unfolded


def _steps(optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor], n: int) -> list[float]:
    found = []
    for _ in range(n):
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(value.item())
    return found


def _orthogonal(n: int) -> Tensor:
    q: Tensor = torch.linalg.qr(torch.randn(n, n))[0]
    return q


def test_vectors_take_adams_steps() -> None:
    torch.manual_seed(0)
    target, scale = torch.randn(20), torch.rand(20)
    found = []
    for make in (
        lambda p: Soap(p, lr=0.01, betas=(0.9, 0.99)),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-8),
    ):
        value = nn.Parameter(torch.zeros(20))
        _steps(make([value]), lambda v=value: (scale * (v - target) ** 2).sum(), 50)  # type: ignore[misc]
        found.append(value.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_the_first_step_measures_and_moves_no_matrix() -> None:
    kernel, vector = nn.Parameter(torch.ones(4, 3, 5, 5)), nn.Parameter(torch.ones(4))
    optimiser = Soap([kernel, vector], lr=0.1)
    _steps(optimiser, lambda: kernel.square().sum() + vector.square().sum(), 1)
    assert torch.equal(kernel.detach(), torch.ones(4, 3, 5, 5))
    assert float(vector.detach().max()) < 1


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3), (1, 7), (2, 3, 4)])
def test_folding_undoes_unfolding(shape: tuple[int, ...]) -> None:
    parameter = torch.randn(shape)
    for layout in (parameter, parameter.transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(_folded(_unfolded(layout), layout), layout)


def test_a_kernel_is_seen_as_channels_out_taps_channels_in() -> None:
    kernel = torch.randn(4, 3, 5, 2)
    assert torch.equal(_unfolded(kernel)[2, 2 * 2 + 1], kernel[2, :, 2, 1])


def test_turning_the_problem_turns_the_path() -> None:
    """What Adam cannot: the same descent in whatever basis the channels are written."""
    torch.manual_seed(0)
    left, right = _orthogonal(6).double(), _orthogonal(6).double()
    target, scale = torch.randn(6, 6).double(), torch.rand(6, 6).double()
    plain, turned = (nn.Parameter(torch.zeros(6, 6).double()) for _ in range(2))

    def loss(value: Tensor) -> Tensor:
        return (scale * (value - target) ** 2).sum()

    straight = _steps(Soap([plain], lr=0.05), lambda: loss(plain), 40)
    rotated = _steps(Soap([turned], lr=0.05), lambda: loss(left.T @ turned @ right), 40)
    assert rotated == pytest.approx(straight, rel=1e-4)


def test_in_a_turned_valley_it_comes_much_further_than_adam() -> None:
    torch.manual_seed(0)
    left, right = _orthogonal(16), _orthogonal(16)
    scale = torch.logspace(-4, 0, 16)[:, None] * torch.logspace(-4, 0, 16)
    target = torch.randn(16, 16)
    final = {}
    for name, make in (("soap", Soap), ("adam", torch.optim.Adam)):
        value = nn.Parameter(torch.zeros(16, 16))
        optimiser = make([value], lr=0.03, betas=(0.95, 0.95))
        final[name] = _steps(
            optimiser,
            lambda v=value: (scale * (left.T @ v @ right - target) ** 2).sum(),  # type: ignore[misc]
            200,
        )[-1]
    assert final["soap"] < final["adam"] / 3


def test_a_kernel_whose_channels_are_mixed_is_learned_in_its_own_basis() -> None:
    torch.manual_seed(0)
    x = torch.einsum(
        "oi,bihw->bohw", _orthogonal(6) * torch.logspace(-2, 0, 6), torch.randn(8, 6, 9, 9)
    )
    true = torch.randn(4, 6, 3, 3)
    y = nn.functional.conv2d(x, true)
    final = {}
    for name, make in (("soap", Soap), ("adam", torch.optim.Adam)):
        kernel = nn.Parameter(torch.zeros_like(true))
        final[name] = _steps(
            make([kernel], lr=0.03, betas=(0.95, 0.95)),
            lambda k=kernel: (nn.functional.conv2d(x, k) - y).square().mean(),  # type: ignore[misc]
            200,
        )[-1]
    assert final["soap"] < final["adam"]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 6, 3, 3), {"a", "t", "b"}),
        ((36, 4, 3, 3), {"a", "t", "b"}),
        ((37, 4, 3, 3), {"t", "b"}),
        ((3, 40, 3, 3), {"a", "t"}),
        ((5, 192), {"a"}),
        ((7, 7), {"a", "b"}),
        ((1, 7), set()),
    ],
)
def test_an_axis_with_more_entries_than_the_gradient_has_directions_is_left_alone(
    shape: tuple[int, ...], axes: set[str]
) -> None:
    torch.manual_seed(0)
    parameter, target = nn.Parameter(torch.zeros(shape)), torch.randn(shape)
    optimiser = Soap([parameter], lr=0.05)
    found = _steps(optimiser, lambda: (parameter - target).square().sum(), 30)
    assert {name for name in optimiser.state[parameter] if name in ("a", "t", "b")} == axes
    assert found[-1] < found[0] / 2


def test_its_bases_stay_orthogonal() -> None:
    torch.manual_seed(0)
    kernel, target = nn.Parameter(torch.zeros(4, 6, 3, 3)), torch.randn(4, 6, 3, 3)
    optimiser = Soap([kernel], lr=0.01, refresh_every=2)
    _steps(optimiser, lambda: (kernel - target).pow(4).sum(), 21)
    for axis, n in (("a", 4), ("t", 9), ("b", 6)):
        q = optimiser.state[kernel][f"q_{axis}"]
        torch.testing.assert_close(q.T @ q, torch.eye(n), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop", [1, 7, 10, 11])
def test_a_state_dict_goes_on_bit_for_bit(stop: int) -> None:
    torch.manual_seed(0)
    target = torch.randn(4, 6, 3, 3)

    def run(value: nn.Parameter, optimiser: Soap, n: int) -> None:
        _steps(optimiser, lambda: (value - target).pow(4).sum(), n)

    whole = nn.Parameter(torch.zeros_like(target))
    run(whole, Soap([whole], lr=0.01), 25)
    first = nn.Parameter(torch.zeros_like(target))
    before = Soap([first], lr=0.01)
    run(first, before, stop)
    second = nn.Parameter(first.detach().clone())
    after = Soap([second], lr=0.01)
    after.load_state_dict(before.state_dict())
    run(second, after, 25 - stop)
    assert torch.equal(second, whole)


def test_a_closure_is_refused() -> None:
    with pytest.raises(TypeError, match="no closure"):
        Soap([nn.Parameter(torch.ones(2))], lr=0.1).step(lambda: 0.0)
