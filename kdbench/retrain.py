"""What `kdbench rerun` does: stored trials again, as they were or longer, fresh seeds, twins."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdbench.errors import KdbenchError
from kdbench.store import Store, StoredTrial

if TYPE_CHECKING:
    from kdbench.records import Bench
    from kdbench.report.overview import Overview
    from kdbench.seeds import Watch

FULL = "kd_pareto_long"  # the study whose steps are enough to quote
Views = tuple[Callable[[], Mapping[str, Any]], Callable[[int], str]]  # as JSON; as text of a width


class _Again(NamedTuple):
    """Stored trials of one study, and what they are trained again with."""

    overview: "Overview"
    trials: list[StoredTrial]
    bench: "Bench"
    anchor_sha: str | None
    store: Store

    @property
    def study(self) -> str:
        """Its name."""
        return self.overview.study

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for what is trained; who interrupts is told that it is kept."""
        folder = self.store.new_rerun(self.study)
        try:
            yield folder
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what is finished is kept in {folder}") from None


def rerun(store: Store, arguments: Namespace) -> Views:
    """Trains what `--trial` names again; gives what to print.

    Raises:
        KdbenchError: No such study or trial, or one that cannot be trained again so.
        KeyboardInterrupt: Says where finished results are kept.
    """
    again = _again(store, arguments)
    steps = _steps(arguments)
    if steps is not None and (arguments.twin or arguments.seeds):
        raise KdbenchError(
            "--steps and --full train a trial longer; --twin and --seeds train it as it was",
            fix="leave one of them away; `--set training.steps=N` searches with other steps",
        )
    if arguments.twin:
        return _twins(again, arguments)
    if arguments.seeds:
        return _fresh_seeds(again, arguments)
    return _same_again(again, arguments, steps)


def _steps(arguments: Namespace) -> int | None:
    """As many as were asked for; None for the recorded ones."""
    if not arguments.full:
        steps: int | None = arguments.steps
        return steps
    from kdbench.config import load_study

    return load_study(FULL, []).training.steps


def _again(store: Store, arguments: Namespace) -> _Again:
    from kdbench.anchor import at_home
    from kdbench.config import bench, from_settings
    from kdbench.device import resolve
    from kdbench.report.overview import choose, overview

    study = arguments.study
    found = overview(store, study)
    trials = [store.load_trial(study, n) for n in choose(found, arguments.trial)]
    stored = store.load_study(study)
    config = from_settings(stored.settings, f"study.json of {study}")
    device = resolve(arguments.device or config.device)
    setting = at_home(bench(config, cache=store.cache, device=device), store)
    return _Again(found, trials, setting, stored.fixed.get("anchor"), store)


def _same_again(again: _Again, arguments: Namespace, steps: int | None) -> Views:
    from kdbench.report.details import rerun_text
    from kdbench.report.json_view import rerun_json
    from kdbench.report.progress import following
    from kdbench.rerun import run_again

    runs = []
    with again.folder() as folder:
        for trial in again.trials:
            with following(f"trial {trial.number}", silent=arguments.json) as follow:
                run = run_again(
                    trial,
                    again.bench,
                    folder,
                    anchor_sha=again.anchor_sha,
                    steps=steps,
                    on_progress=follow,
                )
            runs.append(run)
    return lambda: rerun_json(runs, again.study), lambda width: rerun_text(runs, width)


def _fresh_seeds(again: _Again, arguments: Namespace) -> Views:
    from kdbench.report.confirm import confirm, confirmation_text
    from kdbench.report.controls import seeds_text
    from kdbench.report.json_view import seeds_json
    from kdbench.rerun import require_curve
    from kdbench.seeds import fresh_seeds

    for trial in again.trials:
        require_curve(trial)  # all of them before the first hour of training
    with again.folder() as folder:
        found = [
            fresh_seeds(
                trial,
                again.bench,
                folder,
                arguments.seeds,
                anchor_sha=again.anchor_sha,
                watch=_watch(trial.number, arguments),
            )
            for trial in again.trials
        ]

    def text(width: int) -> str:
        alone = seeds_text(found, width)
        if len(found) == 1:
            return alone
        return f"{alone}\n{confirmation_text(confirm(found, again.overview), width)}"

    return lambda: seeds_json(found, again.overview), text


def _twins(again: _Again, arguments: Namespace) -> Views:
    from kdbench.report.controls import twin_text
    from kdbench.report.json_view import twin_json
    from kdbench.twin import against_twin, require_twin

    for trial in again.trials:
        require_twin(trial)
    study = again.store.trials(again.study)
    with again.folder() as folder:
        found = [
            against_twin(
                trial,
                again.bench,
                folder,
                arguments.seeds or 1,
                study=study,
                watch=_watch(trial.number, arguments),
            )
            for trial in again.trials
        ]
    return lambda: twin_json(found, again.study), lambda width: twin_text(found, width)


def _watch(number: int, arguments: Namespace) -> "Watch":
    """Shows the progress of each training of trial `number`."""
    from kdbench.report.progress import following

    return lambda name: following(f"trial {number} {name}", silent=arguments.json)
