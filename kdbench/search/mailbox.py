"""What trainers and a target device write to each other, in Optuna's database.

The target may share no folder with the trainers, only the database. A study of its own there,
`STUDY@TARGET`, holds no trials; its user attributes are the letters, one for each purpose:

    search       of the coordinator: its kdbench and protocol, settings, the photo; how it ended
    identity     of the first target: meter, source and fingerprint, which later ones must have
    target       of the target that lives, every few seconds: who it is, and a count that grows
    ask:KEY      of a trainer: which codec file to measure, and whether it is trained
    answer:KEY   of the target: energy, time and memory; or what went wrong, with its fix

KEY is the hash of an architecture (started students) or of a codec file (trained ones), so nothing
depends on who asks or answers: what is asked twice is measured once, and what a target that died
left unanswered the next one of its name answers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage

from kdbench.errors import TargetError
from kdbench.search.parcels import Parcels
from kdbench.search.storage import quiet

SEARCH, IDENTITY, TARGET = "search", "identity", "target"
ASK, ANSWER = "ask:", "answer:"
Letters = Mapping[str, Any]


class Request(NamedTuple):
    """A codec file that somebody wants measured.

    Attributes:
        sha: SHA-256 of the file.
        is_trained: Whether it is to be measured anew, whatever is known of its architecture.
    """

    key: str
    sha: str
    is_trained: bool


class Mailbox:
    """The letters of one study and one target.

    Args:
        storage: Optuna's.
        study: The study that is searched.
        target: Name of the device.
    """

    def __init__(self, storage: BaseStorage, study: str, target: str) -> None:
        self.study, self.target = study, target
        self.storage = storage
        self._name = f"{study}@{target}"
        self._parcels = Parcels(storage, f"{self._name}:")

    def create(self) -> None:
        """Makes it where there is none; the coordinator's to do."""
        with quiet():
            optuna.create_study(study_name=self._name, storage=self.storage, load_if_exists=True)

    def remove(self) -> None:
        """Forgets all of it; nothing happens where there is none."""
        for sha in self._parcels.known():
            self._parcels.remove(sha)
        try:
            with quiet():
                optuna.delete_study(study_name=self._name, storage=self.storage)
        except KeyError:
            return

    def letters(self) -> dict[str, Any]:
        """Every letter there is, by its key.

        Raises:
            TargetError: The study waits for no target of this name.
        """
        attributes = self._box().user_attrs
        return {key: letter for key, letter in attributes.items() if letter is not None}

    def write(self, key: str, letter: Mapping[str, Any] | None) -> None:
        """Writes a letter in the place of what was there; None takes it away."""
        self._box().set_user_attr(key, letter)

    def ask(self, key: str, file: bytes, *, is_trained: bool) -> None:
        """Sends a codec file to be measured."""
        self.write(ASK + key, {"sha": self._parcels.put(file), "is_trained": is_trained})

    def file(self, request: Request) -> bytes | None:
        """The codec file of a request; None where it is gone or not whole."""
        return self._parcels.get(request.sha)

    def answer(self, request: Request, letter: Mapping[str, Any]) -> None:
        """Answers a request and forgets its file."""
        self.write(ANSWER + request.key, letter)
        self.withdraw(request)

    def withdraw(self, request: Request) -> None:
        """Takes a request away, with its file, unless another one names that, too."""
        self.write(ASK + request.key, None)
        if request.sha not in {other.sha for other in unanswered(self.letters())}:
            self._parcels.remove(request.sha)

    def sweep(self) -> None:
        """Forgets files that no request names: of trainers that died while they sent them."""
        wanted = {request.sha for request in unanswered(self.letters())}
        for sha in {*self._parcels.known()} - wanted:
            self._parcels.remove(sha)

    def _box(self) -> optuna.Study:
        try:
            with quiet():
                return optuna.load_study(study_name=self._name, storage=self.storage)
        except KeyError:
            raise self._unknown() from None

    def _unknown(self) -> TargetError:
        known = targets(self.storage).get(self.study, [])
        waits = f"it asks {', '.join(known)}" if known else "it asks none"
        fix = (
            f"begin the search first, with the same database: `kdbench search --study {self.study}"
        )
        return TargetError(
            f"study {self.study!r} asks no target {self.target!r} in this database; {waits}",
            fix=f"{fix} --set target={self.target}`, or name another target with `--as`",
        )


def targets(storage: BaseStorage) -> dict[str, list[str]]:
    """Names of the targets that each study asks."""
    with quiet():
        names = optuna.get_all_study_names(storage)
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        study, at, target = name.partition("@")
        if at and ":" not in target:
            found.setdefault(study, []).append(target)
    return found


def unanswered(letters: Letters) -> list[Request]:
    """The requests among the letters of a box that have no answer."""
    found = []
    for key, letter in letters.items():
        name = key.removeprefix(ASK)
        if key.startswith(ASK) and ANSWER + name not in letters:
            found.append(Request(name, str(letter["sha"]), bool(letter["is_trained"])))
    return found
