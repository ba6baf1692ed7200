"""Notes: people's words stand in the place of ours, and no older text replaces a newer one."""

from pathlib import Path

import pytest

from kdbench.dashboard.notebook import Notebook
from kdbench.store import Store
from tests.support.results import STUDY, make_study

OURS: dict[int | None, str] = {None: "study", 3: "three", 12: "twelve"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_study(tmp_path)


def test_without_people_the_notes_are_ours(store: Store) -> None:
    shown = Notebook(store, STUDY).notes(OURS)
    assert {number: note.text for number, note in shown.items()} == OURS
    assert {note.version for note in shown.values()} == {1}


def test_what_people_write_stays_in_all_notebooks(store: Store) -> None:
    book = Notebook(store, STUDY)
    book.notes(OURS)
    assert book.write(12, "mine", 2)
    assert book.write(None, "all", 2)
    for again in (book, Notebook(store, STUDY)):
        shown = again.notes({**OURS, 3: "three, news"})
        assert [shown[n].text for n in (None, 3, 12)] == ["all", "three, news", "mine"]


def test_an_older_note_replaces_nothing(store: Store) -> None:
    book = Notebook(store, STUDY)
    book.notes(OURS)
    assert book.write(3, "first", 2)
    for version in (0, 1, 2, 4):
        assert book.write(3, "late", version) is None
    assert book.shown(3).text == "first"
    assert store.load_notes(STUDY).trials == {"3": "first"}


def test_our_news_raise_the_version_too(store: Store) -> None:
    book = Notebook(store, STUDY)
    assert book.notes(OURS)[3].version == 1
    assert book.notes(OURS)[3].version == 1
    assert book.notes({3: "news"})[3].version == 2
    assert book.write(3, "of the older one", 2) is None


def test_an_empty_note_is_given_back(store: Store) -> None:
    book = Notebook(store, STUDY)
    book.notes(OURS)
    assert book.write(3, "mine", 2)
    assert book.write(3, "", 3)
    assert book.notes(OURS)[3].text == "three"
    assert store.load_notes(STUDY).trials == {}
