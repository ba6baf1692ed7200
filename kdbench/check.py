"""What `kdbench check` says: every problem of every study and space file, nothing run."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from kdbench import recipes
from kdbench.config import StudyConfig, read_study
from kdbench.names import nearest_first
from kdbench.records import Coordinates
from kdbench.space import SearchSpace, incomplete, read_space
from kdbench.yamlfile import Problem, Recipe, show


def check_files(
    names_or_paths: Iterable[str | Path] = (),
    teacher_coordinates: Mapping[str, Coordinates] | None = None,
) -> list[Problem]:
    """Every problem of these study and space files; of all known ones if none is named.

    Args:
        names_or_paths: Names of studies or spaces, or paths of their files.
        teacher_coordinates: Of the teachers on this machine; where given, teachers and entropy
            terms that no trial could use are problems too.
    """
    named = list(names_or_paths)
    if not named:
        named = [*recipes.known("search_spaces").values(), *recipes.known("studies").values()]
    problems = [p for each in named for p in _check(each, teacher_coordinates)]
    return list(dict.fromkeys(problems))  # a study shares the problems of its space


def _check(
    name_or_path: str | Path, teacher_coordinates: Mapping[str, Coordinates] | None
) -> list[Problem]:
    studies, spaces = recipes.known("studies"), recipes.known("search_spaces")
    name = str(name_or_path)
    paths = [files[name] for files in (studies, spaces) if name in files]
    if not paths and recipes.is_path(name) and Path(name).is_file():
        paths = [Path(name)]
    if not paths:
        near = ", ".join(nearest_first(Path(name).stem, list({**studies, **spaces})))
        rule = f"there is no such study, space or file; known, nearest first: {near}"
        return [Problem("check", None, "", show(name), rule)]
    return [p for path in paths for p in _check_file(path, teacher_coordinates)]


def _check_file(path: Path, teacher_coordinates: Mapping[str, Coordinates] | None) -> list[Problem]:
    recipe, space, prefix = _read(path)
    if space is not None and teacher_coordinates is not None:
        for key, rule in space.unusable(teacher_coordinates):
            recipe.report((*prefix, *key.split(".")), rule)
    return recipe.problems


def _read(path: Path) -> tuple[Recipe, SearchSpace | None, tuple[str, ...]]:
    """The file, its valid space if it has one, and the key under which that space stands."""
    recipe = read_space(path)
    if path.parent.name == "search_spaces" or {"encoder", "decoder", "codec"} & recipe.tree.keys():
        return recipe, recipes.validate(recipe, SearchSpace, {}, incomplete), ()
    study, recipe = read_study(path, ())
    return recipe, study.space if isinstance(study, StudyConfig) else None, ("space",)
