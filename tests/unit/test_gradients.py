"""Shares of the gradient: by hand, and nothing of the graph is used up."""

import pytest
import torch
from torch import nn

from kdbench.gradients import gradient_shares, parts_of
from tests.support.codecs import architecture, started


def test_a_share_is_the_norm_of_a_terms_gradient_over_the_sum_of_all() -> None:
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    terms = {
        "rate": (a * torch.tensor([3.0, 4.0])).sum(),  # gradient (3, 4): norm 5
        "output": 15 * a[0] - 2 * b.sum(),  # norms 15 and 2
    }
    found = gradient_shares(terms, {"g_a": [a], "g_s": [b]})
    assert found == {
        "rate": pytest.approx({"g_a": 0.25, "g_s": 0.0}),
        "output": pytest.approx({"g_a": 0.75, "g_s": 1.0}),
    }


def test_a_part_that_no_term_reaches_has_no_shares() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    assert gradient_shares({"rate": a.sum()}, {"g_a": [a], "h": [b]}) == {"rate": {"g_a": 1.0}}


def test_the_graph_can_still_be_trained_on_and_no_gradient_is_left_behind() -> None:
    a = nn.Parameter(torch.tensor([2.0]))
    term = (a**3).sum()
    for _ in range(2):
        gradient_shares({"rate": term}, {"g_a": [a]})
    term.backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert float(a.grad) == 12.0  # of one backward pass, added to nothing


def test_the_parts_are_the_transforms_of_the_codec() -> None:
    model = started(architecture())
    parts = parts_of(model)
    named = {id(p): name for name, p in model.named_parameters()}
    found = {part: {named[id(p)].partition(".")[0] for p in ps} for part, ps in parts.items()}
    assert found == {"g_a": {"g_a"}, "h": {"h_a", "h_s"}, "g_s": {"g_s"}}
