"""The files of a trial as the dashboard lists them: read where they lie, drawn when asked for."""

import json
import mimetypes
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import BinaryIO, NoReturn
from uuid import UUID, uuid5

from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound

OURS = UUID("6a2ff1c0-53a4-5d5a-9a57-0f4f0b6a1d55")  # ids follow from names: a page keeps them
KINDS = {".jsonl": "application/jsonl", ".safetensors": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a trial.

    Attributes:
        id: By which the page asks for it, the same in every run.
        read: Its bytes, as they are when somebody asks.
    """

    id: str
    name: str
    read: Callable[[], bytes]

    @property
    def is_image(self) -> bool:
        """A browser can show it."""
        return self.mimetype.startswith("image/")

    @property
    def mimetype(self) -> str:
        """By the end of its name."""
        suffix = self.name[self.name.rfind(".") :]
        return KINDS.get(suffix) or mimetypes.guess_type(self.name)[0] or "text/plain"

    def attribute(self) -> tuple[str, str]:
        """What Optuna's `upload_artifact` leaves in a storage, under which key."""
        meta = ArtifactMeta(
            artifact_id=self.id, filename=self.name, mimetype=self.mimetype, encoding=None
        )
        return f"artifacts:{self.id}", json.dumps(asdict(meta))


def artifact(study: str, number: int, name: str, read: Callable[[], bytes]) -> Artifact:
    """A file called `name` of a trial."""
    return Artifact(str(uuid5(OURS, f"{study}/{number}/{name}")), name, read)


class NoShelf:
    """Optuna's artifact store, without which the page shows no artifacts; `answers` serves ours."""

    def open_reader(self, artifact_id: str) -> NoReturn:
        """Nothing is kept here."""
        raise ArtifactNotFound(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> NoReturn:
        """Refused."""
        raise RuntimeError("the dashboard keeps no files")

    def remove(self, artifact_id: str) -> NoReturn:
        """Refused."""
        raise RuntimeError("the dashboard removes no files")
