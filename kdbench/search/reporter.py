"""What a worker says of itself while it works."""

import math
import os
import time
from dataclasses import dataclass, replace

from kdbench.records import Progress
from kdbench.search.dead import host, slurm_job
from kdbench.store import Store, WorkerState

REPORT_S = 0.25  # the live display reads no faster


@dataclass(slots=True)
class Reporter:
    """Writes what a worker does for the live display, at most four times a second."""

    store: Store
    study: str
    worker: int
    trial: int | None = None
    _stage: str = ""
    _said: float = -math.inf

    def __call__(self, progress: Progress) -> None:
        """Tell it, unless something of this stage was told just now."""
        now = time.monotonic()
        if progress.stage == self._stage and now - self._said < REPORT_S:
            return
        if progress.loss is not None and not math.isfinite(progress.loss):
            progress = replace(progress, loss=None)
        self._stage, self._said = progress.stage, now
        state = WorkerState(
            index=self.worker,
            pid=os.getpid(),
            trial=self.trial,
            progress=progress,
            updated_s=time.time(),
            host=host(),
            job=slurm_job(),
        )
        self.store.save_worker(self.study, state)

    def begin(self, trial: int | None, stage: str) -> None:
        """Another trial, or none."""
        self.tell(trial, Progress(stage=stage))

    def tell(self, trial: int | None, progress: Progress) -> None:
        """Tell it at once, of another trial or none."""
        self.trial, self._said = trial, -math.inf
        self(progress)
