"""A Slurm of one node on loopback, started for tests and ended by them.

Needs root and Debian's packages slurm-wlm and munge. Nothing of it is shared with a Slurm that the
machine may belong to: key, sockets, ports and folders are its own, and `SLURM_CONF` names them.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason=f"NO SLURM: nothing is submitted (missing: {', '.join(MISSING) or 'root'}; "
    "apt-get install slurm-wlm munge)",
)
START_S = 60.0
REQUEUE_S = 10  # how long a requeued job waits: the life of its credential
MAX_ARRAY = 20
NO_GPUS = ("/dev/null", "/dev/zero")  # Slurm counts devices, and does not ask what they are
CONFIGURATION = """\
ClusterName=kdbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_s}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
InactiveLimit=0
KillWait=30
MinJobAge=300
MaxArraySize={max_array}
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
NodeName=elsewhere NodeAddr=127.0.0.2 CPUs=4 RealMemory=1000 State=DOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=10 State=UP
PartitionName=far Nodes=elsewhere MaxTime=10 State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running one.

    Attributes:
        environment: What programs need to know it.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *arguments: str) -> str:
        """What a program of Slurm prints."""
        run = subprocess.run(
            arguments,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    def jobs(self) -> list[str]:
        """Tasks that wait or run, as `JOB_INDEX STATE`."""
        return self.ask("squeue", "--noheader", "--array", "--format=%F_%K %T").splitlines()

    def clear(self) -> None:
        """Cancel everything, and wait until it is gone."""
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        self.ask("scancel", "--user=root")
        end = time.monotonic() + START_S
        while self.jobs() and time.monotonic() < end:
            time.sleep(0.2)
        assert self.jobs() == []


@contextmanager
def slurm_of_one_node() -> Iterator[Cluster]:
    """Starts munged, slurmctld and slurmd; ends them, and whatever they started."""
    folder = Path(tempfile.mkdtemp(prefix="kdbench-slurm-"))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    name = socket.gethostname()
    text = CONFIGURATION.format(
        host=name, folder=folder, ports=_ports(), requeue_s=REQUEUE_S, max_array=MAX_ARRAY
    )
    (folder / "slurm.conf").write_text(text)
    gpus = [f"NodeName={name} Name=gpu File={device}\n" for device in NO_GPUS]
    (folder / "gres.conf").write_text("".join(gpus))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    munge = [
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        *(f"--{what}={folder}/munge.{what.partition('-')[0]}" for what in ("socket", "pid-file")),
        *(
            f"--{what}={folder}/munge.{what.partition('-')[0]}"
            for what in ("log-file", "seed-file")
        ),
    ]
    cluster = Cluster(folder)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _start(stack, folder, munge)
        _until((folder / "munge.socket").exists, folder)
        _start(stack, folder, ["slurmctld", "-D"])
        _start(stack, folder, ["slurmd", "-D", "-N", name])
        _until(lambda: _state(cluster) == "idle", folder)
        yield cluster
        cluster.clear()


def _ports() -> list[int]:
    """Two that are free."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


def _start(stack: ExitStack, folder: Path, command: list[str]) -> None:
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": SEARCHED, "SLURM_CONF": str(folder / "slurm.conf")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    stack.callback(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:  # of a slurmd: steps, and what they run
        if child.is_running():
            child.kill()


def _state(cluster: Cluster) -> str:
    run = subprocess.run(
        ["sinfo", "--noheader", "--partition=debug", "--format=%T"],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip()


def _until(condition: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + START_S
    while not condition():
        logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in folder.glob("*.out"))
        assert time.monotonic() < end, f"Slurm does not start:\n{logs}"
        time.sleep(0.1)
