"""Commands start in a blink: what they must not load, and how long `--help` may take."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.results import STUDY, make_study

HEAVY = {"torch", "compressai", "optuna", "matplotlib", "bjontegaard", "codecarbon", "scipy"}
HEAVY |= {"plotly", "optuna_dashboard", "bottle"}
LISTED = "modules loaded: "
SCRIPT = f"""
import sys
from kdbench.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code
print("{LISTED}" + " ".join(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def loaded(arguments: Sequence[str]) -> set[str]:
    """Modules in memory after one command that did what it should."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    lists = [line for line in run.stderr.splitlines() if line.startswith(LISTED)]
    assert lists, run.stderr
    assert run.stdout, run.stderr
    return set(lists[0].removeprefix(LISTED).split())


def test_help_loads_nothing_but_kdbench() -> None:
    found = loaded(["--help"])
    assert not found & (HEAVY | {"pydantic", "numpy", "yaml", "rich", "PIL"})


def test_check_loads_no_machine_learning() -> None:
    assert not loaded(["check"]) & HEAVY


@pytest.mark.parametrize("more", [[], ["--all"], ["--json"]])
def test_show_loads_no_machine_learning(tmp_path: Path, more: list[str]) -> None:
    make_study(tmp_path)
    found = loaded(["show", "--study", STUDY, "--root", str(tmp_path), *more])
    assert not found & (HEAVY | OF_SEARCHES)
    assert "pydantic" in found  # else this test would look at nothing


OF_SEARCHES = {"yaml", "kdbench.energy", "kdbench.tabular"}
MODELS = {"torch", "compressai", "optuna", "sqlalchemy", "codecarbon", "bjontegaard"}


@pytest.mark.parametrize("kind", ["text", "json", "csv", "html", "markdown", "latex", "svg"])
def test_report_loads_no_machine_learning_and_draws_beside(tmp_path: Path, kind: str) -> None:
    make_study(tmp_path)
    command = ["report", "--study", STUDY, "--root", str(tmp_path), "--format", kind]
    found = loaded([*command, "--out", str(tmp_path / "out")])
    assert not found & (MODELS | OF_SEARCHES)
    assert "matplotlib" not in found
    if kind in ("text", "json", "csv"):
        assert not found & {"plotly", "scipy"}


def test_help_takes_half_a_second_at_most() -> None:
    took_s = []
    for _ in range(3):  # the best of three: other work on this machine is not our fault
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kdbench", "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
        took_s.append(time.perf_counter() - began)
    assert min(took_s) <= 0.5
