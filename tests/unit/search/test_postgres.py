"""Locks that hold on every machine, and what follows where one is lost."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from kdbench.search import others, task
from kdbench.search import postgres as ours
from kdbench.search.attributes import BY, INTERRUPTED, SPEC_HASH
from kdbench.search.budget import Budget, set_budget
from kdbench.search.locks import StudyLocks
from kdbench.search.patience import Patience
from kdbench.search.postgres import DatabaseLock, engine
from kdbench.search.storage import connect, parse
from kdbench.search.study import begin
from kdbench.search.turn import Turn, seat, turn_of
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub
from tests.support.postgres import Postgres, needs_postgres
from tests.unit.search.lab import Lab, Recorded

pytestmark = [pytest.mark.postgres, needs_postgres]


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.database()


def lock(url: str, name: str = "demo ask") -> DatabaseLock:
    return DatabaseLock(engine(parse(url)), name)


def test_one_holds_a_lock_and_the_other_waits_for_it(url: str) -> None:
    first, second, another = lock(url), lock(url), lock(url, "other ask")
    assert not first.is_held()
    assert first.take()
    assert first.take()
    assert first.is_held()
    assert another.take()
    assert not second.take(wait_s=0.05)
    assert not second.is_held()
    threading.Timer(0.2, first.release).start()
    assert second.take(wait_s=60)
    assert not first.is_held()
    second.release()
    second.release()
    assert first.take()
    for each in (first, another):
        each.release()


def test_a_lock_whose_connection_is_cut_is_lost_and_says_so(postgres: Postgres, url: str) -> None:
    first, second = lock(url), lock(url)
    assert first.take()
    assert postgres.cut(make_url(url).database or "") == 1
    assert not first.is_held()
    assert second.take()
    assert not first.take(wait_s=0.05)
    second.release()


def test_who_is_stopped_while_he_holds_a_lock_loses_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "HELD_S", 0.3)
    first, second = lock(url), lock(url)
    assert first.take()
    assert second.take(wait_s=60)
    assert not first.is_held()
    second.release()


def test_a_lock_leaves_no_session_behind(postgres: Postgres, url: str) -> None:
    name = make_url(url).database or ""
    held = lock(url)
    assert held.take()
    assert not lock(url).take(wait_s=0.05)
    assert postgres.sessions(name) == 1
    held.release()
    end = time.monotonic() + 60
    while postgres.sessions(name) and time.monotonic() < end:
        time.sleep(0.02)
    assert postgres.sessions(name) == 0


def test_a_server_ends_sessions_of_clients_that_are_cut_off_or_stopped(
    postgres: Postgres, url: str
) -> None:
    storage = connect(f"{url}?options=-c%20work_mem%3D1234kB", create=True)
    asked = "SELECT current_setting(%s)"
    with storage.engine.connect() as connection:
        cursor = connection.connection.cursor()
        found = {}
        for name in (*ours.SERVER_SIDE, "work_mem"):
            cursor.execute(asked, (name,))
            (found[name],) = cursor.fetchone() or ("",)
    storage.engine.dispose()
    assert found == {
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "idle_in_transaction_session_timeout": "1min",
        "work_mem": "1234kB",
    }


def test_a_worker_keeps_one_connection(postgres: Postgres, tmp_path: Path, url: str) -> None:
    name = make_url(url).database or ""
    seen = []

    def first(spec: object) -> None:
        time.sleep(0.1)  # closed ones are gone
        seen.append(postgres.sessions(name))

    laboratory(tmp_path, url, "trials=3").work(Recorded(first))
    assert max(seen) <= 2  # the heart beats in a thread


# --- a study --------------------------------------------------------------------------------------


class There(Lab):
    """A lab whose database is a server."""

    url = ""

    def work(self, run: Any = stub.run, index: int = 0) -> Any:
        return work("demo", self.store, index=index, storage=self.url, run=run)


def laboratory(folder: Path, url: str, *overrides: str) -> There:
    lab = There(folder, Store(folder / "runs"))
    lab.url = url
    cfg = lab.config(*overrides)
    study, _ = begin(cfg, lab.store, url, lambda: stub.GROUND)
    set_budget(study, Budget(trials=cfg.trials))
    return lab


def trials(url: str) -> list[Any]:
    storage = connect(url, create=False)
    return optuna.load_study(study_name="demo", storage=storage).get_trials()


def while_asking(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Once, between the first look at the budget and the last one at the turn."""
    plain, left = others.twins_of, [happens]

    def twins_of(trial: Any, spec: Any) -> Any:
        if left:
            left.pop()()
        return plain(trial, spec)

    monkeypatch.setattr(task, "twins_of", twins_of)


