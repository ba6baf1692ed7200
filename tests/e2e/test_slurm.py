"""Studies through a real Slurm of one node, started and ended here. The trials are a stub."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig, load_study
from kdbench.errors import KdbenchError
from kdbench.search.crew import COMMAND as KDBENCH
from kdbench.search.ground import survey
from kdbench.search.slurm_ground import survey_by_slurm
from kdbench.store import Store
from tests.support import processes
from tests.support.slurm import MAX_ARRAY, Cluster, needs_slurm, slurm_of_one_node
from tests.support.stub_kdbench import COMMAND

pytestmark = [pytest.mark.slurm, needs_slurm]
PATIENCE_S = 300.0  # seconds on an idle machine; others may be at work


@pytest.fixture(scope="module")
def one_node() -> Iterator[Cluster]:
    with slurm_of_one_node() as found:
        yield found


@pytest.fixture
def cluster(one_node: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for key, value in one_node.environment.items():
        monkeypatch.setenv(key, value)
    yield one_node
    one_node.clear()


class Search:
    """Searches of one study by Slurm, each a process of its own.

    Trials last until `go`.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.store, self.cluster = Store(folder / "runs"), cluster
        self.processes: list[subprocess.Popen[str]] = []
        self._go = folder / "go"

    def go(self) -> None:
        """From here on trials end at once."""
        self._go.touch()

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [
                *(*COMMAND, "search", "--root", str(self.store.root)),
                *("--set", "launcher.name=slurm", *arguments),
            ],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "STUB_UNTIL": str(self._go),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what was printed."""
        return finish(self.start(*arguments, **environment))

    def reason(self, trial: int) -> str | None:
        """Why a trial has no result."""
        return self.store.load_trial("demo", trial).reason

    def status(self) -> dict[str, Any]:
        """What `kdbench status --json` prints."""
        run = subprocess.run(
            [*KDBENCH, "status", "--study", "demo", "--root", str(self.store.root), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(run.stdout)
        return found

    def trials(self) -> list[FrozenTrial]:
        """What the database says."""
        url = self.store.database_url("demo")
        return optuna.load_study(study_name="demo", storage=url).get_trials()

    def states(self) -> Counter[str]:
        return Counter(trial.state.name for trial in self.trials())

    def at_work(self) -> dict[int, tuple[int, int]]:
        """Process and trial of each worker that runs one just now, by index."""
        states = self.store.workers("demo") if self.store.root.exists() else []
        return {s.index: (s.pid, s.trial) for s in states if s.trial is not None}

    def job(self) -> str:
        """Number of the array that waits or runs."""
        return self.cluster.jobs()[0].partition("_")[0]

    def require_whole(self, n: int) -> None:
        """Each spec was told once, nothing runs, and the folders say the same."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        assert len({trial.user_attrs["spec_hash"] for trial in done}) == len(done) == n
        assert self.states()["RUNNING"] == 0
        states = [trial.state for trial in self.store.trials("demo")]
        assert (states.count("complete"), states.count("running")) == (n, 0)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    return processes.finished(process, PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    processes.until(condition, PATIENCE_S, 0.1)


@pytest.fixture
def search(tmp_path: Path, cluster: Cluster) -> Iterator[Search]:
    made = Search(tmp_path, cluster)
    yield made
    processes.end(made.processes)


def test_a_study_runs_through_slurm_and_its_url_is_in_no_script(search: Search) -> None:
    process = search.start("--workers", "3", "--set", "trials=8")
    until(lambda: len(search.at_work()) == 3)
    job = search.job()
    said = search.cluster.ask("scontrol", "show", "job", job)
    script = search.cluster.ask("scontrol", "write", "batch_script", f"{job}_0", "-")
    assert "JobName=kdbench-demo" in said
    assert "sqlite" not in said + script
    assert [task["state"] for task in search.status()["slurm"]] == ["RUNNING"] * 3
    search.go()
    code, printed = finish(process)
    assert code == 0
    assert printed.splitlines()[0] == f"Slurm has 3 workers of study demo as job {job}"
    assert printed.endswith("ended: complete, 8 complete\n")
    search.require_whole(8)
    assert {trial.user_attrs["by"]["job"] for trial in search.trials()} == {
        f"{job}_{i}" for i in range(3)
    }
    assert search.cluster.jobs() == []
    assert search.run("--workers", "3", "--set", "trials=8") == (
        0,
        "ended: complete, 8 complete\n",
    )


@pytest.mark.slow
def test_no_more_workers_are_asked_for_than_trials_are_left(search: Search) -> None:
    search.go()
    code, printed = search.run("--workers", "16", "--set", "trials=2")
    assert code == 0
    assert "Slurm has 2 workers" in printed


@pytest.mark.slow
def test_a_cancelled_worker_leaves_its_spec_to_the_others(search: Search) -> None:
    process = search.start("--workers", "2", "--set", "trials=6")
    until(lambda: len(search.at_work()) == 2)
    _, trial = search.at_work()[1]
    search.cluster.ask("scancel", f"{search.job()}_1")
    until(lambda: search.reason(trial) == "interrupted")
    search.go()
    code, printed = finish(process)
    assert code == 0
    assert "worker 1 was interrupted; the others go on" in printed
    assert printed.endswith("ended: complete, 6 complete\n")
    search.require_whole(6)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["requeue", "time is up"])
