"""Laws about the files themselves: what no other gate looks at."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kdbench import __version__

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    p
    for part in ("kdbench", "tests", "benchmarks", "examples")
    for p in (ROOT / part).rglob("*.py")
)
TEXTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]
    + [p for part in ("studies", "search_spaces") for p in (ROOT / part).glob("*.yaml")]
    + [p for kind in ("*.yaml", "*.md", "*.toml") for p in (ROOT / "examples").rglob(kind)]
)
BROAD = {
    "kdbench/cli.py": 1,
    "kdbench/search/task.py": 1,
}  # the last door; a trial must not end a study
ELSEWHERE = re.compile("/" + r"work/|\.\./" + "shared")  # where kdbench was written
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cases_of(path: Path) -> Iterator[str]:
    """Every `def test_*` of a file, methods and decorated ones too, but none inside a function."""
    bodies = [ast.parse(path.read_text()).body]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.ClassDef):
                bodies.append(node.body)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name


def written() -> Counter[tuple[str, str]]:
    """How often each test was written, by file and name."""
    files = [path for path in MODULES if name(path).startswith("tests/")]
    return Counter((name(path), test) for path in files for test in cases_of(path))


def test_every_test_that_is_written_is_collected() -> None:
    """A test under a fixture's decorator or in a misnamed class or file never runs, silently."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", ""]
    command += ["-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    nodes = [line.split("::") for line in run.stdout.splitlines() if "::" in line]
    collected = {(node[0], node[-1].partition("[")[0]) for node in nodes}
    assert len(collected) > 500
    assert written().keys() - collected == set()


def test_no_test_hides_another_of_the_same_name() -> None:
    assert [test for test, n in written().items() if n > 1] == []


def test_a_file_of_tests_has_tests() -> None:
    files = [path for path in MODULES if path.name.startswith("test_")]
    assert [name(path) for path in files if not list(cases_of(path))] == []


def test_every_module_says_in_a_sentence_what_it_is() -> None:
    silent = [
        name(path)
        for path in MODULES
        if (text := path.read_text()) or path.name != "__init__.py"
        if not (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].endswith((".", ":"))
    ]
    assert silent == []


def test_no_file_names_the_machine_it_was_written_on() -> None:
    assert [name(p) for p in (*MODULES, *TEXTS) if ELSEWHERE.search(p.read_text())] == []


def test_every_exception_is_caught_in_two_places_only() -> None:
    found = {
        name(p): p.read_text().count("except Exception") for p in MODULES if "kdbench" in p.parts
    }
    assert {path: n for path, n in found.items() if n} == BROAD


def test_every_package_travels_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {name(p.parent).replace("/", ".") for p in (ROOT / "kdbench").rglob("__init__.py")}
    assert set(listed) == packages | {"kdbench.studies", "kdbench.search_spaces"}


def test_readme_names_every_module_and_folder_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text()
    entries = [p for p in (ROOT / "kdbench").iterdir() if not p.name.startswith(("_", "."))]
    names = [f"{p.name}/" if p.is_dir() else p.name for p in entries]
    assert [entry for entry in sorted(names) if entry not in readme] == []


def test_every_link_in_the_documents_leads_somewhere() -> None:
    links = [(p, link) for p in TEXTS if p.suffix == ".md" for link in LINK.findall(p.read_text())]
    assert links
    assert [f"{name(p)}: {to}" for p, to in links if not (p.parent / to).exists()] == []


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == __version__
