"""How much of the gradient each term of the loss causes, in each part of the codec.

A weight says nothing about what a term does: the output term of the paper's loss had 0.02 % of the
weight of the distortion. The share of term k in a part with parameters p says it,

    |d L_k / d p| / sum_j |d L_j / d p|

with every L_j weighted as the loss has it. Shares of a part sum to 1; they compare the strength of
the terms and say nothing about whether they agree.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdbench.codecs.learned import LearnedCodec


def parts_of(model: LearnedCodec) -> dict[str, list[Tensor]]:
    """Parameters by part: g_a, h (h_a and h_s) and g_s; gains and factorised prior left out."""
    found: dict[str, list[Tensor]] = {"g_a": [], "h": [], "g_s": []}
    for name, child in model.named_children():
        part = model.parts.get(name)
        if part is not None and part != "entropy_model":
            found["h" if part in ("h_a", "h_s") else part] += child.parameters()
    return found


def gradient_shares(
    terms: Mapping[str, Tensor], parts: Mapping[str, Sequence[Tensor]]
) -> dict[str, dict[str, float]]:
    """Share of every term, 0 to 1, by term and part; a part that no term reaches is left out.

    Costs one backward pass a term. The graph is kept and no `.grad` is written, so that a loss may
    be trained on afterwards as if nobody had asked.
    """
    norms = {name: _norms(term, parts) for name, term in terms.items()}
    totals = {part: sum(of_term[part] for of_term in norms.values()) for part in parts}
    return {
        name: {part: norm / totals[part] for part, norm in of_term.items() if totals[part] > 0}
        for name, of_term in norms.items()
    }


def _norms(term: Tensor, parts: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Norm of the gradient of `term` in each part; 0 where it does not reach."""
    flat = [p for parameters in parts.values() for p in parameters]
    found = iter(torch.autograd.grad(term, flat, retain_graph=True, allow_unused=True))
    norms = {}
    for part, parameters in parts.items():
        grads = [grad for grad in (next(found) for _ in parameters) if grad is not None]
        squares = [float(grad.double().square().sum()) for grad in grads]
        norms[part] = sum(squares) ** 0.5
    return norms