def test_a_worker_that_must_leave_does_so_cleanly_and_joins_again(search: Search, how: str) -> None:
    process = search.start("--workers", "1", "--set", "trials=4")
    until(lambda: 0 in search.at_work())
    (pid, trial), task = search.at_work()[0], f"{search.job()}_0"
    if how == "requeue":
        search.cluster.ask("scontrol", "requeue", task)
    else:
        search.cluster.ask("scancel", "--batch", "--signal=USR1", task)
    until(lambda: search.reason(trial) == "interrupted")
    search.go()
    code, printed = finish(process)
    assert (code, printed.count("as job")) == (0, 1)
    search.require_whole(4)
    by = [t.user_attrs["by"] for t in search.trials() if t.state != TrialState.WAITING]
    assert by[trial]["pid"] == pid
    assert len({each["pid"] for each in by} - {pid}) == 1
    assert {each["job"] for each in by} == {task}


@pytest.mark.slow
def test_a_study_outlives_the_time_limit_of_its_workers(search: Search) -> None:
    """A limit of 2 minutes, of which Slurm tells 30 to 90 s before; the work is not done then."""
    limit = ("--set", "launcher.time_min=2")
    process = search.start("--workers", "1", "--set", "trials=4", *limit)
    until(lambda: 0 in search.at_work())
    pid, trial = search.at_work()[0]
    until(lambda: search.reason(trial) == "interrupted")
    search.go()
    code, printed = finish(process)
    assert (code, printed.count("as job")) == (0, 1)
    search.require_whole(4)
    done = [t for t in search.trials() if t.state == TrialState.COMPLETE]
    assert len({t.user_attrs["by"]["pid"] for t in done} - {pid}) == 1


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_its_trial_too(search: Search) -> None:
    process = search.start("--workers", "2", "--set", "trials=6")
    until(lambda: len(search.at_work()) == 2)
    pid, trial = search.at_work()[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: search.reason(trial) == "its worker died")
    search.go()
    code, printed = finish(process)
    assert code == 0
    assert "was killed: signal 9; started again" in printed
    assert f"trial {trial} lost its worker; its spec is in the queue again" in printed
    search.require_whole(6)


@pytest.mark.slow
def test_ctrl_c_cancels_the_workers_and_the_same_command_goes_on(search: Search) -> None:
    process = search.start("--workers", "2", "--set", "trials=5")
    until(lambda: len(search.at_work()) == 2)
    process.send_signal(signal.SIGINT)
    code, _ = finish(process)
    assert code == 130
    assert search.cluster.jobs() == []
    assert search.states()["RUNNING"] == 0
    assert {trial.reason for trial in search.store.trials("demo")} == {"interrupted"}
    search.go()
    code, printed = search.run("--workers", "2", "--set", "trials=5")
    assert code == 0
    assert printed.endswith("ended: complete, 5 complete\n")
    search.require_whole(5)


