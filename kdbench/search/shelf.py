"""Optuna's artifacts in the study's own database: for machines that share nothing else.

A file is kept in pieces, with its size and SHA-256 beside; what is read back is compared with
both. Two tables beside Optuna's, made by the coordinator.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)

from kdbench.errors import StoreError
from kdbench.search.patience import PatientStorage

PIECE_BYTES = 1 << 20
MAX_BYTES = 1 << 30  # PostgreSQL would carry more; who has such students shares a root
TABLES = MetaData()
ARTIFACTS = Table(
    "kdbench_artifacts",
    TABLES,
    Column("artifact_id", String(36), primary_key=True),
    Column("n_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)
PIECES = Table(
    "kdbench_artifact_pieces",
    TABLES,
    Column(
        "artifact_id",
        String(36),
        ForeignKey("kdbench_artifacts.artifact_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("place", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)


def make(engine: Engine) -> None:
    """Make the tables where there are none."""
    TABLES.create_all(engine)


@dataclass(frozen=True, slots=True)
class Shelf:
    """An artifact store in the sense of Optuna, in the database of `storage`.

    What is read is compared with what was written, or it is a StoreError.
    """

    storage: PatientStorage

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep all of a file, or nothing.

        Raises:
            StoreError: It is larger than `MAX_BYTES`.
            StorageInternalError, SQLAlchemyError: The database does not keep it.
        """
        start = content_body.tell()

        def keep() -> None:
            content_body.seek(start)
            with self.storage.engine.begin() as connection:
                self._keep(connection, artifact_id, content_body)

        self.storage.patience.call(keep)

    def _keep(self, connection: Connection, artifact_id: str, content: BinaryIO) -> None:
        """Again, too: the connection may have broken when it was kept already."""
        digest, n_bytes = hashlib.sha256(), 0
        _remove(connection, artifact_id)
        named = {"artifact_id": artifact_id}
        connection.execute(insert(ARTIFACTS).values(**named, n_bytes=0, sha256=""))
        for place, piece in enumerate(iter(lambda: content.read(PIECE_BYTES), b"")):
            n_bytes += len(piece)
            if n_bytes > MAX_BYTES:
                raise StoreError(
                    f"a file of more than {MAX_BYTES >> 20} MiB is not put into the database",
                    fix="give this machine the study's own root, on a shared disk: `--root FOLDER`",
                )
            digest.update(piece)
            connection.execute(insert(PIECES).values(**named, place=place, data=piece))
        connection.execute(
            ARTIFACTS.update()
            .where(ARTIFACTS.c.artifact_id == artifact_id)
            .values(n_bytes=n_bytes, sha256=digest.hexdigest())
        )

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """A file as it was written.

        Raises:
            ArtifactNotFound: Nobody wrote it.
            StoreError: It is damaged.
        """
        return io.BytesIO(self.storage.patience.call(lambda: self._read(artifact_id)))

    def _read(self, artifact_id: str) -> bytes:
        with self.storage.engine.connect() as connection:
            known = connection.execute(
                select(ARTIFACTS.c.n_bytes, ARTIFACTS.c.sha256).where(
                    ARTIFACTS.c.artifact_id == artifact_id
                )
            ).one_or_none()
            if known is None:
                raise ArtifactNotFound(artifact_id)
            content = b"".join(self._pieces(connection, artifact_id))
        if len(content) != known.n_bytes or hashlib.sha256(content).hexdigest() != known.sha256:
            raise StoreError(
                f"artifact {artifact_id} in the database is damaged",
                fix="restore the database from a copy; or upload it again: start the worker that "
                "made it again, with the same `--root` and `--upload`",
            )
        return content

    @staticmethod
    def _pieces(connection: Connection, artifact_id: str) -> Iterator[bytes]:
        found = connection.execute(
            select(PIECES.c.data)
            .where(PIECES.c.artifact_id == artifact_id)
            .order_by(PIECES.c.place)
        )
        for (data,) in found:
            yield bytes(data)

    def remove(self, artifact_id: str) -> None:
        """Forget a file.

        Raises:
            ArtifactNotFound: Nobody wrote it.
        """

        def forget() -> int:
            with self.storage.engine.begin() as connection:
                return _remove(connection, artifact_id)

        if self.storage.patience.call(forget) == 0:
            raise ArtifactNotFound(artifact_id)


def _remove(connection: Connection, artifact_id: str) -> int:
    connection.execute(delete(PIECES).where(PIECES.c.artifact_id == artifact_id))
    gone = connection.execute(delete(ARTIFACTS).where(ARTIFACTS.c.artifact_id == artifact_id))
    return int(gone.rowcount)
