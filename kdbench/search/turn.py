"""Whose turn it is to ask for a trial: one worker at a time, of this host and of all others."""

import hashlib

from kdbench.search import postgres
from kdbench.search.dead import host
from kdbench.search.locks import ASK, Lock, StudyLocks
from kdbench.search.patience import Patience, PatientStorage
from kdbench.search.storage import parse

POLL_S = 0.03


class TurnLost(Exception):  # noqa: N818  # what happened
    """Others asked while we did: the database gave our turn away, and the budget is spent."""


class Turn:
    """Held from the look at the budget until the trial says what it is about to train.

    Two locks: a file of this host, so that of its workers one waits for the other; where the
    database is PostgreSQL one there, which holds on every machine, and may be lost: the session is
    cut, or its process is stopped.

    Attributes:
        is_for_all: Whether nobody else may ask meanwhile, on any machine that has the database.
    """

    def __init__(
        self,
        local: Lock,
        everywhere: postgres.DatabaseLock | None,
        patience: Patience,
        *,
        is_for_all: bool,
    ) -> None:
        self._local, self._everywhere, self._patience = local, everywhere, patience
        self.is_for_all = is_for_all

    def wait(self) -> None:
        """Take it, once nobody else has it and the database answers.

        Raises:
            SQLAlchemyError: It does not come back.
            KeyboardInterrupt: Somebody wants us to stop.
        """
        while not self._patience.call(self.take):
            self._patience.sleep(POLL_S)

    def take(self) -> bool:
        """Whether it is ours now.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        return self._local.take() and (self._everywhere is None or self._everywhere.take())

    def is_held(self) -> bool:
        """Whether it has been ours without a break since we took it."""
        return self._everywhere is None or self._everywhere.is_held()

    def release(self) -> None:
        """Let others ask; nothing happens if it is not ours."""
        if self._everywhere is not None:
            self._everywhere.release()
        self._local.release()


def turn_of(study: str, locks: StudyLocks, storage: PatientStorage) -> Turn:
    """The turn to ask of one worker of a study."""
    url, local = parse(storage.url), locks.lock(ASK)
    if url.get_backend_name() != "postgresql":
        return Turn(local, None, storage.patience, is_for_all=url.get_backend_name() == "sqlite")
    everywhere = postgres.DatabaseLock(postgres.engine(url), f"{study} ask")
    return Turn(local, everywhere, storage.patience, is_for_all=True)


def seat(storage: PatientStorage, index: int, root: str) -> int:
    """A number of this worker that no other one has; its index where all are on one host."""
    if parse(storage.url).get_backend_name() == "sqlite":
        return index
    where = hashlib.sha256(f"{host()}\0{root}\0{index}".encode()).digest()
    return int.from_bytes(where[:6], "big")