@pytest.mark.slow
def test_workers_outlive_their_search_and_another_one_takes_them_up(search: Search) -> None:
    process = search.start("--workers", "2", "--set", "trials=8")
    until(lambda: len(search.at_work()) == 2)
    job = search.job()
    process.kill()
    process.wait()
    process = search.start("--workers", "3", "--set", "trials=8")
    until(lambda: len(search.cluster.jobs()) == 3)
    search.go()
    code, printed = finish(process)
    assert code == 0
    assert f"2 workers of an earlier search are with Slurm already (job {job})" in printed
    assert "Slurm has 1 worker of study demo as job" in printed
    search.require_whole(8)


@pytest.mark.slow
def test_a_detached_study_needs_nobody_and_its_status_tells_how_it_is(search: Search) -> None:
    code, printed = search.run("--workers", "2", "--set", "trials=6", "--detach")
    assert code == 0
    assert "ended" not in printed
    until(lambda: len(search.at_work()) == 2)
    found = search.status()
    assert [worker["mood"] for worker in found["workers"]] == ["works", "works"]
    tasks = [f"{search.job()}_{i}" for i in (0, 1)]
    assert sorted(worker["job"] for worker in found["workers"]) == tasks
    assert sorted(trial["job"] for trial in found["running"]) == tasks
    assert found["pace"] is None
    search.go()
    until(lambda: search.cluster.jobs() == [])
    search.require_whole(6)
    done = search.status()
    assert (done["slurm"], done["pace"]["left_s"]) == ([], 0)


@pytest.mark.slow
def test_each_worker_has_a_gpu_of_its_own(search: Search, tmp_path: Path) -> None:
    tells = tmp_path / "gpus"
    process = search.start(
        *("--workers", "2", "--set", "launcher.gpus_per_worker=1", "--set", "trials=4"),
        STUB_TELLS=str(tells),
    )
    until(lambda: len(search.at_work()) == 2)
    search.go()
    assert finish(process)[0] == 0
    assert sorted(tells.read_text().split()[1::2]) == ["0", "1"]


@pytest.mark.slow
def test_what_slurm_cannot_do_is_told_with_the_fix(search: Search) -> None:
    two = ("--workers", "2")
    said = {
        "no partition 'gpus'": (*two, "--set", "launcher.partition=gpus"),
        "`--set launcher.partition=...` takes one of: debug, far": (
            *two,
            *("--set", "launcher.partition=gpus"),
        ),
        "workers of several hosts would write one SQLite file": (
            *two,
            "--set",
            "launcher.partition=far",
        ),
        "needs the number of workers": (),
        f"takes none above {MAX_ARRAY - 1} (MaxArraySize)\n  fix: ask for `--workers "
        f"{MAX_ARRAY}` at most": ("--workers", "30", "--set", "trials=30"),
        "Slurm's sbatch refuses": (*two, "--set", "launcher.extra=[--reservation=nobody]"),
    }
    for problem, arguments in said.items():
        code, printed = search.run(*arguments)
        assert code == 1, printed
        assert problem in printed
        assert "Traceback" not in printed
    assert search.cluster.jobs() == []
    code, printed = search.run("--workers", "2", SLURM_CONF="/nowhere/slurm.conf")
    assert code == 1
    assert "see whether `sinfo` answers" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_study_stands_on_what_a_node_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Login nodes have no GPU, other processors, other meters."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cfg, store = _smoke(), Store(tmp_path / "runs")
    assert survey_by_slurm(cfg, store, KDBENCH) == survey(cfg, store)
    with pytest.raises(KdbenchError, match=r"on a node: .*cuda"):
        survey_by_slurm(_smoke("device=cuda"), store, KDBENCH)
    with pytest.raises(KdbenchError, match=r"Slurm's srun refuses: .*nvalid"):
        survey_by_slurm(_smoke("launcher.account=a", "launcher.partition=no"), store, KDBENCH)
    with pytest.raises(KdbenchError, match="broke"):
        survey_by_slurm(cfg, store, ("/bin/false",))


def _smoke(*overrides: str) -> StudyConfig:
    return load_study("smoke", ["launcher.name=slurm", *overrides])
