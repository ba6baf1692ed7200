"""One parameter of a search space: a choice, a range, or a fixed value.

In a file a list is a choice, a mapping with `low` and `high` a range, a plain value fixed.
A fixed parameter is never asked for, so that a study of it has one parameter less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import isfinite, sqrt
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from kdbench import hybrid
from kdbench.yamlfile import show

T = TypeVar("T")
NO_TEACHER = "none"


class Suggests(Protocol):
    """The part of an Optuna trial we use; `optuna.trial.FixedTrial` has it too."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = ...) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Generic[T]):
    """One of `values`; with a single value the parameter is fixed."""

    values: tuple[T, ...]

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    def own(self, value: object) -> T | None:
        """The one of them that `value` means, of the right type (0.0 for 0); None if it is none."""
        return next((each for each in self.values if each == value), None)

    @property
    def middle(self) -> T:
        """The value in the middle of the list."""
        return self.values[len(self.values) // 2]

    def sample(self, name: str, trial: Suggests) -> T:
        """One value; the trial is asked only if there are several."""
        if self.fixed:
            return self.values[0]
        value: T = trial.suggest_categorical(name, self.values)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class IntRange:
    """low, low + step, ..., high; both ends included."""

    low: int
    high: int
    step: int = 1

    @property
    def fixed(self) -> bool:
        """Whether both ends are one."""
        return self.low == self.high

    @property
    def values(self) -> tuple[int, ...]:
        """Every value, ascending."""
        return tuple(range(self.low, self.high + 1, self.step))

    def own(self, value: object) -> int | None:
        """`value` if it is one of them."""
        return next((each for each in self.values if each == value), None)

    @property
    def middle(self) -> int:
        """The value in the middle."""
        return self.values[len(self.values) // 2]

    def sample(self, name: str, trial: Suggests) -> int:
        """One value of the range."""
        if self.fixed:
            return self.low
        return trial.suggest_int(name, self.low, self.high, step=self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatRange:
    """Any number from low to high; even in its logarithm with `log`."""

    low: float
    high: float
    log: bool = False

    @property
    def fixed(self) -> bool:
        """Whether both ends are one."""
        return self.low == self.high

    def own(self, value: object) -> float | None:
        """`value` if it is a number of the range."""
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return float(value) if inside else None  # type: ignore[arg-type]

    @property
    def middle(self) -> float:
        """Geometric mean of the ends with `log`, else the arithmetic one."""
        return sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2

    def sample(self, name: str, trial: Suggests) -> float:
        """One value of the range."""
        if self.fixed:
            return self.low
        return trial.suggest_float(name, self.low, self.high, log=self.log)


Parameter = Choice[Any] | IntRange | FloatRange
Ints = Choice[int] | IntRange
Floats = Choice[float] | FloatRange


# --- how a parameter is written in a file ----------------------------------------------------


def _broken(rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _is(number: type, value: object) -> bool:
    wanted = int | float if number is float else number
    return (
        isinstance(value, wanted)
        and not isinstance(value, bool)
        and not (isinstance(value, float) and not isfinite(value))
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one parameter: which type its values have, which of them are allowed.

    Attributes:
        rule: What an allowed value is, in words.
    """

    type: type
    allowed: Callable[[Any], bool]
    rule: str

    def __call__(self, raw: object) -> Parameter:
        """The parameter that a file says.

        Raises:
            PydanticCustomError: The rule that it breaks, as `rule` of its context.
        """
        if isinstance(raw, dict):
            return self._range(raw)
        values = raw if isinstance(raw, list) else [raw]
        if not values:
            raise _broken("the list is empty; give at least one value")
        if not all(_is(self.type, value) and self.allowed(value) for value in values):
            raise _broken(f"{'every value ' if isinstance(raw, list) else ''}must be {self.rule}")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise _broken(f"{show(twice)} is in the list twice")
        try:
            return Choice(values=tuple(map(self.type, values)))
        except OverflowError:  # an integer of more than 308 digits
            raise _broken(f"must be {self.rule}, and less than 1e308") from None

    def _range(self, raw: dict[str, Any]) -> Parameter:
        if self.type is str:
            raise _broken("must be a name or a list of names, not a range")
        kind: type[IntRange | FloatRange] = IntRange if self.type is int else FloatRange
        known = [f.name for f in fields(kind)]
        if unknown := [key for key in raw if key not in known]:
            raise _broken(f"a range has the keys {', '.join(known)}, not {unknown[0]}")
        if missing := [key for key in known[:2] if key not in raw]:
            raise _broken(f"a range needs {missing[0]}")
        low, high = raw["low"], raw["high"]
        if not all(_is(self.type, end) and self.allowed(end) for end in (low, high)):
            raise _broken(f"low and high must be {self.rule}")
        if low > high:
            raise _broken("the range is empty: low is above high")
        if kind is IntRange:
            return self._int_range(low, high, raw.get("step", 1))
        log = raw.get("log", False)
        if not isinstance(log, bool):
            raise _broken("log must be true or false")
        if log and low <= 0:
            raise _broken("a log range needs a low above 0")
        return FloatRange(low=float(low), high=float(high), log=log)

    def _int_range(self, low: int, high: int, step: object) -> IntRange:
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise _broken("step must be a whole number of at least 1")
        if (high - low) % step:
            raise _broken("high must lie a whole number of steps above low")
        made = IntRange(low=low, high=high, step=step)
        if not all(map(self.allowed, made.values)):
            raise _broken(f"every value of the range must be {self.rule}")
        return made


def in_file(parameter: Parameter) -> Any:
    """The parameter as a file says it."""
    if isinstance(parameter, Choice):
        return parameter.values[0] if parameter.fixed else list(parameter.values)
    return {f.name: getattr(parameter, f.name) for f in fields(parameter)}


_write = PlainSerializer(in_file)


def _fixed_boolean(raw: object) -> Choice[bool]:
    """Of a whole space; no trial chooses."""
    if not isinstance(raw, bool):
        raise _broken("must be true or false, one for the whole study")
    return Choice(values=(raw,))


def _is_one_teacher(name: object) -> bool:
    kind, _, rest = name.partition(":") if isinstance(name, str) else ("", "", "")
    return kind in {"teacher", "file", "zoo", "plugin"} and bool(rest)


def _is_teacher(name: str) -> bool:
    if not name.startswith(hybrid.KIND):
        return name == NO_TEACHER or _is_one_teacher(name)
    parts = hybrid.parts(name)
    return {*parts} <= {*hybrid.TERMS} and all(map(_is_one_teacher, parts.values()))


_named_teacher = Reader(
    str, _is_teacher, "teacher:NAME, file:PATH, zoo:MODEL/QUALITY, plugin:NAME or none"
)


def _teacher(raw: object) -> Parameter:
    """Names, and mappings of hybrids."""
    values = raw if isinstance(raw, list) else [raw]
    read = [_hybrid_name(each) if isinstance(each, dict) else each for each in values]
    return _named_teacher(read if isinstance(raw, list) else read[0])


def _hybrid_name(raw: dict[str, Any]) -> str:
    if unknown := [term for term in raw if term not in hybrid.TERMS]:
        raise _broken(f"a hybrid has the keys {', '.join(hybrid.TERMS)}, not {unknown[0]}")
    if not raw:
        raise _broken(f"a hybrid names a teacher for {', '.join(hybrid.TERMS)}, or some of them")
    for term, name in raw.items():
        if not _is_one_teacher(name):
            raise _broken(
                f"{term} of a hybrid must be teacher:NAME, file:PATH, zoo:MODEL/QUALITY or "
                f"plugin:NAME, not {show(name)}"
            )
        if "," in name:
            raise _broken(f"the path in {show(name)} has a comma, which a hybrid cannot name")
    return hybrid.name_of(raw)


_width = Reader(int, lambda n: 1 <= n <= 1024, "a whole number from 1 to 1024")
_kernel = Reader(int, lambda k: k in {3, 5}, "3 or 5")
_activation = Reader(str, lambda name: name in {"gdn", "relu"}, "gdn or relu")
_convolution = Reader(str, lambda name: name in {"full", "separable"}, "full or separable")
_layers = Reader(int, lambda n: n in {2, 4}, "2 or 4")
_stride = Reader(int, lambda s: s in {2, 4, 8}, "2, 4 or 8")
_taper = Reader(int, lambda t: t in {1, 2}, "1 or 2")
_prior = Reader(str, lambda name: name in {"scale", "mean_scale"}, "scale or mean_scale")
_context = Reader(str, lambda name: name in {"none", "checkerboard"}, "none or checkerboard")
_channels = Reader(str, lambda name: name in {"equal", "by_bits"}, "equal or by_bits")
_schedule = Reader(
    str,
    lambda name: name in {"constant", "decaying", "first_half", "staged"},
    "constant, decaying, first_half or staged",
)
_term_schedule = Reader(
    str,
    lambda name: name in {"constant", "decaying", "first_half"},
    "constant, decaying or first_half",
)
_latent_loss = Reader(str, lambda name: name in {"mse", "kl"}, "mse or kl")
_guides = Reader(str, lambda name: name in {"matched", "every"}, "matched or every")
_layer = Reader(
    str,
    lambda name: name.startswith(("g_a.", "g_s.")),
    "the name of a layer of g_a or g_s, such as g_a.5",
)
_weight = Reader(float, lambda w: w >= 0, "a number of at least 0")
_positive = Reader(float, lambda v: v > 0, "a number above 0")

Width = Annotated[Ints, PlainValidator(_width), _write]
OwnWidth = Annotated[
    Ints | None,
    PlainValidator(lambda raw: None if raw is None else _width(raw)),
    PlainSerializer(lambda width: None if width is None else in_file(width)),
]
"""A width that need not be told: None is that of the layers around."""
Kernel = Annotated[Ints, PlainValidator(_kernel), _write]
ActivationName = Annotated[Choice[Literal["gdn", "relu"]], PlainValidator(_activation), _write]
ConvolutionName = Annotated[
    Choice[Literal["full", "separable"]], PlainValidator(_convolution), _write
]
Layers = Annotated[Choice[Literal[2, 4]], PlainValidator(_layers), _write]
Stride = Annotated[Choice[Literal[2, 4, 8]], PlainValidator(_stride), _write]
Taper = Annotated[Choice[Literal[1, 2]], PlainValidator(_taper), _write]
PriorName = Annotated[Choice[Literal["scale", "mean_scale"]], PlainValidator(_prior), _write]
ContextName = Annotated[Choice[Literal["none", "checkerboard"]], PlainValidator(_context), _write]
ChannelWeightsName = Annotated[
    Choice[Literal["equal", "by_bits"]], PlainValidator(_channels), _write
]
ScheduleName = Annotated[
    Choice[Literal["constant", "decaying", "first_half", "staged"]],
    PlainValidator(_schedule),
    _write,
]
LatentLossName = Annotated[Choice[Literal["mse", "kl"]], PlainValidator(_latent_loss), _write]
GuidesName = Annotated[Choice[Literal["matched", "every"]], PlainValidator(_guides), _write]
TermScheduleName = Annotated[
    Choice[Literal["constant", "decaying", "first_half"] | None],
    PlainValidator(lambda raw: Choice(values=(None,)) if raw is None else _term_schedule(raw)),
    _write,
]
LayerName = Annotated[Choice[str], PlainValidator(_layer), _write]
Teacher = Annotated[Choice[str], PlainValidator(_teacher), _write]
FixedBoolean = Annotated[Choice[bool], PlainValidator(_fixed_boolean), _write]
Weight = Annotated[Floats, PlainValidator(_weight), _write]
Positive = Annotated[Floats, PlainValidator(_positive), _write]
