"""The workers of one search as tasks of a Slurm array: submitted, watched, taken up again."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from kdbench.config import StudyConfig
from kdbench.errors import LauncherError
from kdbench.files import load, write_json
from kdbench.records import SCHEMA
from kdbench.search.crew import (
    COMMAND,
    INTERRUPTED_CODE,
    MAX_STARTS,
    ONE_THREAD,
    STORAGE,
    Member,
)
from kdbench.search.locks import StudyLocks
from kdbench.search.slurm import Slurm, Task, job_name, n_gpus, outside
from kdbench.search.worker import PARENT
from kdbench.store import Store

LOOK_S = 5.0  # between two looks into the queue, which all users of a cluster share
STOP_S = 60.0  # from scancel to the end of the last worker; Slurm kills the others after KillWait
GONE_CODE = -9
ENDED = {  # states of Slurm that do not change by themselves, with the code of a worker
    "COMPLETED": 0,
    "CANCELLED": INTERRUPTED_CODE,
    "REVOKED": INTERRUPTED_CODE,
    "PREEMPTED": GONE_CODE,
    "TIMEOUT": GONE_CODE,
    "DEADLINE": GONE_CODE,
    "OUT_OF_MEMORY": GONE_CODE,
    "NODE_FAIL": GONE_CODE,
    "BOOT_FAIL": GONE_CODE,
    "FAILED": 1,
}
PATIENT = ("", "None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit")  # only a queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """What was submitted for a study and may still run: its file in the study's folder.

    Attributes:
        jobs: Numbers of the arrays.
        name: Of the jobs: a number alone could be another's after a reset of Slurm.
    """

    jobs: tuple[int, ...]
    name: str
    schema: int = SCHEMA


def load_arrays(store: Store, study: str) -> Arrays | None:
    """What was submitted for a study; None where nothing was.

    Raises:
        StoreError: A damaged file.
    """
    path = store.slurm_file(study)
    return load(path, Arrays) if path.is_file() else None


@dataclass(slots=True, kw_only=True)
class SlurmMember(Member):
    """One worker, with its task as Slurm last told it."""

    task: Task

    @property
    def fate(self) -> str:
        """How a killed one ended, for people."""
        how = self.task.state if self.task.state != "FAILED" else f"signal {-(self.code or 0)}"
        return f"(job {self.task.name}) was killed: {how}"


class SlurmCrew:
    """Workers that Slurm starts, wherever it finds room.

    Those that an earlier search of the study left in the queue or running are taken up, and as
    many more are submitted as are missing.

    Args:
        slurm: The cluster.
        cfg: The study; its launcher says what each worker gets.
        store: Handed to them by its root, which they must see under the same path.
        url: The study's database; handed over in the environment.
        command: What runs kdbench there.

    Attributes:
        notices: What the user should know of the queue, each once; whoever tells it empties it.
    """

    def __init__(
        self,
        slurm: Slurm,
        cfg: StudyConfig,
        store: Store,
        url: str,
        *,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._slurm, self._cfg, self._store = slurm, cfg, store
        self._command, self._locks = tuple(command), StudyLocks(store, cfg.name)
        kept = {key: value for key, value in os.environ.items() if key != PARENT}
        one_thread = {} if n_gpus(cfg) else ONE_THREAD
        self._env = {**outside(kept), STORAGE: url, **one_thread}
        self._known = load_arrays(store, cfg.name) or Arrays(jobs=(), name=job_name(cfg.name))
        self._looked = -LOOK_S
        self._told: set[str] = set()
        self.notices: list[str] = []
        self._members: list[SlurmMember] = []

    @property
    def members(self) -> Sequence[SlurmMember]:
        """All that are or were with Slurm since this search began."""
        return self._members

    def start(self, n: int) -> None:
        """Have `n` workers in the queue or running.

        Raises:
            LauncherError: Slurm refuses them.
        """
        for task in self._tasks():
            if task.state not in ENDED:
                self._join(task)
        taken = {member.index for member in self._members}
        if taken:
            jobs = sorted({str(member.task.array) for member in self._members})
            self.notices.append(
                f"{len(taken)} worker{'s' * (len(taken) > 1)} of an earlier search "
                f"{'are' if len(taken) > 1 else 'is'} with Slurm already (job {', '.join(jobs)})"
            )
        missing = n - len(taken)
        if missing <= 0:
            return
        free = (i for i in count() if i not in taken and not self._locks.is_alive(i))
        indexes = [next(free) for _ in range(missing)]
        logs = self._locks.log(0).parent
        for index in indexes:
            self._locks.log(index).unlink(missing_ok=True)
        arguments = ("worker", "--study", self._cfg.name, "--root", str(self._store.root))
        job = self._slurm.submit(self._cfg, indexes, (*self._command, *arguments), logs, self._env)
        self._keep((*self._known.jobs, job))
        self.notices.append(
            f"Slurm has {missing} worker{'s' * (missing > 1)} of study {self._cfg.name} as "
            f"job {job}"
        )
        for index in indexes:
            self._join(Task(array=job, index=index, job=job, state="PENDING"))

    def ended(self) -> list[SlurmMember]:
        """Those that have ended since the last call; looks into the queue every few seconds."""
        if time.monotonic() - self._looked < LOOK_S:
            return []
        return self._look()

    def start_again(self, member: SlurmMember) -> bool:
        """Whether a killed worker goes back into the queue; it has two lives."""
        if member.n_starts >= MAX_STARTS:
            return False
        try:
            self._slurm.requeue(member.task.name)
        except LauncherError:
            return False
        member.n_starts += 1
        member.code = None
        return True

    @property
    def is_running(self) -> bool:
        """Whether any worker runs or waits in the queue."""
        return any(member.code is None for member in self._members)

    @property
    def only_waits(self) -> bool:
        """Whether all who have not ended wait in the queue."""
        states = {member.task.state for member in self._members if member.code is None}
        return states == {"PENDING"}

    @property
    def ended_jobs(self) -> set[str]:
        """Tasks that are no more, as trials remember them."""
        return {member.task.name for member in self._members if member.code is not None}

    def stop(self) -> None:
        """Cancel all, and wait until they have left: they put their specs back into the queue."""
        alive = [member.task.name for member in self._members if member.code is None]
        if alive:
            self._slurm.cancel(alive)
        end = time.monotonic() + STOP_S
        while self.is_running and time.monotonic() < end:
            time.sleep(0.5)
            self._look()
        if not self.is_running:
            self._keep(())

    def _look(self) -> list[SlurmMember]:
        try:
            tasks = {task.name: task for task in self._tasks()}
        except LauncherError as why:  # a controller that starts again; workers do not need it
            self._tell(f"{why.problem}; workers go on")
            return []
        finally:
            self._looked = time.monotonic()
        gone = []
        for member in self._members:
            if member.code is not None:
                continue
            member.task = tasks.get(member.task.name, member.task)
            if member.task.name not in tasks:
                member.code = 0  # Slurm forgets what ended minutes ago; the study knows the rest
            elif member.task.state in ENDED:
                member.code = self._code(member.task)
            if member.code is not None:
                gone.append(member)
        self._tell_reasons()
        return gone

    def _code(self, task: Task) -> int:
        if task.state != "FAILED":
            return ENDED[task.state]
        code = self._slurm.exit_code(task)
        return ENDED["FAILED"] if code is None else code

    def _tell_reasons(self) -> None:
        """Why workers wait, where patience alone does not help."""
        for member in self._members:
            reason = member.task.reason
            if member.code is None and member.task.state == "PENDING" and reason not in PATIENT:
                job = member.task.array
                self._tell(f"Slurm holds workers back: {reason} (`squeue --jobs={job}`)")

    def _tell(self, notice: str) -> None:
        if notice not in self._told:
            self._told.add(notice)
            self.notices.append(notice)

    def _tasks(self) -> list[Task]:
        return self._slurm.tasks(self._known.jobs, self._known.name)

    def _join(self, task: Task) -> None:
        log = self._locks.log(task.index)
        self._members.append(SlurmMember(index=task.index, log=log, task=task))

    def _keep(self, jobs: tuple[int, ...]) -> None:
        self._known = Arrays(jobs=jobs, name=self._known.name)
        write_json(self._store.slurm_file(self._cfg.name), self._known)
