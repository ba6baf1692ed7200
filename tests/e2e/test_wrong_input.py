"""Every wrong input is answered with its problem and its fix, and nothing is lost.

The rows are in `tests/e2e/rows`: what is broken, the command that meets it, the answer word for
word. Each runs in a fresh working folder (`tests/support/desk.py`), most of them in this process,
since a table of subprocesses would take minutes.
"""

import errno
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from kdbench import cli, lesson
from kdbench.store import Store
from tests.e2e.rows import (
    codecs,
    dashboards,
    families,
    packages,
    paper,
    photos,
    recipes,
    reports,
    searches,
    stores,
    targets,
    teachers,
    words,
)
from tests.e2e.rows.photos import MIXED, fill
from tests.e2e.rows.row import Row
from tests.e2e.rows.stores import ROOT, SEARCH
from tests.support.desk import make_desk

Capture = pytest.CaptureFixture[str]
ROWS: Mapping[str, Row] = {
    **words.ROWS,
    **recipes.ROWS,
    **photos.ROWS,
    **codecs.ROWS,
    **families.ROWS,
    **packages.ROWS,
    **stores.ROWS,
    **teachers.ROWS,
    **paper.ROWS,
    **searches.ROWS,
    **dashboards.ROWS,
    **reports.ROWS,
    **targets.ROWS,
    **({} if torch.cuda.is_available() else stores.WITHOUT_CUDA),
}
IN_A_PROCESS = (  # of their own, as a user would type them
    "a command that nobody knows",
    "a study that nobody knows",
    "an empty image",
    "a pickle as a study's teacher",
)
FULL = (
    "cannot be written: the disk is full\n  fix: free some space and run the same command again, "
    "what is finished is kept; or name a folder that can be written with `--root FOLDER` or "
    "KDBENCH_ROOT\n"
)
DATABASE_FULL = (
    "the database sqlite:///HERE/disk/quick/optuna.db fails: database or disk is full\n"
    "  fix: free some space and run the same command again: what is finished is kept\n"
)
READ_ONLY = f"cannot be written: the file system is read-only\n{ROOT}"
WILD = (
    "space.training.learning_rate=[1.0e-3,2.0e-3,1.0e+30,1.5e-3,3.0e-3]"  # the middle comes first
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_desk(folder)
    return folder


@pytest.fixture
def here(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the desk, to work in and to break."""
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    for name in ("KDBENCH_ROOT", "KDBENCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    forget_photos()
    yield folder
    forget_photos()


def forget_photos() -> None:
    """This process remembers photos and teachers by names that are relative to the desk."""
    lesson.study_photos.cache_clear()
    lesson._teachers.cache_clear()


def in_this_process(command: str, capsys: Capture) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    capsys.readouterr()
    try:
        code = cli.main(shlex.split(command))
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return code, *capsys.readouterr()


def in_its_own(
    command: str, *, before: tuple[str, ...] = (), **environment: str
) -> tuple[int, str, str]:
    """The same in a process of its own."""
    run = subprocess.run(
        [*before, sys.executable, "-m", "kdbench", *shlex.split(command)],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return run.returncode, run.stdout, run.stderr


def content(folder: Path) -> dict[str, str]:
    """Every file of the desk by its SHA-256; locks and what Optuna writes in its files apart."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".db")
    }


def assert_answers(said: str, answer: str, folder: Path) -> None:
    """Word for word, but for `[...]`."""
    pattern = ".+".join(map(re.escape, answer.split("[...]")))
    assert re.fullmatch(pattern, said.replace(str(folder), "HERE")), f"{said}\nis not\n{answer}"


def assert_is_answer(row: Row, ended: tuple[int, str, str], folder: Path) -> None:
    code, out, err = ended
    said, silent = (out, err) if row.stream == "out" else (err, out)
    assert_answers(said, row.answer, folder)
    assert (code, silent) == (row.code, "")
    assert "Traceback" not in said


# --- the table -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_input_is_answered_with_its_problem_and_its_fix_and_nothing_is_lost(
    name: str, here: Path, capsys: Capture
) -> None:
    row = ROWS[name]
    row.broken(here)
    forget_photos()
    before = content(here)
    assert_is_answer(row, in_this_process(row.command, capsys), here)
    assert before.items() <= content(here).items()
    assert not (here / "unpickled").exists()


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_the_answer_is_the_same_in_a_process_of_its_own(name: str, here: Path) -> None:
    row = ROWS[name]
    row.broken(here)
    assert_is_answer(row, in_its_own(row.command), here)


