"""The view takes pictures only when there is news and somebody looks, and is never written."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import optuna
import pytest
from optuna.storages import InMemoryStorage

from kdbench.dashboard import view
from kdbench.dashboard.picture import Picture
from kdbench.dashboard.view import View
from kdbench.errors import StoreError
from tests.support.looking import optuna_is_quiet


class Studio:
    """Gives stamps and pictures, and counts."""

    def __init__(self) -> None:
        self.stamp_now, self.taken, self.said = 0, 0, list[str]()
        self.breaks: str | None = None

    def stamp(self) -> int:
        if self.breaks:
            raise StoreError(self.breaks, fix="mend it")
        return self.stamp_now

    def take(self) -> Picture:
        self.taken += 1
        storage = InMemoryStorage()
        study = optuna.create_study(study_name=f"take {self.taken}", storage=storage)
        return Picture(study=study, storage=storage, best=frozenset(), figures=(), artifacts={})


@pytest.fixture
def studio() -> Iterator[Studio]:
    with optuna_is_quiet():
        yield Studio()


@pytest.fixture
def looked(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> View:
    monkeypatch.setattr(view, "REFRESH_S", 0.0)
    monkeypatch.setattr(view, "REST", 0)
    return View(studio.stamp, studio.take, studio.said.append)


def test_no_news_no_picture(studio: Studio, looked: View) -> None:
    for _ in range(5):
        assert [one.study_name for one in looked.get_all_studies()] == ["take 1"]
    studio.stamp_now = 1
    assert [one.study_name for one in looked.get_all_studies()] == ["take 2"]
    assert studio.taken == 2


def test_a_page_that_asks_often_makes_no_work(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "REFRESH_S", 1000.0)
    looked = View(studio.stamp, studio.take, studio.said.append)
    for studio.stamp_now in range(100):
        looked.get_all_studies()
    assert studio.taken == 1


def test_a_problem_is_said_once_and_the_last_picture_stays(studio: Studio, looked: View) -> None:
    studio.breaks = "gone"
    for _ in range(3):
        assert [one.study_name for one in looked.get_all_studies()] == ["take 1"]
    assert studio.said == ["the page keeps what it has: gone\n  fix: mend it"]
    assert looked.picture.problem == "gone\n  fix: mend it"


def test_a_problem_that_has_gone_is_forgotten(studio: Studio, looked: View) -> None:
    studio.breaks = "gone"
    looked.refresh()
    studio.breaks = None
    looked.refresh()
    assert looked.picture.problem is None
    assert studio.taken == 2


def test_who_comes_while_a_picture_is_taken_gets_the_last_one(studio: Studio, looked: View) -> None:
    begun, go_on = threading.Event(), threading.Event()
    take = studio.take

    def slowly() -> Picture:
        begun.set()
        assert go_on.wait(30)
        return replace(take(), figures=("new",))

    looked._take = slowly
    studio.stamp_now = 1
    thread = threading.Thread(target=looked.get_all_studies)
    thread.start()
    assert begun.wait(30)
    assert [one.study_name for one in looked.get_all_studies()] == ["take 1"]
    go_on.set()
    thread.join(30)
    assert looked.picture.figures == ("new",)


def test_nothing_can_be_written_through_it(looked: View) -> None:
    study = optuna.load_study(study_name="take 1", storage=looked)
    for write in (
        lambda: study.set_user_attr("a", 1),
        study.ask,
        lambda: study.enqueue_trial({}),
        lambda: study.set_metric_names(["a"]),
        lambda: optuna.create_study(storage=looked),
        lambda: optuna.delete_study(study_name="take 1", storage=looked),
    ):
        with pytest.raises(RuntimeError, match="which nothing writes to"):
            write()
