"""A trainer and a target device, two real processes that share a database and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from kdbench.device import fingerprint
from kdbench.errors import StoreError
from kdbench.search.mailbox import ANSWER, IDENTITY, SEARCH, TARGET, Mailbox
from kdbench.search.storage import connect
from tests.support import processes
from tests.support.board_kdbench import COMMAND
from tests.support.boards import Ina3221Tree
from tests.support.desk import make_desk

pytestmark = pytest.mark.slow
PATIENCE_S = 300.0
BOARD_W = 8.0
TRAINS = {  # no module of these does anything but train, or search
    *("train", "trial", "lesson", "distill", "teacher", "evaluate", "guides", "losses"),
    *("gradients", "average", "soap", "levels", "anchor", "bench", "complexity", "decoder"),
    *("search.worker", "search.task", "search.launch", "search.samplers"),
}
SETTINGS = (
    *("--set", "objectives=[bd_rate_pct,energy_j_per_mpx]"),
    *("--set", "energy={meter: ina3221, window_s: 0.5, windows: 2, require: measured}"),
    *("--set", "target=jetson-1", "--workers", "1"),
)


class Field:
    """A trainer's desk, a board's folder, one database."""

    def __init__(self, desk: Path, board: Path) -> None:
        self.desk, self.board = desk, board
        self.url = f"sqlite:///{desk.parent / 'study.db'}"
        self.tree = Ina3221Tree(board)
        self.tree.set_w({"VDD_IN": BOARD_W})
        shutil.copytree(desk / "photos/evaluation", board / "photos/evaluation")
        self._processes: list[subprocess.Popen[str]] = []
        self._box: Mailbox | None = None

    def search(self, *more: str) -> subprocess.Popen[str]:
        words = (sys.executable, "-m", "kdbench", "search", "--study", "quick", *SETTINGS, *more)
        return self._start(words, self.desk)

    def target(self, cpu: str = "Cortex-A78AE", **environment: str) -> subprocess.Popen[str]:
        words = (*COMMAND, "worker", "--role", "measure", "--study", "quick", "--as", "jetson-1")
        board = {"BOARD_SYS": str(self.tree.root), "BOARD_CPU": cpu, "BOARD_WARM_UP_S": "0.1"}
        return self._start(words, self.board, **board, **environment)

    def show(self, *more: str) -> str:
        words = (sys.executable, "-m", "kdbench", "show", "--study", "quick", *more)
        code, out, err = finish(self._start(words, self.desk))
        assert code == 0, err
        return out

    def letters(self) -> dict[str, Any]:
        """What is in the box; nothing before there is one."""
        try:
            if self._box is None:
                self._box = Mailbox(connect(self.url, create=False), "quick", "jetson-1")
            return self._box.letters()
        except (StoreError, SQLAlchemyError, StorageInternalError):  # not made yet
            return {}

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _start(
        self, words: tuple[str, ...], folder: Path, **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "OMP_NUM_THREADS": "1",
                "KDBENCH_STORAGE": self.url,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def until(condition: Callable[[], bool]) -> None:
    processes.until(condition, PATIENCE_S, 0.2)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_desk(folder)
    return folder


@pytest.fixture
def field(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a lease of their own
    for name in ("KDBENCH_ROOT", "KDBENCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(desk, tmp_path / "desk")
    (tmp_path / "board").mkdir()
    made = Field(tmp_path / "desk", tmp_path / "board")
    yield made
    made.stop()


def test_a_search_minimises_the_energy_of_a_device_that_came_late(field: Field) -> None:
    search = field.search()
    until(lambda: SEARCH in field.letters())
    loaded = field.board / "loaded"
    target = field.target(BOARD_LOADED=str(loaded))
    code, out, err = finish(search)
    assert code == 0, err
    assert "waiting for target 'jetson-1', 600 s at most" in err
    assert "energy\n" not in err
    code, _, said = finish(target)
    assert code == 0, said
    assert said.splitlines()[0].startswith(
        "target 'jetson-1' of study 'quick' measures by ina3221 (the module's input, VDD_IN"
    )
    assert said.endswith("study quick: complete\n")
    assert said.count("\narchitecture") == 2
    assert said.count("\ntrained student") >= 1

    study = json.loads(field.show("--json"))
    for trial in study["trials"]:
        energy = trial["energy"]
        assert (energy["source"], energy["meter"], energy["target"]) == (
            *("sampled", "ina3221"),
            "jetson-1",
        )
        for side in ("encode", "decode"):  # what a constant draw takes in that time
            reading = energy[side]
            assert reading["idle_before_w"] == pytest.approx(BOARD_W, rel=0.3)
            watts = reading["mean_j_per_mpx"] / reading["s_per_mpx"]
            assert watts == pytest.approx(BOARD_W, rel=0.3)
        assert energy["peak_memory_bytes"] > 0
        assert trial["objectives"]["energy_j_per_mpx"] == energy["j_per_mpx"]
        assert (trial["energy_trained"] is not None) is trial["on_front"]
    assert "(sampled," in out
    assert "jetson-1)" in out

    stored = json.loads((field.desk / "runs/quick/study.json").read_text())
    assert stored["fixed"]["target.device.cpu"] == "Cortex-A78AE"
    assert stored["fixed"]["device.cpu"] == fingerprint("cpu", threads=1)["cpu"]
    assert not [
        name for name in loaded.read_text().split() if name.removeprefix("kdbench.") in TRAINS
    ]
    assert "kdbench.cost" in loaded.read_text()  # else this would look at nothing
    assert not (field.board / "runs/quick").exists()


def test_a_target_that_is_killed_while_it_measures_is_followed_by_another(field: Field) -> None:
    search = field.search("--trials", "1", "--set", "energy.window_s=1")
    until(lambda: SEARCH in field.letters())
    first = field.target()
    until(lambda: bool(field.letters().get(TARGET, {}).get("measures")))
    os.kill(first.pid, signal.SIGKILL)
    finish(first)
    assert not [key for key in field.letters() if key.startswith(ANSWER)]
    second = field.target()
    code, _, err = finish(search)
    assert code == 0, err
    assert finish(second)[0] == 0
    assert "jetson-1" in field.show()


def test_a_silent_target_ends_the_search_with_its_name_and_nothing_is_trained_again(
    field: Field,
) -> None:
    patience = ("--set", "target_timeout_s=20")  # the board loads torch meanwhile
    search = field.search("--trials", "1", *patience)
    until(lambda: SEARCH in field.letters())
    target = field.target()
    until(lambda: IDENTITY in field.letters())
    os.kill(target.pid, signal.SIGKILL)
    finish(target)
    code, _, err = finish(search)
    assert code == 1
    assert "target 'jetson-1' has not answered study 'quick' within 20 s" in err
    assert "KDBENCH_STORAGE=URL kdbench worker --role measure --study quick --as jetson-1" in err
    assert "the same command goes on" in err
    trial = field.desk / "runs/quick/trials/0"
    assert (trial / "student.safetensors").exists()  # trained, and only its energy is missing

    other = field.target(cpu="Cortex-A53")
    code, _, said = finish(other)
    assert code == 1
    assert "device.cpu: then Cortex-A78AE, now Cortex-A53" in said

    again = field.search("--trials", "2", "--set", "target_timeout_s=600")
    target = field.target()
    code, _, err = finish(again)
    assert code == 0, err
    assert finish(target)[0] == 0
    study = json.loads(field.show("--json", "--all"))
    states = [one["state"] for one in study["trials"]]
    assert states.count("complete") == 2
    first = next(one for one in study["trials"] if one["state"] == "complete")
    assert first["spec_hash"] == study["trials"][0]["spec_hash"]
    log = (trial.parent / str(first["number"]) / "log.jsonl").read_text()
    assert log  # of the attempt before
