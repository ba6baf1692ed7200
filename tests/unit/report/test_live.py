"""What the live display draws from the files of a study."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdbench.records import Progress
from kdbench.report.live import LiveView, render, watching
from kdbench.report.overview import overview
from kdbench.store import WorkerState
from tests.support.results import STUDY, make_study, result


def drawn(picture: object) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(picture)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def worker(index: int, trial: int | None, progress: Progress, updated_s: float) -> WorkerState:
    return WorkerState(index=index, pid=1, trial=trial, progress=progress, updated_s=updated_s)


def test_it_shows_trials_workers_the_best_and_the_time_left(tmp_path: Path) -> None:
    found = overview(make_study(tmp_path), STUDY)
    training = Progress(stage="training", step=120, n_steps=800, loss=1.2345)
    workers = [worker(0, 5, training, 990.0), worker(1, None, Progress(stage="waiting"), 900.0)]
    first, best, *rows = drawn(render(found, workers, 20, 700.0, 1000.0))
    # 3 complete trials took 38.4, 61.0 and 104.7 s of training and 12.5 s besides: 80.5 s each
    assert first.startswith("tiny  3/20 trials")
    assert first.endswith("5 min 00 s so far, about 11 min 25 s left")
    assert best == "best BD-rate +12.2 % (trial 3), 2 on the front, 1 infeasible, 1 failed"
    assert [row.split() for row in rows] == [
        ["worker", "0", "trial", "5", "training", "120/800", "loss", "1.23"],
        ["worker", "1", "trial", "-", "waiting", "silent", "for", "1", "min", "40", "s"],
    ]


def test_nothing_is_promised_before_the_first_result(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    for number in (0, 1, 3):
        store.trial(STUDY, number).result.unlink()
    first, best = drawn(LiveView(store, STUDY, asked=20).picture())
    assert "left" not in first
    assert best == "no trial complete yet, 1 infeasible, 1 failed"


def test_results_are_read_again_when_a_worker_takes_another_trial(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.save_worker(STUDY, worker(0, 5, Progress(stage="training"), 0.0))
    view = LiveView(store, STUDY, asked=20)
    assert "tiny  3/20" in drawn(view.picture())[0]
    store.save_result(STUDY, 5, result(5.0, 20, 5.0))
    store.save_worker(STUDY, worker(0, 6, Progress(stage="cost"), 0.0))
    assert "tiny  4/20" in drawn(view.picture())[0]


def test_without_a_terminal_only_notices_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(make_study(tmp_path), STUDY, 20, silent=False) as on_event:
        on_event(SimpleNamespace(notices=("worker 1 was killed by signal 9",)))
        on_event(SimpleNamespace(notices=()))
    assert capsys.readouterr() == ("", "worker 1 was killed by signal 9\n")


def test_a_terminal_sees_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with watching(make_study(tmp_path), STUDY, 20, silent=False) as on_event:
        on_event(SimpleNamespace(notices=("worker 1 was killed by signal 9",)))
    assert "worker 1 was killed by signal 9" in terminal.getvalue()
    assert "3/20 trials" in terminal.getvalue()
