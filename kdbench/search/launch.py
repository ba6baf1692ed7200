"""`kdbench search`: prepares a study, starts workers, watches them, goes on where it was left.

Workers are processes of this machine (`crew`) or tasks of a Slurm array (`slurm_crew`).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import optuna

from kdbench.config import StudyConfig
from kdbench.device import n_cores
from kdbench.errors import LauncherError
from kdbench.search import ground as grounds
from kdbench.search.asking import close
from kdbench.search.budget import ASKS_PER_TRIAL, Budget, n_complete, now_s, set_budget
from kdbench.search.crew import COMMAND, AnyCrew, Crew
from kdbench.search.front import unmeasured
from kdbench.search.grid import GridSampler
from kdbench.search.ground import Ground
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import StudyLocks
from kdbench.search.patience import Patience
from kdbench.search.slurm import Slurm
from kdbench.search.slurm_crew import SlurmCrew
from kdbench.search.slurm_ground import survey_by_slurm
from kdbench.search.storage import connect, quiet, storage_errors
from kdbench.search.study import begin
from kdbench.search.twins import untwinned
from kdbench.search.watch import Snapshot, Watch
from kdbench.store import Store


def search(
    cfg: StudyConfig,
    store: Store,
    *,
    workers: int | None = None,
    storage: str | None = None,
    on_event: Callable[[Snapshot], None] = lambda _: None,
    ground: Ground | None = None,
    command: Sequence[str] = COMMAND,
    detach: bool = False,
) -> Snapshot:
    """Run the study until its budget is spent; says how it stands then.

    Args:
        cfg: The study; one that has begun goes on, if it is the same.
        store: Where its folders are, or will be.
        workers: Processes; None: `cfg.workers`, or as many as cores (one on a GPU); of Slurm they
            must be told. With 0 the study only begins here, and workers of other machines are
            watched.
        storage: URL of the database; None: a file in the study's folder.
        on_event: Told how the search stands, four times a second.
        ground: What the machine adds; None: `ground.survey` finds it.
        command: What runs kdbench.
        detach: Leave the workers to Slurm as soon as it has them.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all is kept, and the same call goes on.
        KdbenchError: The study cannot begin, Slurm refuses it, or every worker ended with an error.
    """
    url = storage or store.database_url(cfg.name)
    slurm = _slurm(cfg, url, workers, detach=detach)
    locks = StudyLocks(store, cfg.name)
    store.require_writable()
    with Interrupt() as interrupt, locks.coordinator(), storage_errors(url), quiet():
        news: list[str] = []
        watches: list[Watch] = []

        def say(text: str) -> None:
            news.append(text)
            for each in watches:
                each.show()

        patience = Patience(sleep=interrupt.sleep, tell=say)
        with interrupt.allowed():
            study, found = begin(
                cfg,
                store,
                url,
                lambda: ground or _survey(cfg, store, command),
                patience,
                on_wait=lambda text: print(text, file=sys.stderr, flush=True),
            )
        connects = partial(connect, url, create=False, patience=patience)
        watch = Watch(cfg, store, study, locks, on_event, notices=news, connects=connects)
        watches.append(watch)
        left: list[object] = [*untwinned(study, cfg, store), *unmeasured(study, cfg, store)]
        if n_complete(study) >= cfg.trials and not left:
            watch.gather()
            close(cfg, url, "complete")
            return watch.tell("complete")
        crew: AnyCrew
        if slurm is None:
            watch.settle_orphans(interrupt)
            crew = Crew(store, cfg.name, url, command=command, on_cpu=found.device == "cpu")
        else:
            crew = SlurmCrew(slurm, cfg, store, url, command=command)
        until_s = None if cfg.timeout_s is None else now_s() + cfg.timeout_s
        listed = cfg.sampler.name == "listed"
        asks = 1 if listed else ASKS_PER_TRIAL
        budget = Budget(trials=cfg.trials, until_s=until_s, asks_per_trial=asks)
        set_budget(study, budget)
        if cfg.sampler.name == "grid":  # knows when it is through
            study.sampler = GridSampler(cfg, found.teacher_coordinates)
        n = _n_workers(cfg, workers, found, study, len(left))
        if detach:
            return watch.leave(crew, n)
        end = watch.run(crew, budget, n, interrupt)
        close(cfg, url, str(end.ended))
        return end


def _slurm(cfg: StudyConfig, url: str, workers: int | None, *, detach: bool) -> Slurm | None:
    """The cluster that is to run the study; None where this machine is.

    Raises:
        LauncherError: It cannot: no such partition, nobody said how many, or its workers could
            not all write the database.
    """
    if cfg.launcher.name == "local":
        if detach:
            raise LauncherError(
                "`--detach` needs `--launcher slurm`: workers here end with their search",
                fix="leave `--detach` out, or let Slurm run the study",
            )
        return None
    slurm = Slurm()
    slurm.require_partition(cfg.launcher.partition)
    if (workers or cfg.workers) is None:
        raise LauncherError(
            "`--launcher slurm` needs the number of workers: a cluster has no number of cores",
            fix="say how many with `--workers N`, or `workers: N` in the study file",
        )
    if url.startswith("sqlite") and not slurm.is_only_here(cfg.launcher.partition):
        raise LauncherError(
            "workers of several hosts would write one SQLite file over the network, which can "
            "damage it",
            fix="start a PostgreSQL that the nodes reach and name it with KDBENCH_STORAGE, "
            "postgresql://USER@HOST/DATABASE",
        )
    return slurm


def _survey(cfg: StudyConfig, store: Store, command: Sequence[str]) -> Ground:
    """What the machine adds to the study: the machine that its workers will have."""
    if cfg.launcher.name == "slurm":
        return survey_by_slurm(cfg, store, command)
    return grounds.survey(cfg, store)


def _n_workers(
    cfg: StudyConfig, asked: int | None, ground: Ground, study: optuna.Study, n_twins: int
) -> int:
    """Processes to start: never more than trials, or twins of finished ones, are left."""
    by_device = n_cores() if ground.device == "cpu" else 1
    wanted = cfg.workers if asked is None else asked
    left = max(cfg.trials - n_complete(study), n_twins)
    return min(by_device if wanted is None else wanted, left)
