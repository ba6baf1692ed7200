"""What other packages bring, by entry points: teachers, codec families, metrics.

    [project.entry-points."kdbench.teachers"]
    mine = "my_package.codecs:teachers"

A space names that teacher `plugin:mine`. `teachers()` is called without arguments and returns a
mapping from rd_lambda to a model trained for it; `foreign` says what is asked of a model. What is
behind the other two groups is said by `families` and `metrics`.
"""

from importlib import metadata
from typing import Any

from kdbench.errors import CodecError
from kdbench.names import nearest_first

KIND = "plugin:"
GROUP = "kdbench.teachers"
CODECS = "kdbench.codecs"
METRICS = "kdbench.metrics"
_NOUNS = {GROUP: "a teacher", CODECS: "a codec family", METRICS: "a metric"}
FAILURES = (  # of somebody else's code
    *(ImportError, OSError, RuntimeError, ValueError, TypeError, SyntaxError, ZeroDivisionError),
    *(KeyError, IndexError, AttributeError, NameError, NotImplementedError, AssertionError),
)


def known(group: str = GROUP) -> dict[str, metadata.EntryPoint]:
    """Everything of `group` that an installed package brings, by name; nothing is imported."""
    return {point.name: point for point in metadata.entry_points(group=group)}


def find(name: str, group: str = GROUP) -> metadata.EntryPoint:
    """The entry point called `name`, of a teacher `plugin:NAME`.

    Raises:
        CodecError: No installed package brings it; names those that are here, nearest first.
    """
    points, wanted = known(group), name.removeprefix(KIND)
    if wanted not in points:
        kind = KIND if group == GROUP else ""
        near = ", ".join(kind + each for each in nearest_first(wanted, list(points)))
        raise CodecError(
            f"no installed package brings {_NOUNS[group]} {wanted!r}",
            fix=f"known, nearest first: {near or 'none'}; a package brings one by an entry point "
            f"of the group {group}",
        )
    return points[wanted]


def load(name: str, group: str) -> Any:
    """The object behind an entry point.

    Raises:
        CodecError: No installed package brings it, or it cannot be imported.
    """
    point = find(name, group)
    try:
        return point.load()
    except FAILURES as why:
        reason = (str(why).splitlines() or ["no reason given"])[0]
        raise CodecError(
            f"{_NOUNS[group].partition(' ')[2]} {name} ({point.value}) cannot be loaded: "
            f"{type(why).__name__}: {reason}",
            fix="repair or update the package that brings it",
        ) from why


def identity(name: str, group: str) -> str:
    """What is behind an entry point: its object, and its package with version where it has one."""
    point = find(name, group)
    package = "" if point.dist is None else f" {point.dist.name} {point.dist.version}"
    return f"{point.value}{package}"
