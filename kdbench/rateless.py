"""Auto-encoders: a codec whose transforms are trained as if bits cost nothing.

    y = g_a(x)          D, and terms of distillation, reach g_a and g_s
    |                   R stops here
    y' -> h_a, h_s      R trains the entropy model on the latents as they are

An entropy model that nobody trains would make the bits of an auto-encoder a number without meaning.
Here they are those of a real file: what its latents cost when nothing asked them to be cheap.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def without_rate(model: nn.Module) -> Iterator[None]:
    """Inside, no gradient of the bits reaches g_a: h_a, Gaussians and context see y detached.

    `model` has CompressAI's names, `h_a` and `gaussian_conditional`, and may have a `context`. What
    the loss is does not change, nor does what the model computes.
    """

    def detached(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        y: Tensor = args[0]
        return (y.detach(), *args[1:])

    context = [child for name, child in model.named_children() if name == "context"]
    parts: list[nn.Module] = [model.h_a, model.gaussian_conditional, *context]  # type: ignore[list-item]
    hooks = [part.register_forward_pre_hook(detached) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
