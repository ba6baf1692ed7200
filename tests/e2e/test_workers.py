"""Several real processes on one study: budgets, signals, deaths. The trials are a stub."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kdbench.search.locks import StudyLocks
from kdbench.store import Store
from tests.support import processes
from tests.support.stub_kdbench import COMMAND

PATIENCE_S = 180.0  # seconds on an idle machine; others may be at work
LONG = {"STUB_SECONDS": "300"}


class Search:
    """Searches of one study, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "runs")
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "search", "--root", str(self.store.root), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what was printed."""
        return finish(self.start(*arguments, **environment))

    def trials(self) -> list[FrozenTrial]:
        """What the database says."""
        url = self.store.database_url("demo")
        return optuna.load_study(study_name="demo", storage=url).get_trials()

    def states(self) -> Counter[str]:
        return Counter(trial.state.name for trial in self.trials())

    def workers(self) -> list[int]:
        """Pids of the workers that run a trial just now."""
        states = self.store.workers("demo") if self.store.root.exists() else []
        return [state.pid for state in states if state.trial is not None]

    def alive(self) -> list[int]:
        """Indexes of the workers that live."""
        return StudyLocks(self.store, "demo").alive()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    return processes.finished(process, PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    processes.until(condition, PATIENCE_S)


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    made = Search(tmp_path)
    yield made
    processes.end(made.processes)
    until(lambda: not made.alive())


def test_workers_find_exactly_what_was_asked_for_and_then_as_much_more(search: Search) -> None:
    code, printed = search.run("--workers", "3", "--set", "trials=8", STUB_SECONDS="0.2")
    assert (code, printed) == (0, "ended: complete, 8 complete\n")
    done = [trial for trial in search.trials() if trial.state == TrialState.COMPLETE]
    assert len({trial.user_attrs["spec_hash"] for trial in done}) == len(done) == 8
    assert {trial.user_attrs["by"]["worker"] for trial in done} == {0, 1, 2}
    assert [trial.state for trial in search.store.trials("demo")].count("complete") == 8
    assert search.alive() == []

    code, printed = search.run("--set", "trials=8", STUB_PROBLEM="nobody may start")
    assert (code, printed) == (0, "ended: complete, 8 complete\n")

    code, printed = search.run("--workers", "2", "--set", "trials=11")
    assert (code, printed) == (0, "ended: complete, 11 complete\n")


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(search: Search) -> None:
    process = search.start("--workers", "2", "--set", "trials=5", **LONG)
    until(lambda: len(search.workers()) == 2)
    process.send_signal(signal.SIGINT)
    code, printed = finish(process)
    assert (code, printed) == (130, "")
    assert search.alive() == []
    assert search.states()["RUNNING"] == 0
    assert {trial.reason for trial in search.store.trials("demo")} == {"interrupted"}
    again = search.run("--workers", "2", "--set", "trials=5")
    assert again == (0, "ended: complete, 5 complete\n")
    done = [trial for trial in search.trials() if trial.state == TrialState.COMPLETE]
    assert {trial.params["encoder.width"] for trial in done} == {16, 24, 32, 48, 64}


def test_a_killed_worker_is_started_again_and_its_trial_too(search: Search) -> None:
    process = search.start("--workers", "2", STUB_SECONDS="1.5")
    until(lambda: len(search.workers()) == 2)
    killed = search.store.workers("demo")[0]
    assert killed.trial is not None  # either of the first two: workers ask in any order
    os.kill(killed.pid, signal.SIGKILL)
    code, printed = finish(process)
    assert code == 0
    assert "worker 0 was killed by signal 9, as Linux does when memory runs out" in printed
    assert "; started again" in printed
    assert f"trial {killed.trial} lost its worker; its spec is in the queue again" in printed
    assert printed.endswith("ended: complete, 4 complete\n")
    assert search.states()["RUNNING"] == 0
    assert search.trials()[killed.trial].state == TrialState.FAIL
    assert search.store.load_trial("demo", killed.trial).reason == "its worker died"


@pytest.mark.slow
def test_a_ladder_survives_the_death_of_a_worker(search: Search) -> None:
    ladder = ("--set", "ladder={rungs: [0.2, 0.5], eta: 2}", "--set", "trials=12")
    process = search.start("--workers", "2", *ladder, STUB_SECONDS="0.5")
    until(lambda: len(search.workers()) == 2)
    os.kill(search.workers()[0], signal.SIGKILL)
    code, printed = finish(process)
    assert code == 0
    assert printed.endswith("ended: complete, 12 complete\n")
    trials = search.trials()
    assert search.states()["RUNNING"] == 0
    assert search.states()["PRUNED"] > 0
    decided = [
        trial.user_attrs["spec_hash"]
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and "duplicate_of" not in trial.user_attrs
    ]
    assert len(decided) == len(set(decided))
    for trial in search.store.trials("demo"):
        assert trial.state != "stopped" or trial.rungs


@pytest.mark.slow
def test_a_worker_that_is_killed_twice_is_given_up(search: Search) -> None:
    process = search.start("--workers", "1", **LONG)
    killed: set[int] = set()

    def another() -> bool:
        return bool({*search.workers()} - killed)

    for _ in range(2):
        until(another)
        killed |= {*search.workers()}
        os.kill(search.workers()[0], signal.SIGKILL)
    code, printed = finish(process)
    assert code == 1
    assert "not started a third time" in printed
    assert "every worker ended before the study did; worker 0 (code -9)" in printed
    assert search.states()["RUNNING"] == 0


def test_workers_stop_when_their_coordinator_dies_and_nothing_is_lost(search: Search) -> None:
    process = search.start("--workers", "2", **LONG)
    until(lambda: len(search.workers()) == 2)
    process.kill()
    process.wait()
    until(lambda: not search.alive())
    assert search.states()["RUNNING"] == 0
    assert search.run("--workers", "2") == (0, "ended: complete, 4 complete\n")


@pytest.mark.slow
def test_trials_of_workers_that_died_with_their_coordinator_are_tried_again(
    search: Search,
) -> None:
    process = search.start("--workers", "2", **LONG)
    until(lambda: len(search.workers()) == 2)
    pids = search.workers()
    os.kill(process.pid, signal.SIGSTOP)
    for pid in (*pids, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert search.states()["RUNNING"] == 2
    code, printed = search.run("--workers", "2")
    assert code == 0
    assert printed.count("lost its worker") == 2
    assert search.states()["COMPLETE"] == 4


def test_two_searches_of_one_study_do_not_run_at_once(search: Search) -> None:
    process = search.start("--workers", "1", **LONG)
    until(lambda: len(search.workers()) == 1)
    code, printed = search.run()
    assert code == 1
    assert f"study 'demo' is being searched already, by process {process.pid}" in printed
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 130


def test_workers_that_all_fail_are_heard(search: Search) -> None:
    code, printed = search.run("--workers", "2", STUB_PROBLEM="the disk is on fire")
    assert code == 1
    assert printed.count("the disk is on fire") == 1
    assert "fix: none, this is a test" in printed


@pytest.mark.slow
def test_no_trial_begins_after_the_time_limit_and_what_runs_is_finished(search: Search) -> None:
    began = time.monotonic()
    code, printed = search.run(
        "--workers", "2", "--set", "trials=100", "--set", "timeout_s=3", STUB_SECONDS="1"
    )
    assert code == 0
    assert "ended: timeout" in printed
    assert set(search.states()) <= {"COMPLETE", "WAITING"}
    assert time.monotonic() - began < 30
