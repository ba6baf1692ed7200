"""The front's energy again, after training: shows how little the weights matter to it.

A student is measured before its training, so that its cost is known before a step is spent on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import optuna

from kdbench.bench import CodecFigures, load_anchor
from kdbench.config import StudyConfig
from kdbench.files import write_json
from kdbench.records import Progress
from kdbench.search.asking import Asking
from kdbench.search.attributes import DUPLICATE_OF
from kdbench.search.ground import Ground, bench
from kdbench.store import Store

if TYPE_CHECKING:
    from kdbench.cost import Answer


def members(study: optuna.Study) -> list[int]:
    """Numbers of the trials that no other one beats; a spec that came up twice counts once."""
    best = study.best_trials
    return sorted({trial.user_attrs.get(DUPLICATE_OF, trial.number) for trial in best})


def unmeasured(study: optuna.Study, cfg: StudyConfig, store: Store) -> list[int]:
    """Members of the front whose energy is not measured after training, of a study with a target.

    Where the study measures here, that is never left undone.
    """
    return [] if cfg.target is None else _left(study, cfg, store)


def _left(study: optuna.Study, cfg: StudyConfig, store: Store) -> list[int]:
    """Members in this root that nobody measured; other roots have the others."""
    folders = {number: store.trial(cfg.name, number) for number in members(study)}
    here = {number: folder for number, folder in folders.items() if folder.result.is_file()}
    return [number for number, folder in here.items() if not folder.trained_energy.exists()]


def measure_front(
    study: optuna.Study,
    cfg: StudyConfig,
    ground: Ground,
    store: Store,
    on_progress: Callable[[int, Progress], None],
    *,
    elsewhere: Asking | None = None,
) -> None:
    """Keeps the energy of each trained member in this root that has none; nothing without a meter.

    Args:
        study: Its front is measured.
        cfg: Its settings.
        ground: What the machine adds.
        store: Where students are, and energies go.
        on_progress: Told which trial is being measured.
        elsewhere: The target that measures in this machine's place.

    Raises:
        TargetError: It is silent.
        KdbenchError: A student cannot be read, or the meter fails.
    """
    if ground.meter is None:
        return
    if elsewhere is not None:
        _have_measured(_left(study, cfg, store), cfg, store, on_progress, elsewhere)
        return
    from kdbench.anchor import recorded_students
    from kdbench.codecs.weights import load_codec
    from kdbench.cost import energy_of
    from kdbench.data import load_images
    from kdbench.lease import host_lease

    setting, images = bench(cfg, ground, store), load_images(cfg.data.evaluation, "evaluation")
    numbers = _left(study, cfg, store)
    for i, number in enumerate(numbers):
        on_progress(number, Progress(stage="front's energy", step=i + 1, n_steps=len(numbers)))
        students = recorded_students(store.load_trial(cfg.name, number))
        model, _ = load_codec(students[len(students) // 2])
        energy = energy_of(model.to(setting.device), images, setting, host_lease(), fresh=True)
        if energy is not None:
            store.save_trained_energy(cfg.name, number, energy)


def _have_measured(
    numbers: Sequence[int],
    cfg: StudyConfig,
    store: Store,
    on_progress: Callable[[int, Progress], None],
    elsewhere: Asking,
) -> None:
    """Sends the trained students to the target, the anchor too, and collects its answers."""
    answers = {}
    for number in numbers:
        students = store.trial(cfg.name, number).students
        answers[number] = elsewhere.ask_trained(students[len(students) // 2])
    of_anchor = _ask_for_anchor(cfg, store, elsewhere)
    for i, (number, answer) in enumerate(answers.items()):
        on_progress(number, Progress(stage="front's energy", step=i + 1, n_steps=len(answers)))
        store.save_trained_energy(cfg.name, number, answer())
    if of_anchor is not None:
        figures, answer = of_anchor
        write_json(store.anchor_file(cfg.name), replace(figures, energy=answer()))


def _ask_for_anchor(
    cfg: StudyConfig, store: Store, elsewhere: Asking
) -> tuple[CodecFigures, "Answer"] | None:
    """The anchor's figures, and who waits for its energy; None of one that is known or no file."""
    from kdbench.anchor import codec_files

    figures = load_anchor(store, cfg.name)
    if figures is None or figures.energy is not None:
        return None
    files = codec_files(cfg.anchor, cache=store.cache, store=store)
    return (figures, elsewhere.ask_trained(files[len(files) // 2])) if files else None
