"""The folders of trials that were trained elsewhere, from what their workers uploaded.

A folder appears whole or not at all, each file as its SHA-256 says; what is here already is never
replaced. `disagreements` compares what the database says with what the folders say.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter, ValidationError

from kdbench import config
from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError, StoreError
from kdbench.files import write_atomic
from kdbench.search import upload
from kdbench.search.attributes import DUPLICATE_OF, SPEC_HASH, TOKEN, UPLOADED
from kdbench.search.objectives import objective_values
from kdbench.search.patience import PatientStorage
from kdbench.search.roots import stored_study
from kdbench.search.shelf import Shelf
from kdbench.search.storage import connect_to_look, quiet, storage_errors
from kdbench.search.study import join
from kdbench.search.upload import File, Manifest, manifest_of
from kdbench.store import Store, StoredTrial

NOT_OURS = "no file of ours is called so"
NAME = re.compile(r"(crops/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Something that database and folders do not say alike.

    Attributes:
        trial: Its number; None of the study as a whole.
        storage: What the database says.
        folder: What the folder says.
    """

    trial: int | None
    storage: str
    folder: str


@dataclass(slots=True, kw_only=True)
class Collected:
    """What `collect` did.

    Attributes:
        new: Trials whose folder was made.
        completed: Trials whose folder lacked files that came later.
        n_known: Trials of which nothing was missing.
        problems: What was not taken, and why.
    """

    study: str
    root: Path
    new: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    n_known: int = 0
    problems: list[Disagreement] = field(default_factory=list)


def collect(name: str, store: Store, url: str) -> Collected:
    """Make the folders of all trials that were uploaded; doing it again adds what came since.

    Args:
        name: The study.
        store: Where its folders shall be; the study's own root, or any other.
        url: Its database.

    Raises:
        StoreError: No such study in the database, or the root has another one of that name.
    """
    with storage_errors(url), quiet(), closing(connect_to_look(url)) as storage:
        study, cfg, ground = join(name, storage)
        _require_same_study(study, cfg, store)
        store.require_writable()
        store.create_study(stored_study(study, ground))
        return gather(study, store, storage)


def gather(study: optuna.Study, store: Store, storage: PatientStorage) -> Collected:
    """The same for who has joined the study, and whose root has it."""
    name, known = study.study_name, study.user_attrs
    done = Collected(study=name, root=store.root)
    taking = _Taking(Shelf(storage), done)
    anchor = dict(known.get(upload.STUDY, {}))
    taking.files(None, store.study_folder(name), anchor)
    for trial in study.get_trials(deepcopy=False):
        if manifest := manifest_of(known, trial):
            taking.trial(trial.number, store.trial(name, trial.number).path, manifest)
    return done


def fetch(study: optuna.Study, store: Store, storage: PatientStorage, trial: FrozenTrial) -> None:
    """Bring the folder of one trial here, if it was uploaded and is not here."""
    folder = store.trial(study.study_name, trial.number)
    if UPLOADED in trial.user_attrs and not folder.spec.is_file():
        done = Collected(study=study.study_name, root=store.root)
        manifest = manifest_of({}, trial)
        _Taking(Shelf(storage), done).trial(trial.number, folder.path, manifest)