def test_every_row_names_a_fix() -> None:
    for name, row in ROWS.items():
        assert "\n  fix: " in row.answer or row.stream == "out", name


# --- photos of every kind in one folder ------------------------------------------------------


def test_usable_photos_are_used_and_the_others_are_named_and_counted(
    here: Path, capsys: Capture
) -> None:
    fill(here, MIXED)
    code, out, err = in_this_process("bench jpeg --no-energy --images mine", capsys)
    assert (code, err) == (0, "")
    assert out.startswith("jpeg on 6 photos, real bitstreams\n")
    assert " ".join(out.split()).endswith(
        "6 skipped: cut.png (cannot be read: image file is truncated); empty.png (empty file); "
        "grey16.png (more than 8 bits a sample); moving.gif (animated or of several pages "
        "(2 frames)); print.jpg (CMYK, whose colours need a print profile); seen_through.png "
        "(transparent pixels, and nothing says what lies behind)"
    )


# --- disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, FULL),
        (errno.EROFS, READ_ONLY),
        (errno.EACCES, f"cannot be written: permission denied\n{ROOT}"),
        (errno.EIO, f"cannot be written: input/output error\n{ROOT}"),
    ],
)
def test_a_disk_that_refuses_is_told(
    number: int, answer: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The error is patched in: root may write everywhere, and a quota needs a mount option."""

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    row = Row(command=SEARCH, answer=f"HERE/runs {answer}")
    assert_is_answer(row, in_this_process(row.command, capsys), here)


def mounted(options: str) -> tuple[str, ...]:
    """What runs a command with a real little disk at ./disk, seen by that command alone.

    Skips where this user may not mount.
    """
    script = f'mkdir -p disk && mount -t tmpfs -o {options} none disk && exec "$@"'
    alone = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "-r")
    before = (*alone, "sh", "-c", script, "sh")
    if not shutil.which("unshare") or subprocess.run([*before, "true"], check=False).returncode:
        pytest.skip("this user may not mount a disk; the patched errors above stand for it")
    return before


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("size=64k,ro", f"HERE/disk {READ_ONLY}"),
        ("size=4k", f"HERE/disk {FULL}"),
        ("size=40k", DATABASE_FULL),
    ],
)
def test_a_real_disk_that_is_full_or_read_only_is_told(
    options: str, answer: str, here: Path
) -> None:
    row = Row(command=f"{SEARCH} --root disk", answer=answer)
    assert_is_answer(row, in_its_own(row.command, before=mounted(options)), here)


# --- a loss that becomes NaN -----------------------------------------------------------------


@pytest.mark.slow
def test_a_loss_that_becomes_nan_fails_its_trial_with_its_step_and_the_study_goes_on(
    here: Path, capsys: Capture
) -> None:
    code, out, err = in_this_process(f"{SEARCH} --trials 1 --set '{WILD}'", capsys)
    assert (code, err) == (0, "")
    assert out.startswith("study quick: 1 on the front of 1 complete trial (")
    trials = Store(here / "runs").trials("quick")
    wild = [trial for trial in trials if trial.spec.training.learning_rate > 1]
    assert wild[0].number == 0
    assert trials[-1].state == "complete"
    for trial in wild:
        assert trial.state == "failed"
        assert re.fullmatch(r"the loss became (nan|inf) at step \d+ of 40", trial.reason or "")
        assert trial.folder.spec.is_file()
