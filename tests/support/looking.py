"""A stored study with its database, a dashboard in a process of its own, and who asks it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from kdbench.files import append_log
from kdbench.objectives import OBJECTIVES as BY_NAME
from kdbench.records import Reconstruction
from kdbench.samples import SIDE_PX, png
from kdbench.search.storage import connect
from kdbench.store import Store, StoredTrial
from tests.support.results import OBJECTIVES, STUDY, make_study

BROKEN = 7  # complete, better than every other trial, and above a limit; it has no folder
QUEUED = 6
LIMITS = {"overlap": 0.0, "params": -0.5}
STATES = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
SPACE = {
    "encoder.width": CategoricalDistribution([16, 24, 32, 48, 64]),
    "training.learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
}


def make_watched(root: Path) -> Store:
    """The study of `make_study` with its database; one more trial waits, one breaks a rule."""
    store = make_study(root)
    (root / "cache").mkdir(exist_ok=True)
    for trial in store.trials(STUDY):
        for step in (0, 400, 799):
            loss = {"step": step, "loss": 2.0 - step / 1000, "bpp": 0.5, "mse": 0.001}
            append_log(trial.folder.log, {**loss, "rd_loss": 1.5 - step / 1000, "latent": 0.1})
        trial.folder.student.write_bytes(bytes(range(256)) * (trial.number + 1))
    _keep_cuts(store)
    study = new_database(store)
    for trial in store.trials(STUDY):
        study.add_trial(told(trial))
    study.enqueue_trial({"encoder.width": 24, "training.learning_rate": 1e-3})
    study.add_trial(told_broken())
    return store


def _keep_cuts(store: Store) -> None:
    """Of the photo, of three levels of the anchor, and of the complete trials."""
    cuts = {
        Reconstruction(image="a.png", level=level, bpp=bpp, psnr_db=30.0): _flat(40 * level)
        for level, bpp in enumerate((0.1, 0.25, 0.6))
    }
    store.save_anchor_crops(STUDY, _flat(255), cuts)
    for trial in store.trials(STUDY):
        if trial.result is not None:
            own = Reconstruction(image="a.png", level=1, bpp=0.27, psnr_db=29.0)
            trial.folder.save_crop(own, _flat(200))


def _flat(grey: int) -> bytes:
    """A cut of one grey."""
    return png(np.full((SIDE_PX, SIDE_PX, 3), grey, np.uint8))


def new_database(store: Store) -> optuna.Study:
    """An empty one for the study."""
    with optuna_is_quiet():
        study = optuna.create_study(
            study_name=STUDY,
            storage=connect(store.database_url(STUDY), create=True),
            directions=["minimize"] * len(OBJECTIVES),
        )
        study.set_metric_names(OBJECTIVES)
    return study


@contextmanager
def optuna_is_quiet() -> Iterator[None]:
    """No line for each study and trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def told(trial: StoredTrial) -> FrozenTrial:
    """A trial as its worker told it."""
    found = trial.result
    values = None if found is None else [BY_NAME[name](found) for name in OBJECTIVES]
    infeasible = {**LIMITS, "params": 0.13} if trial.state == "infeasible" else LIMITS
    return optuna.create_trial(
        state=STATES[trial.state],
        values=values,  # type: ignore[arg-type] # all are known
        params={"encoder.width": (16, 24, 32, 48, 64)[trial.number % 5], **_rate(trial.number)},
        distributions=SPACE,
        constraints=infeasible if trial.state in ("complete", "infeasible") else None,
        user_attrs={"spec_hash": trial.spec.hash},
    )


def told_broken() -> FrozenTrial:
    """Values that beat every other trial's, and a rule that is broken."""
    return optuna.create_trial(
        values=[-50.0, 0.1, 0.1],
        params={"encoder.width": 64, **_rate(3)},
        distributions=SPACE,
        constraints={**LIMITS, "params": 0.5},
    )


def _rate(number: int) -> dict[str, float]:
    return {"training.learning_rate": 1e-3 + number * 1e-4}


# --- the dashboard ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One that runs.

    Attributes:
        page: Address of the study's page.
    """

    process: "subprocess.Popen[str]"
    page: str

    @property
    def origin(self) -> str:
        """What every address here begins with."""
        parts = urlsplit(self.page)
        return f"{parts.scheme}://{parts.netloc}"

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Answer:
        """One request, with the headers that are given and no others."""
        connection = HTTPConnection(urlsplit(self.page).netloc, timeout=60)
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=dict(headers or {}))
        said = connection.getresponse()
        answer = Answer(
            status=said.status,
            headers={name.lower(): value for name, value in said.getheaders()},
            body=said.read(),
        )
        connection.close()
        return answer

    def details(self) -> Any:
        """What the page is told of the study."""
        said = self.ask("/api/studies/0")
        assert said.status == 200, said.body
        return said.json

    def trial(self, number: int) -> Any:
        """What the page is told of one trial."""
        return self.details()["trials"][number]


def command(root: Path, study: str, *flags: str) -> list[str]:
    """`kdbench dashboard` at any free port, which says where in JSON."""
    where = ["--study", study, "--root", str(root), "--port", "0", "--json"]
    hears = ["env", "--default-signal=INT"]  # a shell's background job would be deaf to Ctrl-C
    return [*hears, sys.executable, "-m", "kdbench", "dashboard", *where, *flags]


@contextmanager
def dashboard(root: Path, *flags: str, study: str = STUDY) -> Iterator[Dashboard]:
    """A dashboard until the block ends; Ctrl-C must end it as other commands end."""
    with subprocess.Popen(
        command(root, study, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        said = _document(iter(process.stdout.readline, ""))
        if not said:
            raise AssertionError(process.communicate()[1])
        try:
            yield Dashboard(process=process, page=said["url"])
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, err = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 130
        assert "Traceback" not in err
        assert err.endswith("interrupted; the study is as it was\n")


def _document(lines: Iterator[str]) -> dict[str, Any]:
    """The first JSON document of a stream that goes on."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            found: dict[str, Any] = json.loads(text)
            return found
    return {}


def names(attributes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """User attributes as the page is told them."""
    return {one["key"]: one["value"] for one in attributes}
