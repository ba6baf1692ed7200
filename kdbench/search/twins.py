"""Twins of the front, trained for studies that ask, to say what distillation gave it.

Each worker that finds no more trials takes members of the front, one at a time, and trains student
and twin (`kdbench.twin`) from as many seeds as the study says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError, StoreError
from kdbench.records import Progress, TwinFigures
from kdbench.search.front import members
from kdbench.search.ground import Ground, bench
from kdbench.search.locks import StudyLocks
from kdbench.store import Store, StoredTrial

Tell = Callable[[int, Progress], None]


def untwinned(study: optuna.Study, cfg: StudyConfig, store: Store) -> list[StoredTrial]:
    """Distilled members of the front that the study wants a twin of and that have none yet.

    Those of this root: what another machine trained without sharing its root is twinned there.
    """
    if cfg.twins == 0:
        return []
    here = [n for n in members(study) if store.trial(cfg.name, n).result.is_file()]
    front = [store.load_trial(cfg.name, number) for number in here]
    return [t for t in front if not t.spec.distillation.is_off and t.twin is None]


def train_twins(
    study: optuna.Study,
    cfg: StudyConfig,
    ground: Ground,
    store: Store,
    *,
    locks: StudyLocks,
    tell: Tell,
) -> None:
    """Trains what `untwinned` names and no other worker of this host is at.

    A member whose twin cannot be trained keeps the reason, and the others go on.

    Raises:
        StoreError: Nothing can be kept any more.
    """
    for trial in untwinned(study, cfg, store):
        lock = locks.lock(f"twin-{trial.number}")
        if not lock.take():
            continue
        try:
            if not trial.folder.twin.exists():
                try:
                    figures = _figures(trial, cfg, ground, store, tell)
                except StoreError:
                    raise
                except KdbenchError as why:
                    figures = TwinFigures(n_seeds=0, why_not=why.problem)
                store.save_twin(cfg.name, trial.number, figures)
        finally:
            lock.release()


def _figures(
    trial: StoredTrial, cfg: StudyConfig, ground: Ground, store: Store, tell: Tell
) -> TwinFigures:
    from kdbench.twin import against_twin

    @contextmanager
    def watch(name: str) -> Iterator[Callable[[Progress], None]]:
        yield lambda progress: tell(trial.number, progress)

    control = against_twin(
        trial,
        bench(cfg, ground, store),
        store.new_rerun(cfg.name),
        cfg.twins,
        study=store.trials(cfg.name),
        watch=watch,
    )
    longer = control.equal_seconds
    return TwinFigures(
        n_seeds=control.equal_steps.n_seeds,
        learning_rate=control.learning_rate,
        equal_steps=control.equal_steps.bd_rate,
        equal_seconds=None if longer is None else longer.bd_rate,
        why_not=control.equal_steps.why_not,
        wall_s=control.wall_s,
    )
