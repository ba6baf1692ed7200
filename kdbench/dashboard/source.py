"""Where a picture comes from: the study's database, opened for reading alone, and its folders."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial

from kdbench.dashboard import words
from kdbench.dashboard.artifacts import Artifact
from kdbench.dashboard.figures import draw
from kdbench.dashboard.files import artifacts_of
from kdbench.dashboard.notebook import Notebook
from kdbench.dashboard.picture import SAME, STUDY_ID, Picture, best_of, of_trials, write_note
from kdbench.errors import StoreError
from kdbench.report.gather import Gathered, gather
from kdbench.search.storage import connect_to_look, quiet, storage_errors
from kdbench.store import Store

STUDY_PAGE = f"/dashboard/studies/{STUDY_ID}"


class Source:
    """One study, looked at and never touched.

    Args:
        store: Where its folders are.
        study: Its name.
        url: Of its database.
        notebook: Its notes.

    Raises:
        StoreError: No such study, here or in the database, or the database does not answer.
        KdbenchError: It lists codecs, or its trials do not compare.
    """

    def __init__(self, store: Store, study: str, url: str, notebook: Notebook) -> None:
        self._store, self._name, self._url, self._notebook = store, study, url, notebook
        gather(store, study)  # what is wrong with the folders is said before the database's
        self._database: RDBStorage = connect_to_look(url)
        try:
            with storage_errors(url), quiet():
                self._study = optuna.load_study(study_name=study, storage=self._database)
        except KeyError:
            raise StoreError(
                f"the database knows no study {study!r}",
                fix=f"name the database that has it with `--storage`, or start it with `kdbench "
                f"search --study {study}`",
            ) from None

    def stamp(self) -> object:
        """Another value whenever a trial begins, ends or is measured again, or a note changes."""
        states = tuple(trial.state for trial in self._trials())
        notes = self._store.load_notes(self._name), self._notebook.n_written
        return states, self._store.stamp(self._name), notes

    def picture(self) -> Picture:
        """The study as it is; the database first, since a worker writes its folder before it."""
        trials = self._trials()
        whole = gather(self._store, self._name)
        found, fixed = whole.found, whole.stored.fixed
        artifacts = {one.number: artifacts_of(whole, one) for one in found.trials}
        with quiet():
            storage = InMemoryStorage()
            study = of_trials(found, trials, artifacts, fixed, storage)
            self._write_notes(study, whole, artifacts)
            return Picture(
                study=study,
                storage=storage,
                best=best_of(study),
                figures=draw(study, found, whole.codecs),
                artifacts={one.id: one for few in artifacts.values() for one in few},
            )

    def _trials(self) -> Sequence[FrozenTrial]:
        with storage_errors(self._url), quiet():
            try:
                return self._study.get_trials(deepcopy=False)
            finally:
                self._database.remove_session()  # every request has a thread of its own

    def _write_notes(
        self,
        study: optuna.Study,
        whole: Gathered,
        artifacts: Mapping[int, Sequence[Artifact]],
    ) -> None:
        page = f"{STUDY_PAGE}/trials?numbers="
        ours: dict[int | None, str] = {None: words.study_note(whole, page)}
        for one in study.get_trials(deepcopy=False):
            if SAME in one.user_attrs:
                ours[one.number] = words.duplicate_note(int(one.user_attrs[SAME]), page)
        found = whole.found
        for trial in found.trials:
            shown = [
                (one, f"/artifacts/{STUDY_ID}/{trial.number}/{one.id}")
                for one in artifacts[trial.number]
                if one.is_image
            ]
            ours[trial.number] = words.trial_note(found, trial, shown)
        for number, note in self._notebook.notes(ours).items():
            write_note(study, note, number)
