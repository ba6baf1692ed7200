"""The notes of a study: written by us, or by people, whose words take the place of ours."""

import threading
from collections.abc import Mapping
from dataclasses import replace

from kdbench.dashboard.picture import Note
from kdbench.store import Store


class Notebook:
    """Notes by the number of their trial, None for the study's; counts the versions of each.

    Args:
        store: Where people's notes are kept, in the study's `notes.json`.
        study: Its name.

    Attributes:
        n_written: Notes that somebody wrote here.
    """

    def __init__(self, store: Store, study: str) -> None:
        self._store, self._study = store, study
        self._shown: dict[int | None, Note] = {}
        self._writing = threading.Lock()
        self.n_written = 0

    def notes(self, ours: Mapping[int | None, str]) -> dict[int | None, Note]:
        """What is shown: people's notes as the store has them, and ours of everything else."""
        with self._writing:
            kept = self._store.load_notes(self._study)
            texts = dict(ours)
            texts.update((int(number), text) for number, text in kept.trials.items())
            if kept.study is not None:
                texts[None] = kept.study
            for number, text in texts.items():
                self._show(number, text)
            return dict(self._shown)

    def write(self, number: int | None, text: str, version: int) -> Note | None:
        """Keeps what somebody wrote; None, and nothing is kept, if they had an older note.

        Args:
            number: Of the trial; None for the study.
            text: Markdown; an empty one gives the note back to us.
            version: One more than that of the note they began from.

        Raises:
            StoreError: The study's folder cannot be written.
        """
        with self._writing:
            last = self._shown.get(number)
            if version != (last.version if last else 0) + 1:
                return None
            kept = self._store.load_notes(self._study)
            if number is None:
                kept = replace(kept, study=text or None)
            else:
                others = {k: v for k, v in kept.trials.items() if k != str(number)}
                kept = replace(kept, trials={**others, **({str(number): text} if text else {})})
            self._store.save_notes(self._study, kept)
            self.n_written += 1
            return self._show(number, text)

    def shown(self, number: int | None) -> Note:
        """The note that is shown now."""
        return self._shown.get(number) or Note(text="", version=0)

    def _show(self, number: int | None, text: str) -> Note:
        last = self._shown.get(number)
        if last is None or last.text != text:
            self._shown[number] = Note(text=text, version=(last.version if last else 0) + 1)
        return self._shown[number]
