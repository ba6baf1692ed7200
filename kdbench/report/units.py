"""How a figure is written: one function a unit, `-` where there is none."""

from collections.abc import Sequence

from kdbench.records import BDRate

UNKNOWN = "-"


def figure(value: float | None) -> str:
    """Three significant digits: `0.0123`, `12.3`, `1234`; an exponent only under 0.0001."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    text = f"{value:#.3g}"
    return text if "e" in text else text.rstrip(".")


def count(value: float | None) -> str:
    """A number of things: `640`, `266k`, `1.69M`."""
    if value is None:
        return UNKNOWN
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return figure(value / size) + letter
    return f"{value:.0f}"


def percent(value: float | None) -> str:
    """A signed change in percent, one decimal, none from 1000 % on."""
    if value is None:
        return UNKNOWN
    return f"{value:+.0f}" if abs(value) >= 1000 else f"{value:+.1f}"


def interval(low_pct: float | None, high_pct: float | None) -> str:
    """Both ends of an interval: `[+10.1, +14.8]`."""
    if low_pct is None or high_pct is None:
        return "[-, -]"
    return f"[{percent(low_pct)}, {percent(high_pct)}]"


def span(values: Sequence[float], decimals: int) -> str:
    """First and last of ascending values: `0.12-0.61`."""
    if not values:
        return UNKNOWN
    return f"{min(values):.{decimals}f}-{max(values):.{decimals}f}"


def mebibytes(value: int | None) -> str:
    """Bytes as MiB."""
    return UNKNOWN if value is None else figure(value / 2**20)


def duration(seconds: float | None) -> str:
    """`38 s`, `12 min 05 s`, `3 h 07 min`; days count as hours."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def change_pct(value: float | None, reference: float | None) -> float | None:
    """Change of `value` against `reference` [%]; None if either is unknown or the base is 0."""
    if value is None or reference is None or reference == 0:
        return None
    return 100 * (value / reference - 1)


def bd_rate_cell(bd_rate: BDRate | None, between: str) -> str:
    """The figure and its interval; a dash where a single rate makes no curve."""
    if bd_rate is None:
        return UNKNOWN
    return f"{percent(bd_rate.pct)}{between}{interval(bd_rate.low_pct, bd_rate.high_pct)}"
