"""The report of a real study, byte for byte; its folder is `tests/golden/study`, see its README.

After a wanted change: `KDBENCH_WRITE_GOLDEN=1 pytest tests/golden/test_report_golden.py`, then read
the diff.
"""

import os
import shutil
from pathlib import Path

import pytest

from kdbench.report.render import folder, printed, subject
from kdbench.store import Store

GOLDEN = Path(__file__).parent
STUDY = "golden"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A copy: nothing may be written beside what is committed."""
    shutil.copytree(GOLDEN / "study", tmp_path / "runs")
    return Store(tmp_path / "runs")


def expect(name: str, text: str) -> None:
    path = GOLDEN / "report" / name
    if os.environ.get("KDBENCH_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_text(store: Store) -> None:
    expect("study.txt", printed(subject(store, STUDY), "text", 100))


def test_markdown(store: Store) -> None:
    files = folder(subject(store, STUDY), "markdown")
    expect("study.md", files["README.md"].decode())
    assert sum(name.endswith(".svg") for name in files) >= 8
    assert sum(name.endswith(".png") for name in files) == 3


def test_it_is_a_real_study_and_small() -> None:
    files = [path for path in (GOLDEN / "study").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    found = Store(GOLDEN / "study").trials(STUDY)
    assert {trial.state for trial in found} >= {"complete", "infeasible"}
