"""Study and space files by name: where they are, and what makes one valid.

A recipe is one YAML file with a name. Validation collects every problem before anything is raised.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdbench.errors import ConfigError
from kdbench.names import nearest_first
from kdbench.yamlfile import Key, Problem, Recipe, show

T = TypeVar("T")
Kind = Literal["studies", "search_spaces"]
Rule = Callable[[Any], str | None]  # the rule a value breaks, None if it breaks none

STRICT = ConfigDict(strict=True, extra="forbid")  # no text to number, no unknown key
_PACKAGE = Path(__file__).parent


def fail(problems: Sequence[Problem]) -> NoReturn:
    """Raise one ConfigError that lists all of `problems`."""
    head = "" if len(problems) == 1 else f"{len(problems)} problems:\n  "
    raise ConfigError(
        head + "\n  ".join(map(str, problems)),
        fix="correct what is listed; `kdbench check` reads every study and space file again",
    )


# --- where the files are ---------------------------------------------------------------------


def folders(kind: Kind) -> tuple[Path, ...]:
    """Where files of one kind are looked for: the working folder, then what came with kdbench."""
    packaged = _PACKAGE / kind  # in a wheel; a source tree has them beside the package
    return Path(kind), packaged if packaged.is_dir() else _PACKAGE.parent / kind


def known(kind: Kind) -> dict[str, Path]:
    """Every file of one kind by name; one in the working folder wins."""
    found: dict[str, Path] = {}
    for folder in folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(kind: Kind, name_or_path: str | Path) -> Path:
    """The file called `name_or_path`.

    Raises:
        ConfigError: No such file; lists the known names, nearest first.
    """
    name, files = str(name_or_path), known(kind)
    if name in files:
        return files[name]
    if is_path(name_or_path) and Path(name).is_file():
        return Path(name)
    noun = {"studies": "study", "search_spaces": "search space"}[kind]
    near = ", ".join(nearest_first(Path(name).stem, list(files))) or "none"
    raise ConfigError(
        f"there is no {noun} {show(name)}",
        fix=f"known here, nearest first: {near}; or give the path of a .yaml file",
    )


def is_path(name_or_path: str | Path) -> bool:
    """Whether this means a file rather than a name."""
    text = str(name_or_path)
    return "/" in text or text.endswith((".yaml", ".yml"))


# --- validation ------------------------------------------------------------------------------


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Strict reader and writer of a tuple of one dataclass; a bare one would take no config."""
    return TypeAdapter(tuple[kind], config=STRICT)


def validate(
    recipe: Recipe,
    kind: type[T],
    rules: Mapping[str, Rule],
    incomplete: Callable[[Any], Sequence[tuple[Key, str]]] = lambda tree: (),
) -> T | None:
    """The recipe as a `kind`, or None; every broken type and value rule joins its `problems`.

    Args:
        recipe: What was read.
        kind: A dataclass; its fields say which keys there are and their types.
        rules: By dotted key, what a value of the right type must also fulfil.
        incomplete: Of the tree, keys that are missing or too many where others stand, and why.
    """
    wrong = list(recipe.known_wrong)
    made: T | None = None
    try:
        # JSON mode: lists become tuples and mappings dataclasses, and nothing else is converted
        (made,) = adapter(typing.cast(Any, kind)).validate_json(json.dumps([recipe.tree]))
    except ValidationError as err:
        for error in err.errors():
            key: Key = error["loc"][1:]
            if not any(key[: len(bad)] == bad for bad in recipe.known_wrong):
                _report(recipe, kind, key, error)
            wrong.append(key)
    for key, rule in incomplete(recipe.tree):
        if not any(key[: len(bad)] == bad for bad in recipe.known_wrong):
            recipe.report(key, rule)
            wrong.append(key)
            made = None
    for dotted, broken_rule in rules.items():
        key = tuple(dotted.split("."))
        if any(key[: len(bad)] == bad or bad[: len(key)] == key for bad in wrong):
            continue
        value = _value(recipe.tree, key)
        if value is not None and (broken := broken_rule(value)):
            recipe.report(key, broken, value=value)
            made = None
    return made


def _value(tree: Any, key: Key) -> Any:
    for part in key:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def _report(recipe: Recipe, kind: type, key: Key, error: Mapping[str, Any]) -> None:
    what, ctx = error["type"], error.get("ctx", {})
    if what == "missing":
        recipe.report(key, "is missing")
    elif what == "unexpected_keyword_argument":
        recipe.report(key, f"no such key; {_suggest(str(key[-1]), _keys(kind, key[:-1]))}")
    elif what == "dataclass_type":
        keys = ", ".join(_keys(kind, key))
        recipe.report(key, f"must be a mapping with keys of: {keys}", value=error["input"])
    elif what == "literal_error":
        names = nearest_first(str(error["input"]), re.findall("'(.*?)'", ctx["expected"]))
        recipe.report(key, f"must be one of: {', '.join(names)}", value=error["input"])
    else:
        rule = ctx.get("rule") or _WORDS.get(what) or error["msg"]
        recipe.report(key, rule, value=error["input"])


def _suggest(word: str, keys: Sequence[str]) -> str:
    near = get_close_matches(word, keys, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(keys)}"


def _keys(kind: Any, key: Key) -> list[str]:
    """Names of the fields of the dataclass at `key` below the dataclass `kind`."""
    for part in key:
        hint = typing.get_type_hints(kind).get(str(part))
        options = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kind = next(option for option in options if dataclasses.is_dataclass(option))
    return [f.name for f in dataclasses.fields(kind)]


# --- value rules -----------------------------------------------------------------------------


def at_least(low: int) -> Rule:
    """A rule: not below `low`."""
    return lambda value: None if value >= low else f"must be at least {low}"


def above_zero(value: float) -> str | None:
    """A rule: a positive, finite number."""
    return None if 0 < value < float("inf") else "must be above 0"
