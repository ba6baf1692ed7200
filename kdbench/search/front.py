"""The front's energy again, after training: shows how little the weights matter to it.

A student is measured before its training, so that its cost is known before a step is spent on it.
"""

from collections.abc import Callable

import optuna

from kdbench.config import StudyConfig
from kdbench.records import Progress
from kdbench.search.attributes import DUPLICATE_OF
from kdbench.search.ground import Ground, bench
from kdbench.store import Store


def members(study: optuna.Study) -> list[int]:
    """Numbers of the trials that no other one beats; a spec that came up twice counts once."""
    best = study.best_trials
    return sorted({trial.user_attrs.get(DUPLICATE_OF, trial.number) for trial in best})


def measure_front(
    study: optuna.Study,
    cfg: StudyConfig,
    ground: Ground,
    store: Store,
    on_progress: Callable[[int, Progress], None],
) -> None:
    """Keeps the energy of each trained member that has none yet; nothing without a meter.

    Args:
        study: Its front is measured.
        cfg: Its settings.
        ground: What the machine adds.
        store: Where students are, and energies go.
        on_progress: Told which trial is being measured.

    Raises:
        KdbenchError: A student cannot be read, or the meter fails.
    """
    if ground.meter is None:
        return
    from kdbench.anchor import recorded_students
    from kdbench.codecs.weights import load_codec
    from kdbench.cost import energy_of
    from kdbench.data import load_images
    from kdbench.lease import host_lease

    setting, images = bench(cfg, ground, store), load_images(cfg.data.evaluation, "evaluation")
    numbers = [n for n in members(study) if not store.trial(cfg.name, n).trained_energy.exists()]
    for i, number in enumerate(numbers):
        on_progress(number, Progress(stage="front's energy", step=i + 1, n_steps=len(numbers)))
        students = recorded_students(store.load_trial(cfg.name, number))
        model, _ = load_codec(students[len(students) // 2])
        energy = energy_of(model.to(setting.device), images, setting, host_lease(), fresh=True)
        if energy is not None:
            store.save_trained_energy(cfg.name, number, energy)
