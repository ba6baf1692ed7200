"""What Slurm is told, word for word, and what is made of its answers, by programs of ten lines."""

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from kdbench.config import load_study
from kdbench.errors import ConfigError, LauncherError
from kdbench.search.slurm import PROGRAMS, SCRIPT, Slurm, back_into_queue, notice_s, outside, ranges
from tests.support import search as stub

FAKE = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps([name, *sys.argv[1:]]), file=log)
answer = os.path.join(os.path.dirname(sys.argv[0]), name + ".answer")
said = open(answer).read() if os.path.exists(answer) else ""
if said.startswith("error:"):
    sys.exit(name + ": " + said)
print(said, end="")
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that remember what they were told and answer what lies beside them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(FAKE)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return folder


def told(folder: Path) -> list[str]:
    return (folder.parent / "log").read_text().splitlines()


def test_without_slurm_it_is_told_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LauncherError) as caught:
        Slurm()
    assert str(caught.value) == (
        "`--launcher slurm` needs the programs sbatch, squeue, scancel, scontrol, sinfo, srun; not "
        "found on PATH: sbatch, squeue, scancel, scontrol, sinfo, srun\n"
        "  fix: run this on a machine of the cluster, e.g. its login node (perhaps after `module "
        "load slurm`), or start workers here with `--launcher local`"
    )


def test_what_a_worker_gets_stands_in_the_options(fakes: Path, tmp_path: Path) -> None:
    (fakes / "sbatch.answer").write_text("77;cluster\n")
    cfg = stub.study(
        tmp_path,
        *("launcher.name=slurm", "launcher.partition=gpu", "launcher.account=lab"),
        *("launcher.qos=low", "launcher.constraint=a100|h100", "launcher.time_min=4"),
        *("launcher.mem_gib=2.5", "launcher.cpus_per_worker=3", "device=cuda"),
        "launcher.extra=[--reservation=mine]",
    )
    job = Slurm().submit(
        cfg, [0, 1, 2, 5], ["python", "-m", "x y"], tmp_path / "50%", {**os.environ}
    )
    assert job == 77
    config, sbatch = told(fakes)
    assert config == '["scontrol", "show", "config"]'
    begin, end = sbatch.split(', "/', 1)
    assert begin == (
        '["sbatch", "--parsable", "--array=0-2,5", "--requeue", "--open-mode=append", '
        f'"--output={tmp_path}/50%%/%a.log", "--error={tmp_path}/50%%/%a.log", '
        '"--signal=B:USR1@60", "--job-name=kdbench-demo", "--nodes=1", "--ntasks=1", '
        '"--cpus-per-task=3", "--export=ALL", "--partition=gpu", "--account=lab", "--qos=low", '
        '"--constraint=a100|h100", "--time=4", "--mem=2560M", "--gres=gpu:1", '
        '"--reservation=mine"'
    )
    assert end.endswith('/worker.sh", "python", "-m", "x y"]')


def test_the_script_is_the_same_for_all() -> None:
    assert SCRIPT.splitlines()[-1] == 'exec "$@" --index "$SLURM_ARRAY_TASK_ID"'


def test_tasks_are_those_of_our_name(fakes: Path) -> None:
    (fakes / "squeue.answer").write_text(
        "7|0|7|RUNNING|None|node1|kdbench-demo\n"
        "7|1|8|PENDING|Resources||kdbench-demo\n"
        "6|0|6|RUNNING|None|node1|somebody-else\n"
        "5|N/A|5|RUNNING|None|node1|kdbench-demo\n"
    )
    found = Slurm().tasks([5, 6, 7], "kdbench-demo")
    assert [(t.name, t.state, t.node) for t in found] == [
        ("7_0", "RUNNING", "node1"),
        ("7_1", "PENDING", ""),
    ]
    (fakes / "squeue.answer").write_text("error: slurm_load_jobs error: Invalid job id specified\n")
    assert Slurm().tasks([5], "kdbench-demo") == []
    (fakes / "squeue.answer").write_text("error: Unable to contact slurm controller (connect)\n")
    with pytest.raises(LauncherError, match=r"(?s)refuses: Unable to contact.*see whether `sinfo`"):
        Slurm().tasks([5], "kdbench-demo")


