"""Slurm, asked by its own programs: arguments in, lines out; no shell, no pickle, no library.

What a worker is told stands in the argument list of `sbatch`; the script that is submitted is the
same for all (`SCRIPT`). The URL of the database, which may hold a password, goes through the
environment and stands in no script, job name or comment.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.config import Launcher, StudyConfig
from kdbench.errors import LauncherError
from kdbench.search.dead import host

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
ANSWER_S = 60.0
NOTICE_S = 120  # before its time is up a worker is told, or after three quarters of a short one
SCRIPT = """\
#!/bin/sh
# One worker of a study; what it is stands in the arguments, which one in the number of its task.
exec "$@" --index "$SLURM_ARRAY_TASK_ID"
"""
FIELDS = "%F|%K|%A|%T|%r|%N|%j"  # of `squeue`: array, index, job, state, reason, nodes, name
SILENT = ("Unable to contact", "configuration file", "configuration source", "fetch config")
HERE = (
    "run this on a machine of the cluster, e.g. its login node (perhaps after `module load slurm`)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of an array, as Slurm tells it.

    Attributes:
        array: Number of the array.
        index: Of the task in it, and of the worker that it is.
        job: Number of the job that the task is by itself.
        state: `PENDING`, `RUNNING`, ... as Slurm writes it.
        reason: Why it waits, as Slurm writes it.
        node: Where it runs; empty while it waits.
    """

    array: int
    index: int
    job: int
    state: str
    reason: str = ""
    node: str = ""

    @property
    def name(self) -> str:
        """As trials remember their workers, see `dead.slurm_job`."""
        return f"{self.array}_{self.index}"


