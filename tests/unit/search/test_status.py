"""What `status` knows of studies that run, wait, are finished, or have lost their database."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import TrialState
from sqlalchemy import update
from sqlalchemy.orm import Session

from kdbench.errors import KdbenchError, StoreError
from kdbench.files import write_json
from kdbench.records import Progress
from kdbench.report.standing_text import standing_json, standing_text
from kdbench.search.attributes import BY
from kdbench.search.status import standing
from kdbench.search.storage import connect
from kdbench.standing import Pace, Standing
from kdbench.store import Store, WorkerState
from tests.unit.search.lab import Lab

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "status.schema.json"


def checked(found: Standing) -> dict[str, Any]:
    """Its JSON, which follows the schema; its text does not fail."""
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    document: dict[str, Any] = json.loads(json.dumps(standing_json(found), allow_nan=False))
    Draft202012Validator(schema).validate(document)
    assert standing_text(found, 100).startswith(f"study {found.study}: ")
    return document


def says(store: Store, index: int = 0, *, ago_s: float = 0.0, **more: Any) -> None:
    """A worker tells what it does."""
    state = WorkerState(
        index=index,
        pid=os.getpid(),
        trial=4,
        progress=Progress(stage="training", step=7, n_steps=10),
        updated_s=time.time() - ago_s,
        host=socket.gethostname(),
    )
    store.save_worker("demo", replace(state, **more))


def run_elsewhere(lab: Lab, *, silent_s: float, **by: Any) -> int:
    """A trial that a worker of another host runs, of which the database alone knows."""
    storage = connect(lab.store.database_url("demo"), create=False)
    trial_id = storage.create_new_trial(storage.get_study_id_from_name("demo"))
    storage.set_trial_user_attr(trial_id, BY, {"worker": 3, "host": "node7", "pid": 12, **by})
    storage.record_heartbeat(trial_id)
    _age(storage, trial_id, silent_s)
    return storage.get_trial(trial_id).number


def _age(storage: RDBStorage, trial_id: int, seconds: float) -> None:
    with Session(storage.engine) as session:
        row = session.query(TrialHeartbeatModel).filter_by(trial_id=trial_id).one()
        then = row.heartbeat - timedelta(seconds=seconds)
        session.execute(
            update(TrialHeartbeatModel)
            .where(TrialHeartbeatModel.trial_id == trial_id)
            .values(heartbeat=then)
        )
        session.commit()


def test_a_study_at_work_shows_who_does_what_and_when_it_may_end(lab: Lab) -> None:
    lab.begin("trials=4")
    lab.work(index=0)
    lab.begin("trials=10")
    remote = run_elsewhere(lab, silent_s=20, job="8_3")
    says(lab.store, trial=4)
    found = standing(lab.store, "demo")
    document = checked(found)
    assert (found.origin, found.asked, found.n["complete"], found.n_left) == (
        *("database and folders", 10, 4, 6),
    )
    here, there = found.workers
    assert (here.index, here.mood, here.stage, here.step) == (0, "works", "training", 7)
    assert (there.index, there.host, there.job, there.mood) == (3, "node7", "8_3", "works")
    assert (there.trial, there.stage) == (remote, None)
    assert there.heard_s is not None
    assert 20 <= there.heard_s < 200
    assert [(t.number, t.stale) for t in found.running] == [(remote, False)]
    assert found.n_working == 2
    pace = document["pace"]
    assert pace["n_trials"] == 4
    assert pace["trials_per_hour"] == pytest.approx(7200 / pace["worker_s_per_trial"])
    assert pace["left_s"] == pytest.approx(3 * pace["worker_s_per_trial"])
    text = standing_text(found, 100)
    assert "study demo: 4 of 10 trials complete; 1 running" in text
    assert "(estimated from 4 complete trials, each " in text


def test_a_stale_trial_and_a_silent_worker_are_told(lab: Lab) -> None:
    lab.begin("trials=4")
    lost = run_elsewhere(lab, silent_s=4000)
    says(lab.store, ago_s=4000, host="node9")
    found = standing(lab.store, "demo")
    checked(found)
    assert {w.mood for w in found.workers} == {"silent"}
    assert [(t.number, t.stale) for t in found.running] == [(lost, True)]
    assert found.n_working == 0
    assert found.left_s is None
    text = standing_text(found, 100)
    assert f"trial {lost} of worker 3 on node7 has been silent for 1 h 06 min" in text
    assert "0 workers; no trial is complete yet" in text


def test_a_process_that_is_no_more_is_gone_and_one_that_said_so_is_done(lab: Lab) -> None:
    lab.begin()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    says(lab.store, 0, pid=ended.pid)
    says(lab.store, 1, trial=None, progress=Progress(stage="done"))
    says(lab.store, 2, host=None)
    assert [w.mood for w in standing(lab.store, "demo").workers] == ["gone", "done", "works"]


def test_a_finished_study_needs_no_more_time(lab: Lab) -> None:
    lab.begin("trials=3")
    lab.work()
    found = standing(lab.store, "demo")
    assert checked(found)["pace"]["left_s"] == 0
    assert standing_text(found, 100).startswith("study demo: 3 of 3 trials complete")


def test_a_study_without_workers_says_so(lab: Lab) -> None:
    lab.begin("trials=9")
    found = standing(lab.store, "demo")
    checked(found)
    assert (found.workers, found.running, found.pace, found.slurm) == ((), (), None, ())
    assert found.n["queued"] > 0
    assert "nothing tells how long it will take" in standing_text(found, 100)


def test_without_its_database_the_folders_tell_and_say_so(lab: Lab) -> None:
    lab.begin("trials=3")
    lab.work()
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    found = standing(lab.store, "demo")
    checked(found)
    assert (found.origin, found.asked, found.n["complete"]) == ("folders", 3, 3)
    assert "there is no database" in found.notes[0]
    assert "from the folders" in found.notes[0]
    assert not (lab.store.study_folder("demo") / "optuna.db").exists()
    with_another = standing(lab.store, "demo", "postgresql://u:secret@127.0.0.1:1/none")
    assert "secret" not in with_another.notes[0]


def test_without_folders_the_database_tells_and_says_so(lab: Lab, tmp_path: Path) -> None:
    lab.begin("trials=4")
    run_elsewhere(lab, silent_s=1)
    elsewhere = Store(tmp_path / "another")
    found = standing(elsewhere, "demo", lab.store.database_url("demo"))
    checked(found)
    assert (found.origin, found.asked) == ("database", 4)
    assert [(w.index, w.mood) for w in found.workers] == [(3, "works")]
    assert "the database alone tells" in found.notes[0]
    assert not elsewhere.root.exists()


def test_what_nobody_knows_is_an_error(lab: Lab, tmp_path: Path) -> None:
    lab.begin()
    with pytest.raises(StoreError, match="no study 'other' has begun"):
        standing(lab.store, "other")
    with pytest.raises(StoreError, match="no study 'other' has begun"):
        standing(Store(tmp_path / "x"), "other", lab.store.database_url("demo"))
    with pytest.raises(StoreError, match="does not answer"):
        standing(Store(tmp_path / "x"), "demo", "postgresql://u@127.0.0.1:1/none")


def test_a_list_of_codecs_has_no_workers(lab: Lab) -> None:
    lab.begin()
    stored = lab.store.load_study("demo")
    listed = replace(stored, settings={**stored.settings, "codecs": ["jpeg"]})
    write_json(lab.store.study_folder("demo") / "study.json", listed)
    with pytest.raises(KdbenchError, match="lists codecs to measure"):
        standing(lab.store, "demo")


def test_looking_changes_nothing(lab: Lab) -> None:
    study = lab.begin()
    run_elsewhere(lab, silent_s=4000)
    before = {p: p.stat().st_mtime_ns for p in lab.store.root.rglob("*") if p.is_file()}
    standing(lab.store, "demo")
    assert {p: p.stat().st_mtime_ns for p in lab.store.root.rglob("*") if p.is_file()} == before
    assert len(study.get_trials(states=(TrialState.RUNNING,))) == 1


@pytest.mark.parametrize(("n", "workers", "left_s"), [(6, 2, 30.0), (1, 4, 10.0), (3, 0, None)])
def test_more_workers_than_trials_are_of_no_use(n: int, workers: int, left_s: float | None) -> None:
    assert Pace(n_trials=2, worker_s_per_trial=10.0).left_s(n, workers) == left_s


def test_slurm_jobs_are_named_where_slurm_cannot_be_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.begin()
    path = lab.store.slurm_file("demo")
    path.write_text('{"jobs": [12, 13], "name": "kdbench-demo", "schema": 3}')
    monkeypatch.setenv("PATH", "/nowhere")
    assert standing(lab.store, "demo").notes == (
        "Slurm has workers of this study (job 12, 13), and squeue is not on PATH",
    )
