"""Who is alive on a host: one index for each worker, also where several begin at once."""

import threading
from contextlib import ExitStack

import pytest

from kdbench.search.locks import Lock, StudyLocks
from kdbench.store import Store
from tests.unit.search.lab import Lab


def test_workers_have_the_lowest_indexes_that_are_free(lab: Lab) -> None:
    locks = StudyLocks(lab.store, "demo")
    with ExitStack() as alive:
        taken = [alive.enter_context(locks.worker(wished)) for wished in (None, 3, None, None, 3)]
        assert taken == [0, 3, 1, 2, 4]
        assert locks.alive() == [0, 1, 2, 3, 4]
    assert locks.alive() == []


def test_an_index_that_another_worker_takes_at_the_same_moment_is_not_given_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes, other = Lock.take, StudyLocks(Store(lab.store.root), "demo").lock(0)

    def taken_just_before(lock: Lock) -> bool:
        monkeypatch.setattr(Lock, "take", takes)
        assert other.take()
        return lock.take()

    monkeypatch.setattr(Lock, "take", taken_just_before)
    with StudyLocks(lab.store, "demo").worker(None) as index:
        assert index == 1
    other.release()


def test_who_looks_whether_a_worker_lives_takes_no_index_from_one_that_begins(lab: Lab) -> None:
    locks = StudyLocks(lab.store, "demo")
    looker = locks.lock(0)
    assert looker.take()
    threading.Timer(0.03, looker.release).start()
    with locks.worker(None) as index:
        assert index == 0
