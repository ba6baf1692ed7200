"""What a worker without a shared root finds, as Optuna artifacts: read back by `collect`.

Files go up before their trial is told, and what is told of them (`UPLOADED`: name, artifact, size,
SHA-256) goes last: a trial that is complete is whole in the database, too. What comes later, say a
front's energy, and what a worker that died left behind, hangs on the study, since Optuna lets
nobody add to a trial that has ended.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import upload_artifact
from optuna.trial import FrozenTrial

from kdbench.search.attributes import UPLOADED
from kdbench.search.locks import Lock
from kdbench.search.shelf import Shelf
from kdbench.store import Store, TrialFolder

STUDY = f"{UPLOADED}:study"
File = tuple[str, int, str]  # artifact's id, bytes, SHA-256
Manifest = Mapping[str, Any]  # name -> File, unless somebody else wrote it


def late(number: int) -> str:
    """The study's attribute that says what came after a trial had ended."""
    return f"{UPLOADED}:{number}"


def manifest_of(study: Mapping[str, Any], trial: FrozenTrial) -> Manifest:
    """What was uploaded of a trial; nothing where its files lie in the study's own root.

    Args:
        study: User attributes of its study.
        trial: The trial.
    """
    parts = (trial.user_attrs.get(UPLOADED, {}), study.get(late(trial.number), {}))
    return {name: file for part in parts for name, file in dict(part).items()}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Uploader:
    """Uploads what a worker writes to its root.

    Args:
        study: Whose artifacts they become.
        store: The root of this machine.
        shelf: Where files are kept.
        turn: One process of this root at a time looks for what is left.
    """

    study: optuna.Study
    store: Store
    shelf: Shelf
    turn: Lock

    def trial(self, trial: optuna.Trial, folder: TrialFolder) -> None:
        """The files of a trial that is about to be told."""
        manifest = self._put(folder.whole, trial)
        trial.set_user_attr(UPLOADED, manifest)

    def rest(self, pause: Callable[[], None]) -> None:
        """What this root has and the database has not.

        Args:
            pause: Waits while another worker does the same; may raise KeyboardInterrupt.
        """
        while not self.turn.take():
            pause()
        try:
            self._rest()
        finally:
            self.turn.release()

    def _rest(self) -> None:
        name, known = self.study.study_name, self.study.user_attrs
        trials = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
        for stored in self.store.trials(name):
            number = stored.number
            if stored.state == "running" or number not in trials:
                continue
            has = manifest_of(known, trials[number])
            left = [p for p in stored.folder.whole if p.name not in has]
            if left:
                before = dict(known.get(late(number), {}))
                self.study.set_user_attr(late(number), {**before, **self._put(left, self.study)})
        if STUDY not in known and (anchor := self.store.anchor_files(name)):
            self.study.set_user_attr(STUDY, self._put(anchor, self.study))

    def _put(self, paths: Iterable[Path], owner: optuna.Trial | optuna.Study) -> dict[str, File]:
        made = {}
        for path in paths:
            artifact = upload_artifact(
                artifact_store=self.shelf, file_path=str(path), study_or_trial=owner
            )
            within = path.name if path.parent.name != "crops" else f"crops/{path.name}"
            made[within] = (artifact, path.stat().st_size, sha256(path))
        return made
