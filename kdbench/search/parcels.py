"""Codec files on their way through Optuna's database, for machines that share no folder.

A file travels in pieces, the user attributes of a study of its own, and is gone once it is removed.
"""

import base64
import hashlib

import optuna
from optuna.storages import BaseStorage

from kdbench.search.storage import quiet

PIECE_BYTES = 45_000  # 60,000 letters of base64: MySQL's TEXT ends at 65,535


class Parcels:
    """Files by their SHA-256.

    Args:
        storage: Optuna's.
        prefix: Of the names of their studies.
    """

    def __init__(self, storage: BaseStorage, prefix: str) -> None:
        self._storage, self._prefix = storage, prefix

    def put(self, file: bytes) -> str:
        """Sends a file; gives its name."""
        sha = hashlib.sha256(file).hexdigest()
        with quiet():
            parcel = optuna.create_study(
                study_name=self._prefix + sha, storage=self._storage, load_if_exists=True
            )
        for i in range(0, len(file), PIECE_BYTES):
            piece = base64.b64encode(file[i : i + PIECE_BYTES]).decode()
            parcel.set_user_attr(str(i // PIECE_BYTES), piece)
        return sha

    def get(self, sha: str) -> bytes | None:
        """A file; None where it is gone or not whole."""
        try:
            with quiet():
                parcel = optuna.load_study(study_name=self._prefix + sha, storage=self._storage)
                pieces = parcel.user_attrs
        except KeyError:
            return None
        file = b"".join(base64.b64decode(pieces[place]) for place in sorted(pieces, key=int))
        return file if hashlib.sha256(file).hexdigest() == sha else None

    def remove(self, sha: str) -> None:
        """Forgets a file; nothing happens where there is none."""
        try:
            with quiet():
                optuna.delete_study(study_name=self._prefix + sha, storage=self._storage)
        except KeyError:
            return

    def known(self) -> list[str]:
        """Every file that is on its way."""
        with quiet():
            names = optuna.get_all_study_names(self._storage)
        return [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
