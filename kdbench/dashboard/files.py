"""Which files of a trial the page offers: what its folder holds, and figures drawn from it."""

from kdbench.dashboard.artifacts import Artifact, artifact
from kdbench.report.overview import Overview
from kdbench.store import StoredTrial


def artifacts_of(found: Overview, trial: StoredTrial) -> list[Artifact]:
    """Of one trial, figures first."""
    kept = [path for path in trial.folder.kept if path.is_file()]
    return [artifact(found.study, trial.number, path.name, path.read_bytes) for path in kept]
