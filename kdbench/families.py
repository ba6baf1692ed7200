"""Codec families that other packages bring: entry points of the group `kdbench.codecs`.

    [project.entry-points."kdbench.codecs"]
    elic = "kdbench_elic:FAMILY"

A space has students of it where it says

    codec: {family: elic, width: [16, 24, 32], latent: 96}

in the place of `encoder`, `decoder`, `hyper` and `latent`. Behind the entry point is a `Family`. It
is loaded to read a space, so its module should import torch inside its functions. What is asked
of its models is `codecs.learned.LearnedCodec`; `kdbench check --codec NAME` tries it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from kdbench import plugins
from kdbench.errors import CodecError
from kdbench.parameters import Reader
from kdbench.records import FamilyCodec, Offer

if TYPE_CHECKING:  # a space is read without torch
    from torch import Tensor, nn

Axis = Reader  # how one axis is written in a space, and which values it may have
Value = int | float | str
Values = Mapping[str, Value]  # of every axis
Part = Literal["g_a", "h_a", "h_s", "g_s", "entropy_model"]
PARTS: tuple[Part, ...] = get_args(Part)
_OWN_KEY = "family"  # of the space's section, so no axis


def whole_number(low: int, high: int) -> Axis:
    """An axis of whole numbers, both ends included."""
    return Axis(int, lambda n: low <= n <= high, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Axis:
    """An axis of numbers, both ends included."""
    return Axis(float, lambda x: low <= x <= high, f"a number from {low:g} to {high:g}")


def one_of(*names: str) -> Axis:
    """An axis of names."""
    return Axis(str, lambda name: name in names, f"one of {', '.join(names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a package says of its codecs.

    Attributes:
        axes: What may vary, by name; `whole_number`, `number` and `one_of` make them.
        example: A value of every axis, of a small codec: what `kdbench check --codec` tries.
        offer: What the codec of these values has for the distillation terms. A `prior` only where
            its Gaussians may be compared with a teacher's, channel by channel.
        build: The codec of these values with so many levels, with random weights: a
            `codecs.learned.LearnedCodec`.
        start: Sets a fresh codec to what training begins from, in place, given some dozen crops
            (B, 3, H, W) in [0, 1] and the rd_lambda of each level. An rd_lambda is that of the MSE,
            whatever the distortion.
        parts: The part of each child of the codec by its name, for the split of the
            multiply-accumulates. What a decoder computes to predict latents is `h_s`: a context
            model, too. `g_a`, `h_a`, `h_s` and `g_s` are g_a and g_s under these very names.
    """

    axes: Mapping[str, Axis]
    example: Values
    offer: Callable[[Values], Offer]
    build: "Callable[[Values, int], nn.Module]"
    start: "Callable[[Any, Tensor, Sequence[float]], None]"
    parts: Mapping[str, Part]

    def codec(self, name: str, values: Values) -> FamilyCodec:
        """The record of one codec of the family, which is called `name`."""
        return FamilyCodec(family=name, axes=dict(values), offer=self.offer(values))


def find(name: str) -> Family:
    """The family called `name`.

    Raises:
        CodecError: No installed package brings it, it cannot be imported, or it is no family.
    """
    found = plugins.load(name, plugins.CODECS)
    problem = "is no kdbench.families.Family" if not isinstance(found, Family) else _wrong(found)
    if problem is None:
        return found  # type: ignore[no-any-return]
    raise CodecError(
        f"codec family {name} ({plugins.find(name, plugins.CODECS).value}) {problem}",
        fix="repair or update the package that brings it; see kdbench/families.py",
    )


def _wrong(family: Family) -> str | None:
    """What is wrong with what it says of itself."""
    if not family.axes or _OWN_KEY in family.axes:
        return f"must have at least one axis, none of them called {_OWN_KEY}"
    if odd := [name for name, axis in family.axes.items() if not isinstance(axis, Axis)]:
        return f"has an axis {odd[0]} that is none of whole_number, number and one_of"
    if family.example.keys() != family.axes.keys():
        return f"must have an example value of each axis: {', '.join(family.axes)}"
    if odd := [name for name, part in family.parts.items() if part not in PARTS]:
        return f"has {odd[0]} in the part {family.parts[odd[0]]!r}; there are {', '.join(PARTS)}"
    if missing := [name for name in ("g_a", "g_s") if family.parts.get(name) != name]:
        return f"must have {missing[0]} in the part {missing[0]}"
    return None
