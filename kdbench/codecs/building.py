"""A learned codec from its architecture, of whichever family."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic_core import PydanticCustomError
from torch import Tensor

from kdbench import families
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import LearnedCodec
from kdbench.errors import CodecError, KdbenchError
from kdbench.families import Family
from kdbench.plugins import FAILURES
from kdbench.records import AnyArchitecture, Architecture, FamilyArchitecture, FamilyCodec

T = TypeVar("T")


def build(architecture: AnyArchitecture) -> LearnedCodec:
    """A fresh codec with random weights.

    Raises:
        CodecError: Of a family that no package here brings, or that builds no such codec.
    """
    if isinstance(architecture, Architecture):
        return Hyperprior(architecture)
    codec = architecture.codec
    family = families.find(codec.family)
    _require_same(codec, family)
    model = guarded(codec, "build", lambda: family.build(codec.axes, architecture.n_levels))
    if not isinstance(model, LearnedCodec):
        raise CodecError(
            f"codec family {codec.family} builds a {type(model).__name__}",
            fix="build a subclass of kdbench.codecs.learned.LearnedCodec",
        )
    model.architecture, model.parts = architecture, family.parts
    return model


def start_family(model: LearnedCodec, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    """Sets a fresh codec of a family to what its training begins from, in place.

    Raises:
        CodecError: Its family cannot.
    """
    architecture: FamilyArchitecture = model.architecture
    family = families.find(architecture.codec.family)
    guarded(architecture.codec, "start", lambda: family.start(model, crops, rd_lambdas))


def guarded(codec: FamilyCodec, what: str, call: Callable[[], T]) -> T:
    """What `call` gives, code of the family of `codec`.

    Raises:
        CodecError: It failed; says whose fault that is.
    """
    try:
        return call()
    except KdbenchError:
        raise
    except FAILURES as why:
        reason = (str(why).splitlines() or ["no reason given"])[0]
        axes = ", ".join(f"{name}={value}" for name, value in codec.axes.items())
        raise CodecError(
            f"codec family {codec.family} cannot {what} the codec of {axes}: "
            f"{type(why).__name__}: {reason}",
            fix=f"leave these values out of the space, or repair the package that brings "
            f"{codec.family}",
        ) from why


def _require_same(codec: FamilyCodec, family: Family) -> None:
    """Raises CodecError where the family that is here does not know `codec` as it was recorded."""
    problem = None
    if family.axes.keys() != codec.axes.keys():
        problem = f"has the axes {', '.join(family.axes)}, not {', '.join(codec.axes)}"
    else:
        for name, value in codec.axes.items():
            try:
                family.axes[name](value)
            except PydanticCustomError:
                problem = f"does not know {name}={value}: it must be {family.axes[name].rule}"
    if problem is None and (offer := family.offer(codec.axes)) != codec.offer:
        problem = f"offers {offer} where the codec was recorded with {codec.offer}"
    if problem is not None:
        raise CodecError(
            f"codec family {codec.family}, as it is installed here, {problem}",
            fix="install the version of its package that the codec was trained with",
        )
