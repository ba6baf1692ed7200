"""Who is alive on a host: one index for each worker, also where several begin at once."""

from contextlib import ExitStack

import pytest

from kdbench.search.locks import StudyLocks
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
    looks_free, other = StudyLocks.is_alive, StudyLocks(Store(lab.store.root), "demo").lock(0)

    def taken_after_the_look(locks: StudyLocks, index: int) -> bool:
        alive = looks_free(locks, index)
        other.take()
        return alive

    monkeypatch.setattr(StudyLocks, "is_alive", taken_after_the_look)
    with StudyLocks(lab.store, "demo").worker(None) as index:
        assert index == 1
    other.release()
