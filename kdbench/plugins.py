"""Teachers that other packages bring: entry points of the group `kdbench.teachers`.

    [project.entry-points."kdbench.teachers"]
    mine = "my_package.codecs:teachers"

A space names it `plugin:mine`. `teachers()` is called without arguments and returns a mapping from
rd_lambda to a model trained for it; `foreign` says what is asked of a model.
"""

from importlib import metadata

from kdbench.errors import CodecError
from kdbench.yamlfile import nearest_first

KIND = "plugin:"
GROUP = "kdbench.teachers"


def known() -> dict[str, metadata.EntryPoint]:
    """Every teacher that an installed package brings, by name; nothing is imported."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def find(name: str) -> metadata.EntryPoint:
    """The entry point of `plugin:NAME`.

    Raises:
        CodecError: No installed package brings it; names those that are here, nearest first.
    """
    points, wanted = known(), name.removeprefix(KIND)
    if wanted not in points:
        near = ", ".join(KIND + each for each in nearest_first(wanted, list(points)))
        raise CodecError(
            f"no installed package brings a teacher {wanted!r}",
            fix=f"known, nearest first: {near or 'none'}; a package brings one by an entry point "
            f"of the group {GROUP}",
        )
    return points[wanted]