def test_who_loses_the_turn_while_he_asks_takes_another_one_and_keeps_what_he_asked_for(
    postgres: Postgres, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = laboratory(tmp_path, url, "trials=2")
    cut: list[int] = []
    while_asking(monkeypatch, lambda: cut.append(postgres.cut(make_url(url).database or "")))
    run = Recorded()
    assert lab.work(run) == "complete"
    assert cut[0] >= 1
    begun = [trial for trial in trials(url) if trial.state != TrialState.WAITING]
    assert [trial.state for trial in begun] == [TrialState.COMPLETE] * 2
    assert len(run.specs) == 2
    assert lab.states() == ["complete"] * 2


def test_who_loses_the_turn_to_one_who_takes_the_last_trial_takes_back_what_he_asked_for(
    postgres: Postgres, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His look at the budget is old by then."""
    lab = laboratory(tmp_path, url, "trials=1")

    def others_trial(trial: optuna.Trial) -> list[float]:
        trial.set_user_attr(SPEC_HASH, "another's")
        return [1.0, 1.0]

    def lose() -> None:
        assert postgres.cut(make_url(url).database or "") >= 1
        another = optuna.load_study(study_name="demo", storage=connect(url, create=False))
        another.optimize(others_trial, n_trials=1)

    while_asking(monkeypatch, lose)
    run = Recorded()
    assert lab.work(run) == "complete"
    assert run.specs == []
    first, second = (trial for trial in trials(url) if trial.state != TrialState.WAITING)
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert INTERRUPTED in first.user_attrs
    assert lab.states() == []


def test_a_trial_that_nobody_claims_is_ended_and_its_spec_is_tried(
    tmp_path: Path, url: str
) -> None:
    """Its worker died, or its connection, between beginning it and saying what it trains."""
    lab = laboratory(tmp_path, url, "trials=5")
    study = optuna.load_study(study_name="demo", storage=connect(url, create=False))
    waiting = study.get_trials(states=(TrialState.WAITING,))[0]
    study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
    run = Recorded()
    assert lab.work(run) == "complete"
    assert {spec.encoder.width for spec in run.specs} == {16, 24, 32, 48, 64}
    found = trials(url)
    assert found[0].state == TrialState.FAIL
    assert SPEC_HASH not in found[0].user_attrs


def test_workers_of_two_machines_draw_other_specs(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = connect(url, create=True)
    seats = [seat(storage, index, root) for index in (0, 1) for root in ("/a", "/b")]
    monkeypatch.setattr("kdbench.search.turn.host", lambda: "another")
    seats += [seat(storage, index, "/a") for index in (0, 1)]
    assert len(set(seats)) == 6
    on_file = connect(f"sqlite:///{tmp_path}/a.db", create=True)
    assert [seat(on_file, index, "/a") for index in (0, 1)] == [0, 1]


def test_whose_turn_it_is_holds_on_every_machine(tmp_path: Path, url: str) -> None:
    storage = connect(url, create=True)
    turns = [turn_of("demo", StudyLocks(Store(tmp_path / name), "demo"), storage) for name in "ab"]
    assert all(turn.is_for_all for turn in turns)
    assert turns[0].take()
    assert turns[0].is_held()
    assert not turns[1].take()
    turns[1].release()
    turns[0].release()
    assert turns[1].take()
    turns[1].release()
    local = Turn(
        StudyLocks(Store(tmp_path / "a"), "demo").lock("ask"), None, Patience(), is_for_all=True
    )
    assert local.take()
    assert local.is_held()
    local.release()


def test_tables_are_made_once_however_many_begin_at_once(url: str) -> None:
    problems: list[BaseException] = []

    def start() -> None:
        try:
            connect(url, create=True).engine.dispose()
        except BaseException as why:
            problems.append(why)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_trials_say_in_which_root_they_run(tmp_path: Path, url: str) -> None:
    lab = laboratory(tmp_path, url, "trials=1")
    lab.work()
    by = trials(url)[0].user_attrs[BY]
    assert by["root"] == str(lab.store.root)
    assert by["worker"] == 0
