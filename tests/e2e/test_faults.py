"""Faults of many processes: killed, paused, started twice, with a jumping clock, of two versions.

`python -m benchmarks.faults` is the long form: 100 kills over 200 trials.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from kdbench import __version__
from kdbench.search.attributes import INTERRUPTED
from tests.e2e.test_workers import LONG, Search, finish, until
from tests.support import processes
from tests.support.disk import FaultyDisk
from tests.support.faults import Disturbed
from tests.support.stub_kdbench import COMMAND

pytestmark = pytest.mark.slow

N_TRIALS, N_KILLS, TRIAL_S = 16, 10, 0.5
HOUR_S = 3600


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    made = Search(tmp_path)
    yield made
    processes.end(made.processes)
    until(lambda: not made.alive())


# --- killed --------------------------------------------------------------------------------------


def test_a_study_whose_processes_are_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    calm = Disturbed(tmp_path / "calm", N_TRIALS, seconds=0.0)
    calm.run()
    assert calm.faults() == []
    wild = Disturbed(tmp_path / "wild", N_TRIALS, seconds=TRIAL_S)
    wild.run_killed(N_KILLS, seed=6, pause_s=1.0)
    print(wild.summary())
    assert wild.faults() == [], wild.said
    assert wild.results() == calm.results()
    assert wild.front() == calm.front()
    assert wild.hits > 0


def test_a_trial_whose_worker_died_before_it_said_so_is_not_waited_for(search: Search) -> None:
    """It has no heartbeat yet, by which Optuna would find it."""
    code, printed = search.run("--workers", "1", "--set", "trials=2")
    assert code == 0
    url = search.store.database_url("demo")
    study = optuna.load_study(study_name="demo", storage=url)
    study.ask()  # and nothing more
    code, printed = search.run("--workers", "2", "--set", "trials=4")
    assert (code, search.states()["RUNNING"]) == (0, 0), printed
    assert search.states()["COMPLETE"] == 4


def test_a_spec_that_was_told_as_failed_by_somebody_who_died_then_is_tried_again(
    search: Search,
) -> None:
    assert search.run("--workers", "1", "--set", "trials=2")[0] == 0
    url = search.store.database_url("demo")
    study = optuna.load_study(study_name="demo", storage=url)
    queued = study.get_trials(states=(TrialState.WAITING,))
    lost = study.ask()
    assert lost.number == queued[0].number
    lost.set_user_attr(INTERRUPTED, True)
    study.tell(lost, state=TrialState.FAIL)
    code, printed = search.run("--workers", "1", "--set", "trials=5")
    assert code == 0, printed
    done = [trial for trial in search.trials() if trial.state == TrialState.COMPLETE]
    assert {trial.params["encoder.width"] for trial in done} == {16, 24, 32, 48, 64}


# --- paused ------------------------------------------------------------------------------------


def test_a_worker_that_was_paused_beyond_the_grace_period_does_no_harm_when_it_wakes(
    search: Search,
) -> None:
    environment = {"STUB_GRACE_S": "3", "STUB_SECONDS": "1.5"}
    process = search.start("--workers", "2", **environment)
    until(lambda: len(search.workers()) == 2)
    paused = next(state for state in search.store.workers("demo") if state.trial is not None)
    os.kill(paused.pid, signal.SIGSTOP)
    assert paused.trial is not None
    number = paused.trial
    until(lambda: search.trials()[number].state == TrialState.FAIL)
    os.kill(paused.pid, signal.SIGCONT)
    code, printed = finish(process)
    assert (code, printed.splitlines()[-1]) == (0, "ended: complete, 4 complete")
    assert search.states()["RUNNING"] == 0
    done = [trial for trial in search.store.trials("demo") if trial.result is not None]
    assert len({trial.spec.hash for trial in done}) == len(done) >= 4  # one may be kept untold
    told = [t for t in search.trials() if t.state == TrialState.COMPLETE]
    assert len({trial.user_attrs["spec_hash"] for trial in told}) == 4


# --- started twice -------------------------------------------------------------------------------


def test_of_coordinators_that_are_started_at_once_one_searches(
    search: Search, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    processes = [search.start("--workers", "1", STUB_UNTIL=str(go)) for _ in range(3)]
    until(lambda: sum(process.poll() is not None for process in processes) == 2)
    go.touch()
    ended = [finish(process) for process in processes]
    codes = sorted(code for code, _ in ended)
    assert codes == [0, 1, 1], ended
    for code, printed in ended:
        if code:
            assert "study 'demo' is being searched already, by process" in printed
        else:
            assert printed == "ended: complete, 4 complete\n"
    assert search.states() == {"COMPLETE": 4, "WAITING": 1}


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_loses_nothing(jump_s: int, search: Search, tmp_path: Path) -> None:
    """Heartbeats are then an hour old, or of the future; the time limit is one of this study."""
    disk = FaultyDisk(tmp_path / "block")
    process = search.start(
        *("--workers", "2", "--set", "trials=6", "--set", "timeout_s=600"),
        STUB_SECONDS="1",
        **disk.environment,
    )
    until(lambda: len(search.workers()) == 2)
    disk.jump(jump_s)
    until(lambda: search.states()["COMPLETE"] >= 3 or process.poll() is not None)
    disk.jump(-jump_s)
    code, printed = finish(process)
    assert (code, printed.splitlines()[-1]) == (0, "ended: complete, 6 complete"), printed
    assert search.states()["RUNNING"] == 0
    done = [trial for trial in search.store.trials("demo") if trial.result is not None]
    assert len({trial.spec.hash for trial in done}) == len(done)


def test_a_time_limit_is_kept_by_a_clock_that_jumps_back(search: Search, tmp_path: Path) -> None:
    disk, began = FaultyDisk(tmp_path / "block"), time.monotonic()
    process = search.start(
        *("--workers", "1", "--set", "trials=100", "--set", "timeout_s=4"),
        STUB_SECONDS="0.5",
        **disk.environment,
    )
    until(lambda: len(search.workers()) == 1)
    disk.jump(-HOUR_S)
    code, printed = finish(process)
    assert (code, printed[:14]) == (0, "ended: timeout")
    assert time.monotonic() - began < HOUR_S / 10


# --- versions ------------------------------------------------------------------------------------


def test_a_worker_of_another_version_is_refused_with_both_versions(search: Search) -> None:
    process = search.start("--workers", "1", **LONG)
    until(lambda: len(search.workers()) == 1)
    other = subprocess.run(
        [*COMMAND, "worker", "--root", str(search.store.root), "--index", "1"],
        env={
            **os.environ,
            "STUB_VERSION": "9.9.9",
            "KDBENCH_STORAGE": search.store.database_url("demo"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert other.stderr == (
        f"study 'demo' is searched by kdbench {__version__}, and this worker is kdbench 9.9.9: "
        f"what they train would differ\n  fix: install kdbench {__version__} here; or stop the "
        "search, and begin it again with 9.9.9 everywhere\n"
    )
    assert search.states()["RUNNING"] == 1
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130


# --- disks, seen by a whole search ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "read-only", "broken"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.8])
def test_a_search_on_a_disk_that_fails_ends_with_a_fix_and_goes_on_when_it_is_well_again(
    kind: str, share: float, search: Search, tmp_path: Path
) -> None:
    """Here several processes meet it; one that meets it at each place in turn: `test_disk`."""
    disk = FaultyDisk(tmp_path / "block")
    disk.watch(search.store.root, kind)
    assert search.run("--workers", "2", **disk.environment)[0] == 0
    n = disk.n_changes
    disk.heal()
    subprocess.run(["rm", "-r", str(search.store.root)], check=True)
    disk.arm(search.store.root, max(1, int(share * n)), kind, stays=True)
    code, printed = search.run("--workers", "2", **disk.environment)
    assert disk.n_failed > 0
    disk.heal()
    assert (code, "Traceback" in printed, "a bug in" in printed) == (1, False, False), printed
    assert "fix: " in printed
    code, printed = search.run("--workers", "2", **disk.environment)
    assert (code, printed.splitlines()[-1]) == (0, "ended: complete, 4 complete"), printed
    assert search.states()["RUNNING"] == 0
    done = [trial for trial in search.store.trials("demo") if trial.result is not None]
    assert len({trial.spec.hash for trial in done}) == len(done) >= 4  # one may be kept untold
