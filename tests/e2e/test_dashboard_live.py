"""A dashboard beside a search that runs: both do their work, and the page follows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from kdbench.store import Store
from tests.support.desk import make_desk
from tests.support.looking import dashboard, names

TRIALS = 2


def has_begun(store: Store) -> bool:
    """The search has written the study, in its folder and in its database."""
    if "quick" not in store.studies():
        return False
    try:
        optuna.load_study(study_name="quick", storage=store.database_url("quick"))
    except (KeyError, SQLAlchemyError, StorageInternalError):  # it is being made
        return False
    return True


@pytest.mark.slow
def test_a_page_follows_a_search_that_runs_and_the_search_does_not_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_desk(tmp_path)
    store = Store(tmp_path / "runs")
    search = [sys.executable, "-m", "kdbench", "search", "--study", "quick", "--json"]
    search += ["--trials", str(TRIALS), "--set", "space.training.learning_rate=[1.0e-3,2.0e-3]"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with subprocess.Popen(
        search, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not has_begun(store):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        with dashboard(store.root, study="quick") as page:
            seen = []
            while process.poll() is None:
                found = page.details()
                seen.append(sum(trial["state"] == "Complete" for trial in found["trials"]))
                time.sleep(0.3)
            out, err = process.communicate()
            assert (process.returncode, err) == (0, "")
            time.sleep(3)
            found = page.details()
    shown = json.loads(out)
    assert set(seen) >= set(range(TRIALS)), "the page saw every trial come"
    assert seen == sorted(seen)
    complete = [trial for trial in found["trials"] if trial["state"] == "Complete"]
    trained = {t["number"]: t for t in complete if "same_spec_as" not in names(t["user_attrs"])}
    assert len(trained) == TRIALS
    assert {t["number"] for t in found["best_trials"]} & set(trained) == set(shown["front"])
    for trial in complete:
        own = trial["number"] in trained
        begins = ("**On the front**", "**Complete**") if own else ("**The same spec as trial",)
        assert trial["note"]["body"].startswith(begins)
