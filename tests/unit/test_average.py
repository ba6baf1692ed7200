"""The running mean of weights: each step so far counts as if it were the first."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdbench.average import DECAY, Average


def parameters(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((2, 3), value)) for value in values]


def walked(steps: list[float]) -> tuple[nn.Parameter, Average]:
    """A parameter that was each of `steps` in turn."""
    (own,) = parameters(0.0)
    average = Average([own])
    for value in steps:
        own.data.fill_(value)
        average.update()
    return own, average


def shown(own: nn.Parameter, average: Average) -> float:
    with average.in_place():
        return float(own.detach().mean())


def test_what_does_not_move_is_its_own_mean() -> None:
    assert shown(*walked([3.0] * 7)) == pytest.approx(3.0)


def test_the_mean_weighs_each_step_by_how_long_ago_it_was() -> None:
    steps = [1.0, -2.0, 5.0, 0.5]
    weights = [DECAY ** (len(steps) - 1 - i) for i in range(len(steps))]
    expected = sum(w * s for w, s in zip(weights, steps, strict=True)) / sum(weights)
    assert shown(*walked(steps)) == pytest.approx(expected, rel=1e-6)


def test_before_the_first_step_there_is_nothing_to_show_but_the_weights() -> None:
    (own,) = parameters(4.0)
    assert shown(own, Average([own])) == 4.0


def test_the_weights_are_what_they_were_whatever_happens_within() -> None:
    own, average = walked([1.0, 2.0])

    def look() -> None:
        with average.in_place():
            own.data.fill_(9.0)
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert_close(own.data, torch.full((2, 3), 2.0), rtol=0, atol=0)


def test_a_mean_goes_on_from_what_another_knew() -> None:
    own, average = walked([1.0, 2.0, 4.0])
    other, again = walked([])
    again.load_state_dict(average.state_dict())
    for each, mean in ((own, average), (other, again)):
        each.data.fill_(-1.0)
        mean.update()
    assert shown(other, again) == shown(own, average)