@dataclass(frozen=True, slots=True)
class _Taking:
    """Takes files from the shelf and notes what became of them."""

    shelf: Shelf
    done: Collected

    def trial(self, number: int, folder: Path, manifest: Manifest) -> None:
        """A folder that is not there comes whole; else what it lacks."""
        if (folder / "spec.json").is_file():
            taken = self.files(number, folder, manifest)
            if taken:
                self.done.completed.append(number)
            else:
                self.done.n_known += 1
            return
        temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        try:
            if self.files(number, temporary, manifest) == len(manifest):
                folder.parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # an empty folder may be in the way; a full one never is
                    folder.rmdir()
                temporary.rename(folder)
                self.done.new.append(number)
        except OSError as why:
            raise StoreError(
                f"{folder} cannot be made: {str(why.strerror).lower()}",
                fix="name a folder that can be written with `--root FOLDER` or KDBENCH_ROOT",
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def files(self, number: int | None, folder: Path, manifest: Manifest) -> int:
        """Each file that is not there; says how many came. None that differs is replaced."""
        n = 0
        for name, entry in manifest.items():
            if (file := _file(name, entry)) is None:
                self._problem(number, f"an upload called {name!r}", NOT_OURS)
                continue
            artifact, n_bytes, digest = file
            path = folder / name
            if path.is_file():
                if upload.sha256(path) != digest:
                    self._problem(number, f"{name} of SHA-256 {digest[:12]}", "another one, kept")
            elif (content := self._read(number, name, artifact, n_bytes, digest)) is not None:
                write_atomic(path, content)
                n += 1
        return n

    def _read(
        self, number: int | None, name: str, artifact: str, n_bytes: int, digest: str
    ) -> bytes | None:
        try:
            with self.shelf.open_reader(artifact) as file:
                content = file.read()
        except ArtifactNotFound:
            self._problem(number, f"{name}, and nothing of its content", "not there")
            return None
        except StoreError as why:
            self._problem(number, f"{name}: {why.problem}", "not there")
            return None
        if (len(content), sha256(content).hexdigest()) != (n_bytes, digest):
            self._problem(number, f"{name}, whose content is another one's", "not there")
            return None
        return content

    def _problem(self, number: int | None, storage: str, folder: str) -> None:
        self.done.problems.append(Disagreement(trial=number, storage=storage, folder=folder))


_FILE = TypeAdapter(File)


def _file(name: str, entry: Any) -> File | None:
    """What was uploaded under a name; None where that is no file of a trial: names lead nowhere."""
    try:
        return _FILE.validate_python(entry) if NAME.fullmatch(name) else None
    except ValidationError:
        return None


# --- what database and folders say ----------------------------------------------------------------


def disagreements(name: str, store: Store, url: str) -> list[Disagreement]:
    """Where the database of a study and its folders in this root do not say the same.

    Raises:
        StoreError: No such study there or here, or a damaged file.
    """
    store.load_study(name)
    with storage_errors(url), quiet(), closing(connect_to_look(url)) as storage:
        study, cfg, _ = join(name, storage)
        found = list(_of_study(study, cfg, store))
        known, trials = study.user_attrs, study.get_trials(deepcopy=False)
        stored = {trial.number: trial for trial in store.trials(name)}
        told_again = {trial.user_attrs.get(DUPLICATE_OF) for trial in trials}
        for trial in trials:
            folder = stored.pop(trial.number, None)
            where = store.trial(name, trial.number).path
            problems = _of_trial(trial, folder, cfg, told_again=trial.number in told_again)
            found += [Disagreement(trial=trial.number, storage=a, folder=b) for a, b in problems]
            if folder is not None:
                found += _of_files(trial, manifest_of(known, trial), where)
        for number in stored:
            found.append(Disagreement(trial=number, storage="no such trial", folder="a trial"))
    return found


def _of_study(study: optuna.Study, cfg: StudyConfig, store: Store) -> Iterator[Disagreement]:
    here = store.load_study(cfg.name)
    settings = config.from_settings(here.settings, str(store.study_folder(cfg.name)))
    for line in config.differences(cfg, settings):  # "key: stored A, now B"
        key, _, values = line.partition(": ")
        then, _, now = values.removeprefix("stored ").partition(", now ")
        yield Disagreement(trial=None, storage=f"{key} {then}", folder=f"{key} {now}")
    token, mark = study.user_attrs.get(TOKEN), store.root_mark(cfg.name)
    if mark is not None and mark.token != token:
        storage = f"the token {str(token)[:8]}" if token else "no token"
        yield Disagreement(trial=None, storage=storage, folder=f"the token {mark.token[:8]}")


def _of_trial(
    trial: FrozenTrial, folder: StoredTrial | None, cfg: StudyConfig, *, told_again: bool
) -> Iterator[tuple[str, str]]:
    state, is_twin = trial.state, DUPLICATE_OF in trial.user_attrs
    says = state.name.lower()
    if folder is None:
        if state in (TrialState.COMPLETE, TrialState.PRUNED) and not is_twin:
            hint = "; uploaded, `kdbench collect` brings it" if UPLOADED in trial.user_attrs else ""
            yield f"{says}{hint}", "no folder"
        return
    known = trial.user_attrs.get(SPEC_HASH)
    if known is not None and known != folder.spec.hash:
        yield f"spec {known}", f"spec {folder.spec.hash}"
    if state == TrialState.COMPLETE and folder.result is None:
        yield says, f"no result ({folder.state})"
    elif state == TrialState.COMPLETE and folder.result is not None:
        found = _values(cfg, folder)
        if found != trial.values:
            yield f"values {trial.values}", f"values {found}"
    elif state == TrialState.PRUNED and folder.state not in ("stopped", "refused", "infeasible"):
        yield says, folder.state
    elif state == TrialState.FAIL and folder.result is not None and not told_again:
        yield "failed", "complete"
    elif state == TrialState.WAITING:
        yield says, folder.state


def _values(cfg: StudyConfig, folder: StoredTrial) -> list[float] | None:
    assert folder.result is not None
    try:
        return objective_values(cfg.objectives, folder.result)
    except KdbenchError:
        return None


def _of_files(trial: FrozenTrial, manifest: Manifest, folder: Path) -> Iterator[Disagreement]:
    for name, entry in manifest.items():
        if (file := _file(name, entry)) is None:
            yield Disagreement(
                trial=trial.number, storage=f"an upload called {name!r}", folder=NOT_OURS
            )
            continue
        path, digest = folder / name, file[2]
        if not path.is_file():
            yield Disagreement(
                trial=trial.number,
                storage=f"{name}; uploaded, `kdbench collect` brings it",
                folder="not there",
            )
        elif upload.sha256(path) != digest:
            yield Disagreement(
                trial=trial.number, storage=f"{name} of SHA-256 {digest[:12]}", folder="another one"
            )


def _require_same_study(study: optuna.Study, cfg: StudyConfig, store: Store) -> None:
    if cfg.name not in store.studies():
        return
    problems = list(_of_study(study, cfg, store))
    if problems:
        lines = [f"database: {each.storage}; folder: {each.folder}" for each in problems]
        raise StoreError(
            f"{store.study_folder(cfg.name)} is another study that is called {cfg.name!r}, too:\n  "
            + "\n  ".join(lines),
            fix="collect into another `--root`, or name the database of this one with `--storage`",
        )