class Slurm:
    """The cluster that this machine belongs to.

    Raises:
        LauncherError: Programs of Slurm are missing here; says which were looked for.
    """

    def __init__(self) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise LauncherError(
                f"`--launcher slurm` needs the programs {', '.join(PROGRAMS)}; not found on PATH: "
                f"{', '.join(missing)}",
                fix=f"{HERE}, or start workers here with `--launcher local`",
            )

    def require_partition(self, name: str | None) -> None:
        """Whether there are nodes to run on.

        Raises:
            LauncherError: There is no such partition; lists those that are, or Slurm is silent.
        """
        if name is None or self.nodes(name):
            return
        known = sorted(set(self._ask("sinfo", "--noheader", "--format=%R").split()))
        raise LauncherError(
            f"this cluster has no partition {name!r}",
            fix=f"`--set launcher.partition=...` takes one of: {', '.join(known) or 'none'}",
        )

    def nodes(self, partition: str | None) -> set[str]:
        """Host names of the nodes of a partition; None: the default one, or all where none is."""
        of = () if partition is None else (f"--partition={partition}",)
        lines = self._ask("sinfo", "--noheader", "--Node", "--format=%n %P", *of).splitlines()
        found = [line.split() for line in lines if len(line.split()) == 2]
        default = {node for node, of_node in found if of_node.endswith("*")}
        return default if partition is None and default else {node for node, _ in found}

    def is_only_here(self, partition: str | None) -> bool:
        """Whether every node is this machine."""
        return self.nodes(partition) <= {host(), host().partition(".")[0]}

    def max_index(self) -> int | None:
        """The highest index that a task of an array may have; None where Slurm does not say."""
        found = re.search(
            r"^MaxArraySize\s*=\s*(\d+)", self._ask("scontrol", "show", "config"), re.M
        )
        return None if found is None else int(found[1]) - 1

    def submit(
        self,
        cfg: StudyConfig,
        indexes: Sequence[int],
        command: Sequence[str],
        logs: Path,
        environment: Mapping[str, str],
    ) -> int:
        """Submit an array of workers; its number.

        Args:
            cfg: Its launcher says what each worker gets.
            indexes: Of the workers, ascending.
            command: What runs one, without its index.
            logs: Folder where worker i appends to `i.log`.
            environment: Of the workers.

        Raises:
            LauncherError: Slurm refuses; says why in its words.
        """
        highest = self.max_index()
        if highest is not None and indexes[-1] > highest:
            raise LauncherError(
                f"{len(indexes)} workers need array indexes up to {indexes[-1]}, and this cluster "
                f"takes none above {highest} (MaxArraySize)",
                fix=f"ask for `--workers {highest + 1}` at most",
            )
        log = str(logs / "@").replace("%", "%%").removesuffix("@") + "%a.log"
        with tempfile.TemporaryDirectory() as folder:  # Slurm keeps a copy of its own
            script = Path(folder) / "worker.sh"
            script.write_text(SCRIPT)
            said = self._ask(
                "sbatch",
                "--parsable",
                f"--array={ranges(indexes)}",
                "--requeue",
                "--open-mode=append",
                f"--output={log}",
                f"--error={log}",
                f"--signal=B:USR1@{notice_s(cfg.launcher)}",
                *options(cfg),
                str(script),
                *command,
                environment=environment,
            )
        return int(said.strip().partition(";")[0])

    def tasks(self, arrays: Sequence[int], name: str) -> list[Task]:
        """What Slurm knows of arrays of one job name; of those that ended minutes ago nothing.

        Raises:
            LauncherError: Slurm does not answer.
        """
        if not arrays:
            return []
        try:
            said = self._ask(
                "squeue",
                "--noheader",
                "--array",
                "--states=all",
                f"--jobs={','.join(map(str, arrays))}",
                f"--format={FIELDS}",
            )
        except LauncherError as why:
            if "Invalid job id" in why.problem:
                return []
            raise
        found = [line.split("|", 6) for line in said.splitlines() if line.count("|") >= 6]
        return [
            Task(
                array=int(f[0]), index=int(f[1]), job=int(f[2]), state=f[3], reason=f[4], node=f[5]
            )
            for f in found
            if f[6] == name and f[1].isdecimal()
        ]

    def exit_code(self, task: Task) -> int | None:
        """How an ended task left; None where Slurm has forgotten. Negative: the signal."""
        try:
            said = self._ask("scontrol", "show", "job", str(task.job))
        except LauncherError:
            return None
        found = re.search(r"\bExitCode=(\d+):(\d+)", said)
        if found is None:
            return None
        return -int(found[2]) if int(found[2]) else int(found[1])

    def cancel(self, jobs: Sequence[str]) -> None:
        """Tasks leave the queue, or are told to stop: SIGTERM, then SIGKILL after KillWait."""
        if jobs:
            self._ask("scancel", "--quiet", *jobs)

    def requeue(self, job: str) -> None:
        """Put a task back into the queue, one that ended, too.

        Raises:
            LauncherError: Slurm refuses, or has forgotten it.
        """
        self._ask("scontrol", "requeue", job)

    @staticmethod
    def _ask(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
        try:
            run = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ANSWER_S,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LauncherError(
                f"Slurm's {arguments[0]} did not answer within {ANSWER_S:.0f} s",
                fix="see whether `sinfo` answers; the same command goes on from what is finished",
            ) from None
        if run.returncode:
            raise refused(arguments[0], run.stderr or run.stdout)
        return run.stdout


def refused(program: str, said: str) -> LauncherError:
    """The error of a program of Slurm that failed, in its own words."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it gave no reason"]
    why = lines[-1].removeprefix(f"{program}: ").removeprefix("error: ")
    fix = "correct `launcher` in the study file or by `--set`; `scontrol show partition` says what "
    fix += "a partition takes"
    if any(word in said for word in SILENT):
        fix = f"see whether `sinfo` answers; {HERE}"
    return LauncherError(f"Slurm's {program} refuses: {why}", fix=fix)


def options(cfg: StudyConfig) -> list[str]:
    """What every job of a study asks for, as options of `sbatch` and `srun`."""
    asked = cfg.launcher
    gpus = n_gpus(cfg)
    named = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "time": asked.time_min,
        "mem": None if asked.mem_gib is None else f"{round(asked.mem_gib * 1024)}M",
        "gres": f"gpu:{gpus}" if gpus else None,
    }
    return [
        f"--job-name={job_name(cfg.name)}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={asked.cpus_per_worker}",
        "--export=ALL",
        *(f"--{key}={value}" for key, value in named.items() if value is not None),
        *asked.extra,
    ]


def job_name(study: str) -> str:
    """As the queue shows the jobs of a study."""
    return f"kdbench-{study}"


def n_gpus(cfg: StudyConfig) -> int:
    """GPUs of a worker: one where the study wants CUDA."""
    if cfg.launcher.gpus_per_worker is not None:
        return cfg.launcher.gpus_per_worker
    return int(cfg.device.startswith("cuda"))


def notice_s(launcher: Launcher) -> int:
    """How long before its end a worker is told that its time is up [s]."""
    return NOTICE_S if launcher.time_min is None else min(NOTICE_S, 15 * launcher.time_min)


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what a job, which may be where we are, says of itself."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {k: v for k, v in environment.items() if not k.startswith("SLURM_") or k in kept}


def ranges(indexes: Sequence[int]) -> str:
    """Ascending numbers as Slurm writes arrays: `0-3,7`."""
    parts: list[list[int]] = []
    for index in indexes:
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)


def back_into_queue() -> str:
    """Have Slurm start the task that this process is again; says what became of it."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or "SLURM_ARRAY_TASK_ID" not in os.environ:
        return "its time is up; start it again to go on"
    try:
        Slurm._ask("scontrol", "requeue", job)
    except LauncherError as why:
        return f"its time is up, and job {job} does not go back into the queue: {why.problem}"
    return f"its time is up; job {job} is in the queue again"
