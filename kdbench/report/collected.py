"""What `collect` prints: what came, what did not, and where database and folders disagree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kdbench.report.text import table, wrapped

AGREE = "database and folders agree"
FIX = (
    "a folder that only the database has comes with `kdbench collect`; one that is wrong is moved "
    "away and collected again; a database that lost trials is restored from a copy"
)


class Disagreement(Protocol):
    """Something that database and folders do not say alike."""

    @property
    def trial(self) -> int | None: ...
    @property
    def storage(self) -> str: ...
    @property
    def folder(self) -> str: ...


class Collected(Protocol):
    """What came, by the numbers of trials."""

    @property
    def study(self) -> str: ...
    @property
    def root(self) -> Path: ...
    @property
    def new(self) -> list[int]: ...
    @property
    def completed(self) -> list[int]: ...
    @property
    def n_known(self) -> int: ...
    @property
    def problems(self) -> Sequence[Disagreement]: ...


def collected_text(done: Collected, width: int) -> str:
    """A line of what came, then what did not."""
    line = f"study {done.study}: {_n(len(done.new), 'trial')} collected into {done.root}"
    if done.completed:
        line += f", files added to {_n(len(done.completed), 'trial')}"
    if done.n_known:
        line += f", {done.n_known} here already"
    return wrapped("", line, width, indent=0) + "\n" + _problems(done.problems, width)


def collected_json(done: Collected) -> dict[str, Any]:
    """The same for programs."""
    return {
        "study": done.study,
        "root": str(done.root),
        "new": done.new,
        "completed": done.completed,
        "n_known": done.n_known,
        "problems": [_json(each) for each in done.problems],
    }


def check_text(study: str, problems: Sequence[Disagreement], width: int) -> str:
    """A row for each disagreement."""
    return _problems(problems, width) or f"study {study}: {AGREE}\n"


def check_json(study: str, problems: Sequence[Disagreement]) -> dict[str, Any]:
    """The same for programs."""
    return {"study": study, "problems": [_json(each) for each in problems]}


def _problems(problems: Sequence[Disagreement], width: int) -> str:
    if not problems:
        return ""
    rows = [
        ["study" if each.trial is None else str(each.trial), each.storage, each.folder]
        for each in problems
    ]
    told = table(["trial", "database", "folder"], rows)
    return f"{told}\n\n{wrapped('fix:', FIX, width, indent=5)}\n"


def _json(each: Disagreement) -> dict[str, Any]:
    return {"trial": each.trial, "database": each.storage, "folder": each.folder}


def _n(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
