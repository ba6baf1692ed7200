"""Folders made from uploads are what was uploaded, and where they differ somebody says so."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import delete, update

from kdbench.errors import StoreError
from kdbench.search.attributes import SPEC_HASH, TOKEN, UPLOADED
from kdbench.search.collect import Collected, collect, disagreements, fetch
from kdbench.search.patience import PatientStorage
from kdbench.search.shelf import PIECES, make
from kdbench.search.storage import connect
from kdbench.search.upload import STUDY, late, manifest_of
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub
from tests.unit.search.lab import Lab


@dataclass
class Uploaded:
    """A study whose two trials were found in a root of copies; the database is a file here."""

    lab: Lab
    url: str
    away: Store
    storage: PatientStorage

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="demo", storage=self.storage)

    def collect(self, root: Path) -> Collected:
        return collect("demo", Store(root), self.url)

    def check(self, root: Path) -> list[tuple[int | None, str, str]]:
        found = disagreements("demo", Store(root), self.url)
        return [(each.trial, each.storage, each.folder) for each in found]


@pytest.fixture
def uploaded(lab: Lab, tmp_path: Path) -> Uploaded:
    lab.begin("trials=2")
    url, away = lab.store.database_url("demo"), Store(tmp_path / "away")
    storage = connect(url, create=False)
    make(storage.engine)

    def run(*told: Any) -> Any:
        folder: Path = told[3]
        (folder / "student.safetensors").write_bytes(folder.name.encode() * 10)
        (folder / "training.checkpoint").write_bytes(b"not worth a copy")
        return stub.run(*told)

    assert work("demo", away, storage=url, upload=True, run=run) == "complete"
    return Uploaded(lab, url, away, storage)


def files(root: Path) -> dict[str, str]:
    """Every file of the trials, and of the anchor, by its SHA-256."""
    kept = [*root.glob("demo/trials/*/*"), *root.glob("demo/crops/*"), *root.glob("demo/anchor*")]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if path.suffix != ".checkpoint"
    }


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "collected"
    assert list((tmp_path / "collected").rglob("*.tmp")) == []


def test_folders_come_back_as_they_were_and_a_second_time_changes_nothing(
    uploaded: Uploaded, root: Path
) -> None:
    done = uploaded.collect(root)
    assert (done.new, done.completed, done.n_known, done.problems) == ([0, 1], [], 0, [])
    assert files(root) == files(uploaded.away.root) != {}
    assert Store(root).load_study("demo") == uploaded.lab.store.load_study("demo")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    done = uploaded.collect(root)
    assert (done.new, done.completed, done.n_known) == ([], [], 2)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert uploaded.check(root) == []


def test_a_collected_root_does_without_the_database(uploaded: Uploaded, root: Path) -> None:
    uploaded.collect(root)
    told = uploaded.study.get_trials(states=(TrialState.COMPLETE,))
    for trial, stored in zip(told, Store(root).trials("demo"), strict=True):
        assert stored.result == stub.result(stored.spec)
        assert trial.user_attrs[SPEC_HASH] == stored.spec.hash


def test_what_came_after_a_trial_had_ended_comes_too(uploaded: Uploaded, root: Path) -> None:
    uploaded.collect(root)
    energy = stub.result(uploaded.away.load_trial("demo", 1).spec, energy_j_per_mpx=3.0).energy
    assert energy is not None
    uploaded.away.save_trained_energy("demo", 1, energy)
    anchor = uploaded.away.anchor_file("demo")
    anchor.write_bytes(b"{}")
    (uploaded.away.study_folder("demo") / "crops").mkdir()
    (uploaded.away.study_folder("demo") / "crops" / "original.png").write_bytes(b"png")
    work("demo", uploaded.away, storage=uploaded.url, upload=True, run=stub.run)
    attributes = uploaded.study.user_attrs
    assert set(attributes[late(1)]) == {"energy_trained.json"}
    assert set(attributes[STUDY]) == {"anchor.json", "crops/original.png"}
    done = uploaded.collect(root)
    assert (done.new, done.completed, done.n_known) == ([], [1], 1)
    assert files(root) == files(uploaded.away.root)


def test_nothing_that_differs_is_replaced(uploaded: Uploaded, root: Path) -> None:
    uploaded.collect(root)
    log = root / "demo/trials/0/student.safetensors"
    log.write_bytes(b"mine")
    done = uploaded.collect(root)
    assert [(each.trial, each.folder) for each in done.problems] == [(0, "another one, kept")]
    assert log.read_bytes() == b"mine"
    assert [each[0] for each in uploaded.check(root)] == [0]


def test_a_folder_of_which_something_is_damaged_does_not_come_at_all(
    uploaded: Uploaded, root: Path
) -> None:
    names = manifest_of({}, uploaded.study.get_trials()[0])
    with uploaded.storage.engine.begin() as connection:
        damaged = PIECES.c.artifact_id == names["result.json"][0]
        connection.execute(update(PIECES).where(damaged).values(data=b"{}"))
    done = uploaded.collect(root)
    assert done.new == [1]
    (problem,) = done.problems
    assert problem.trial == 0
    assert problem.storage.startswith("result.json: artifact ")
    assert problem.storage.endswith(" in the database is damaged")
    assert not (root / "demo/trials/0").exists()
    assert uploaded.check(root) == [
        (0, "complete; uploaded, `kdbench collect` brings it", "no folder")
    ]


def test_a_file_whose_content_is_gone_is_named(uploaded: Uploaded, root: Path) -> None:
    with uploaded.storage.engine.begin() as connection:
        connection.execute(delete(PIECES))
    done = uploaded.collect(root)
    assert done.new == []
    assert {each.trial for each in done.problems} == {0, 1}


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "a/b", "..", "crops/../x", "x" * 300, "nul\0", "COM1:"]
)
def test_an_upload_whose_name_leads_elsewhere_is_not_taken(
    uploaded: Uploaded, root: Path, tmp_path: Path, name: str
) -> None:
    study, trial = uploaded.study, uploaded.study.get_trials()[0]
    file = manifest_of({}, trial)["spec.json"]
    study.set_user_attr(late(0), {name: file})
    study.set_user_attr(STUDY, {"anchor.json": ["not", "an", "entry"]})
    before = set(tmp_path.rglob("*"))
    done = uploaded.collect(root)
    assert {each.folder for each in done.problems} == {"no file of ours is called so"}
    assert done.new == [1]
    new = set(tmp_path.rglob("*")) - before
    assert all(root in (path, *path.parents) for path in new)


def test_where_database_and_folders_disagree_is_said(uploaded: Uploaded, root: Path) -> None:
    uploaded.collect(root)
    trials = root / "demo/trials"
    (trials / "0").rename(trials / "7")
    (trials / "1/result.json").unlink()
    found = uploaded.check(root)
    assert (7, "no such trial", "a trial") in found
    assert (0, "complete; uploaded, `kdbench collect` brings it", "no folder") in found
    assert (1, "complete", "no result (running)") in found
    assert (1, "result.json; uploaded, `kdbench collect` brings it", "not there") in found
    assert len(found) == 4


def test_other_values_specs_and_states_are_said(lab: Lab) -> None:
    study = lab.begin("trials=3")
    lab.work()
    url = lab.store.database_url("demo")
    assert disagreements("demo", lab.store, url) == []
    folders = [lab.store.trial("demo", i) for i in range(3)]
    first, second = folders[0].path, folders[1].path
    for name in ("spec.json", "result.json"):
        (second / name).write_bytes((first / name).read_bytes())
    stored = lab.store.load_trial("demo", 2).spec
    lab.store.begin_trial("demo", 3, stored)  # what waits in the queue
    lab.store.begin_trial("demo", 4, stored)
    lab.store.save_result("demo", 4, stub.result(stored))
    waiting = study.get_trials()[4]
    study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
    study._storage.set_trial_state_values(waiting._trial_id, TrialState.FAIL)
    study.set_user_attr(TOKEN, "another-token")
    found = [(each.trial, each.storage) for each in disagreements("demo", lab.store, url)]
    told = study.get_trials()[1]
    assert found == [
        (None, "the token another-"),
        (1, f"spec {told.user_attrs[SPEC_HASH]}"),
        (1, f"values {told.values}"),
        (3, "waiting"),
        (4, "failed"),
    ]


def test_a_result_that_was_told_under_another_number_is_no_disagreement(lab: Lab) -> None:
    lab.begin("trials=5")

    def dies(*told: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.work(dies)
    kept = lab.store.load_trial("demo", 0)
    kept.folder.failure.unlink()
    lab.store.save_result("demo", 0, stub.result(kept.spec))
    assert lab.work() == "complete"
    assert disagreements("demo", lab.store, lab.store.database_url("demo")) == []


def test_a_root_of_another_study_of_that_name_is_not_collected_into(
    uploaded: Uploaded, tmp_path: Path
) -> None:
    other = Lab(tmp_path, Store(tmp_path / "collected"))
    other.begin("seed=5", "trials=2")
    with pytest.raises(StoreError, match=r"another study .*\n  database: seed 0; folder: seed 5"):
        uploaded.collect(tmp_path / "collected")


def test_one_trial_is_fetched_where_it_is_needed(uploaded: Uploaded, root: Path) -> None:
    Store(root).create_study(uploaded.lab.store.load_study("demo"))
    trial = uploaded.study.get_trials()[1]
    for _ in range(2):
        fetch(uploaded.study, Store(root), uploaded.storage, trial)
        assert [each.number for each in Store(root).trials("demo")] == [1]
    not_uploaded = optuna.create_trial(state=TrialState.FAIL)
    fetch(uploaded.study, Store(root), uploaded.storage, not_uploaded)
    assert UPLOADED not in not_uploaded.user_attrs