def test_nodes_are_those_of_the_default_partition_where_none_is_named(fakes: Path) -> None:
    (fakes / "sinfo.answer").write_text("one debug*\ntwo debug*\ntwo far\nthree far\n")
    assert Slurm().nodes(None) == {"one", "two"}
    (fakes / "sinfo.answer").write_text("two far\nthree far\n")
    assert Slurm().nodes("far") == Slurm().nodes(None) == {"two", "three"}
    assert not Slurm().is_only_here("far")
    (fakes / "sinfo.answer").write_text(f"{socket.gethostname()} far\n")
    assert Slurm().is_only_here("far")


def test_slurm_says_how_a_task_left(fakes: Path) -> None:
    (fakes / "squeue.answer").write_text("7|0|7|FAILED|None|node1|kdbench-demo\n")
    (task,) = Slurm().tasks([7], "kdbench-demo")
    for said, code in (("ExitCode=1:0", 1), ("ExitCode=0:9", -signal.SIGKILL), ("", None)):
        (fakes / "scontrol.answer").write_text(f"JobId=7 {said} DerivedExitCode=0:0\n")
        assert Slurm().exit_code(task) == code


def test_a_task_whose_time_is_up_asks_for_another(
    fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert back_into_queue() == "its time is up; start it again to go on"
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert back_into_queue() == "its time is up; job 9 is in the queue again"
    assert told(fakes) == ['["scontrol", "requeue", "9"]']
    (fakes / "scontrol.answer").write_text("error: Requested operation is disabled\n")
    assert back_into_queue().endswith("refuses: Requested operation is disabled")


def test_small_things(tmp_path: Path) -> None:
    assert [ranges(x) for x in ([0], [0, 1, 2], [1, 3, 4, 9])] == ["0", "0-2", "1,3-4,9"]
    limits = [None, 2, 4, 60]
    of = [
        stub.study(tmp_path, "launcher.name=slurm", f"launcher.time_min={limit or 'null'}").launcher
        for limit in limits
    ]
    assert [notice_s(launcher) for launcher in of] == [120, 30, 60, 120]
    environment = {"SLURM_CONF": "a", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "HOME": "/"}
    assert outside(environment) == {"SLURM_CONF": "a", "HOME": "/"}


WRONG = {
    "launcher.partition=gpu": 'launcher.partition: got "gpu"; is of `launcher.name: slurm`, and '
    "the launcher is local",
    "launcher.name=slurn": 'launcher.name: got "slurn"; must be one of: slurm, local',
    "launcher={name: slurm, time_min: 1}": "launcher.time_min: got 1; must be at least 2",
    "launcher={name: slurm, partition: a b}": 'launcher.partition: got "a b"; must be a word, as '
    "Slurm knows it",
    "launcher={name: slurm, partition: --wrap=x}": 'launcher.partition: got "--wrap=x"; must be a '
    "word, as Slurm knows it",
    "launcher={name: slurm, extra: [gpu]}": 'launcher.extra: got ["gpu"]; "gpu" must begin with '
    "`--`: one option a text, as --reservation=mine",
    "launcher={name: slurm, extra: [--wrap=rm]}": 'launcher.extra: got ["--wrap=rm"]; --wrap is '
    "set by kdbench",
}


@pytest.mark.parametrize(("override", "text"), WRONG.items(), ids=str)
def test_a_wrong_launcher_is_told_with_place_value_and_rule(
    override: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        stub.study(tmp_path, override)
    assert str(caught.value).startswith(f"--set: {text}\n")


def test_who_wants_cuda_gets_a_gpu() -> None:
    with pytest.raises(ConfigError, match="must be at least 1 with device: cuda:0"):
        load_study("smoke", ["launcher={name: slurm, gpus_per_worker: 0}", "device=cuda:0"])
