"""One YAML file: what it holds, on which line each key stands, what is wrong with it.

YAML is read as JSON's superset (YAML 1.2): `1e-3` is a number, `yes` and `2026-11-23` are text,
a key that is there twice is a problem. Nothing raises: problems are collected, so that a user
sees all of them at once. What a file may ask for is bounded: its bytes, its depth, and the values
that it has after aliases were followed.
"""

import json
import re
import stat
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Key = tuple[str | int, ...]
_MAX_DEPTH = 20
_MAX_BYTES = 1 << 20  # the largest recipe that came with kdbench has 4 kB
_MAX_VALUES = 100_000  # nine aliases of nine aliases of nine ... are a billion
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule and its place.

    Attributes:
        file: Path of the file, or `--set` for an override.
        line: Line in it, counted from 1; None where the file has none for this.
        key: Dotted key, empty for the file as a whole.
        value: What was found, as JSON; None where nothing was.
    """

    file: str
    line: int | None
    key: str
    value: str | None
    rule: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        got = None if self.value is None else f"got {self.value}; {self.rule}"
        return ": ".join(part for part in (place, self.key, got or self.rule) if part)


class Place(NamedTuple):
    """Where a key was written."""

    file: str
    line: int | None = None
    drop: int = 0  # leading parts of the key that the file does not have


@dataclass(slots=True)
class Recipe:
    """The tree of one file, the place of every key, and what is wrong so far."""

    tree: Any
    places: dict[Key, Place]
    problems: list[Problem] = field(default_factory=list)
    known_wrong: set[Key] = field(default_factory=set)  # reported; what lies below is no news

    @property
    def unread(self) -> bool:
        """Whether nothing could be read."""
        return () in self.known_wrong

    def report(self, key: Key, rule: str, *, value: object = ...) -> None:
        """Add a problem; `value` is shown where it is given."""
        place = next(p for i in range(len(key), -1, -1) if (p := self.places.get(key[:i])))
        shown = None if value is ... else show(value)
        dotted = ".".join(map(str, key[place.drop :]))
        self.problems.append(Problem(place.file, place.line, dotted, shown, rule))

    def graft(self, key: str, other: "Recipe") -> None:
        """Put the tree of another file under `key`; its problems keep their own places."""
        self._set((key,), other.tree, Place(next(iter(other.places.values())).file, drop=1))
        for path, place in other.places.items():
            self.places[(key, *path)] = place._replace(drop=1)
        self.known_wrong |= {(key, *path) for path in other.known_wrong}
        self.problems += other.problems

    def override(self, text: str) -> None:
        """Apply one `key.path=value`; the value is YAML."""
        path, equals, value_text = text.partition("=")
        key: Key = tuple(path.strip().split("."))
        place = Place("--set")
        if not equals or not all(key) or len(key) > _MAX_DEPTH:
            self.problems.append(
                Problem("--set", None, "", show(text), "must read key=value or key.path=value")
            )
            return
        value = read_text(value_text, "--set", empty=None)
        if value.problems:
            rule = value.problems[0].rule
            self.problems.append(Problem("--set", None, path, show(value_text), rule))
            return
        self._set(key, value.tree, place)

    def _set(self, key: Key, value: Any, place: Place) -> None:
        node = self.tree
        for i, part in enumerate(key[:-1], start=1):
            if part not in node:
                node[part] = {}
                self.places[key[:i]] = place
            node = node[part]
            if not isinstance(node, dict):
                self.places[key] = place
                self.report(key, f"{'.'.join(map(str, key[:i]))} has no keys; set it whole")
                return
        node[key[-1]] = value
        for old in [old for old in self.places if old[: len(key)] == key]:
            del self.places[old]
        self.places[key] = place


def show(value: object) -> str:
    """`value` as JSON, shortened to 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- reading ---------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars; PyYAML alone reads `1e-3` as text, `010` as 8, `1:30` as 90."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|", "~n"),
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)(e[-+]?[0-9]+)?|[0-9]+e[-+]?[0-9]+|\.inf)|\.nan",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$", re.IGNORECASE),
        [*_first, *_first.upper(), *([""] if _tag == "null" else [])],
    )


def read(path: Path) -> Recipe:
    """The mapping in one file; what is wrong with it is in `problems`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(0, "it is no file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise OSError(0, f"it has more than {_MAX_BYTES / 2**20:g} MiB")
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is not UTF-8 text"
        problem = Problem(str(path), None, "", None, f"cannot be read: {why}")
        return Recipe({}, {(): Place(str(path))}, [problem], {()})
    recipe = read_text(text, str(path), empty={})
    if not isinstance(recipe.tree, dict):
        recipe.report((), "must be a mapping of keys", value=recipe.tree)
        recipe.tree = {}
        recipe.known_wrong.add(())
    return recipe


def read_text(text: str, file: str, *, empty: Any) -> Recipe:
    """The tree in `text`, with the line of every key; `empty` where there is nothing."""
    recipe = Recipe(empty, {(): Place(file)})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            recipe.tree = _construct(loader, node, (), recipe, count(1))
    except RecursionError:
        problem = Problem(file, None, "", None, "is not YAML: nested too deep")
        return Recipe(empty, {(): Place(file)}, [problem], {()})
    except (yaml.YAMLError, ValueError) as err:
        mark = getattr(err, "problem_mark", None)
        why = getattr(err, "problem", None) or str(err).splitlines()[0]
        line = None if mark is None else mark.line + 1
        problem = Problem(file, line, "", None, f"is not YAML: {why}")
        return Recipe(empty, {(): Place(file)}, [problem], {()})
    return recipe


def _construct(
    loader: _Loader, node: yaml.Node, key: Key, recipe: Recipe, values: "count[int]"
) -> Any:
    _require_plain(node, key, next(values))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, n, (*key, i), recipe, values) for i, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        value = loader.construct_object(node)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise yaml.constructor.ConstructorError(
                problem="only text, numbers, true, false and null may be values",
                problem_mark=node.start_mark,
            )
        return value
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        path = (*key, str(key_node.value))
        first = recipe.places.get(path)
        recipe.places[path] = Place(recipe.places[()].file, key_node.start_mark.line + 1)
        if first is not None:
            recipe.report(path, f"is there twice, first on line {first.line}")
        tree[str(key_node.value)] = _construct(loader, value_node, path, recipe, values)
    return tree


def _require_plain(node: yaml.Node, key: Key, n_values: int) -> None:
    """Raises YAMLError for what no recipe needs: great depth, many values, tags."""
    problem = None
    if len(key) > _MAX_DEPTH:
        problem = "nested too deep"
    elif n_values > _MAX_VALUES:
        problem = f"more than {_MAX_VALUES} values, aliases followed"
    elif isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
        problem = f"tags have no meaning here: {node.tag}"
    if problem is not None:
        raise yaml.composer.ComposerError(problem=problem, problem_mark=node.start_mark)
