"""A codec that starts where another one ended.

Transforms, gains and, where the widths allow it, the hyperprior are taken over. A hyperprior with
means can follow one without: its h_a takes the kernels of the magnitudes and sees no signs at
first, its h_s takes those of the scales and predicts means of 0. A context may be added, which
corrects nothing at first. It then codes what the other one codes, with the same bits, and learns on
from there.
"""

import torch
from torch import Tensor

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.errors import CodecError


@torch.no_grad()
def succeed(model: Hyperprior, earlier: Hyperprior) -> None:
    """Sets the weights of `model` in place to those of `earlier`.

    Raises:
        CodecError: They differ in more than prior and context, or `earlier` has means or a context
            and `model` has none.
    """
    own = dict(model.named_parameters())
    for name, value in _taken(model, earlier).items():
        if name not in own or own[name].shape != value.shape:
            raise CodecError(
                f"a codec of {_sizes(model)} cannot start from one of {_sizes(earlier)}",
                fix="give it the same widths, latents and number of levels; a prior `scale` "
                "may become `mean_scale`, and a context may be added",
            )
        own[name].copy_(value)


def _taken(model: Hyperprior, earlier: Hyperprior) -> dict[str, Tensor]:
    """The parameters of `earlier`, widened by means where `model` has them and it has not."""
    found = {name: value.detach() for name, value in earlier.named_parameters()}
    if model.has_means and not earlier.has_means:
        first, last = "h_a.0.weight", "h_s.4"
        found[first] = torch.cat([torch.zeros_like(found[first]), found[first]], 1)
        for name in (f"{last}.weight", f"{last}.bias"):
            found[name] = torch.cat([found[name], torch.zeros_like(found[name])])
    return found


def _sizes(model: Hyperprior) -> str:
    a = model.architecture
    hyper = ", ".join([a.hyper.prior, *(["checkerboard"] if model.has_context else [])])
    return (
        f"widths {a.encoder.width}, {a.decoder.width}, {a.hyper.width} ({hyper}), "
        f"{a.latent.channels} latents and {a.n_levels} levels"
    )
