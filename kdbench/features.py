r"""The feature term: what a layer inside a student makes of a photo, against the teacher's.

For one named layer of a transform, say `g_a.5`, with f the student's features, f_t the teacher's
and C a 1x1 convolution,

    K_f = 1/(2 ln 2)  sum_c sum (C(f) - f_t)_c^2 / v_c  / pixels

v_c is the variance of the teacher's channel c. Why 1/(2 ln 2): to know a Gaussian variable up to a
squared error of e times its variance takes 1/2 log2(1/e) bits, and at e = 1, where nothing is
known, a change of e by 1 is worth 1/(2 ln 2) of them. Like that of a latent this is a unit, not a
theorem. Channels that hardly vary count little: no v_c is under `LEAST` of their mean.

C is solved for on the start's crops, so that the term begins as what no 1x1 convolution can make of
the student's features; it is then trained with the student and thrown away after.

Hints from inside a network are from FitNets (Romero et al. 2015, arXiv 1412.6550).
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from kdbench.codecs.regression import solve_conv
from kdbench.errors import TrainingError

TRANSFORMS = ("g_a.", "g_s.")
BITS_PER_VARIANCE = 1 / (2 * math.log(2))
LEAST = 1e-2


def is_shared(name: str, layer: str | None = None) -> bool:
    """Whether a teacher's levels share its output `name`.

    They share the latent before the gain, and the features of a `layer` of g_a.
    """
    return name == "y" or (name == "features" and str(layer).startswith("g_a."))


class Tap:
    """What a layer of a model made last."""

    def __init__(self) -> None:
        self._heard: Tensor | None = None

    def hear(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """A forward hook."""
        self._heard = output.clone()  # what comes next may work in place

    @property
    def features(self) -> Tensor:
        """(B, C, h, w) fp32.

        Raises:
            TrainingError: The layer was never asked for anything.
        """
        if self._heard is None:
            raise TrainingError(
                "the layer of the feature term takes no part in a forward pass",
                fix="name another one in `distillation.feature_layer`",
            )
        return self._heard.float()


@contextmanager
def tapped(name: str, model: nn.Module, layer: str) -> Iterator[Tap]:
    """Inside, the tap hears `layer` of `model`, which is called `name` where it has none.

    Raises:
        TrainingError: It has no such layer; lists those it has.
    """
    modules = dict(model.named_modules())
    known = [each for each in modules if each.startswith(TRANSFORMS) and "reparam" not in each]
    if layer not in known:
        raise TrainingError(
            f"{name} has no layer {layer}",
            fix=f"set `distillation.feature_layer` to one of {', '.join(known)}",
        )
    tap = Tap()
    handle = modules[layer].register_forward_hook(tap.hear)
    try:
        yield tap
    finally:
        handle.remove()


def listening(name: str, model: nn.Module, layer: str | None) -> AbstractContextManager[Tap | None]:
    """`tapped`, or nothing where there is no layer to hear."""
    return nullcontext() if layer is None else tapped(name, model, layer)


class FeatureTerm(nn.Module):
    """K_f between one student and one teacher."""

    def __init__(self, own: Tensor, theirs: Tensor) -> None:
        """Solves for the connector.

        Args:
            own: The student's features of some hundred crops, (B, C_s, h, w).
            theirs: The teacher's of the same ones, (B, C_t, h, w).

        Raises:
            TrainingError: The maps are not of one size.
        """
        super().__init__()
        if own.shape[-2:] != theirs.shape[-2:]:
            sizes = [f"{maps.shape[-1]}x{maps.shape[-2]}" for maps in (own, theirs)]
            raise TrainingError(
                f"the feature layer of a crop is {sizes[0]} in the student and {sizes[1]} in its "
                "teacher; no 1x1 convolution connects them",
                fix="name a layer in `distillation.feature_layer` that both halve alike",
            )
        self.connector = nn.Conv2d(own.shape[1], theirs.shape[1], 1)
        solve_conv(self.connector, own.float(), theirs.float())
        variance = theirs.float().transpose(0, 1).flatten(1).var(1)
        self.variance: Tensor
        self.register_buffer("variance", variance.clamp(min=LEAST * float(variance.mean())))

    def forward(self, own: Tensor, theirs: Tensor, pixels: int) -> Tensor:
        """K_f [bit/px] of features (B, C_s, h, w) and (B, C_t, h, w) of crops of `pixels`."""
        squared = (self.connector(own) - theirs).square() / self.variance[:, None, None]
        summed: Tensor = squared.sum()
        return BITS_PER_VARIANCE * summed / own.shape[0] / pixels
