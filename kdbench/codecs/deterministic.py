"""A trained codec whose files decode on every machine: h_s and context rounded to integers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kdbench.codecs.bitfile import Image, to_tensor
from kdbench.codecs.context import Context
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.integer import IntegerContext, IntegerSynthesis, fill, fill_context
from kdbench.codecs.learned import LearnedCodec
from kdbench.errors import CodecError


def with_integer_prior(model: LearnedCodec, images: Sequence[Image]) -> Hyperprior:
    """A copy of `model` with an integer h_s and context; all else is the same, its tables too.

    Args:
        model: Finalised, on the CPU.
        images: Photos that say how large activations become; none is learned from.

    Raises:
        CodecError: A codec of another family, or one whose h_s is in integers already.
    """
    if not isinstance(model, Hyperprior):
        raise CodecError(
            f"a codec of the family {model.architecture.codec.family} has no h_s that kdbench can "
            "round to integers",
            fix="leave `--deterministic` away; its files then decode on machines of one kind",
        )
    if model.has_integer_prior:
        raise CodecError(
            "the h_s of this codec computes in integers already",
            fix="leave `--deterministic` away",
        )
    hyper = replace(model.architecture.hyper, arithmetic="integer")
    exact = Hyperprior(replace(model.architecture, hyper=hyper))
    target = exact.h_s
    assert isinstance(target, IntegerSynthesis)
    fill(target, model.h_s, _hyper_latents(model, images))
    if isinstance(model.context, Context) and isinstance(exact.context, IntegerContext):
        fill_context(exact.context, model.context)
    rounded = ("h_s.", "context.")
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(rounded)}
    made = {k: v for k, v in exact.state_dict().items() if k.startswith(rounded)}
    exact.load_state_dict(kept | made)
    exact.eval()
    for parameter in exact.parameters():
        parameter.requires_grad_(False)
    return exact


@torch.no_grad()
def _hyper_latents(model: Hyperprior, images: Sequence[Image]) -> Iterator[Tensor]:
    for image in images:
        latent = model.g_a(to_tensor(image))
        for level in range(model.architecture.n_levels):
            z = model.hyper_latent(latent * model.gain(level))
            yield model.rounded_hyper_latent(z)
