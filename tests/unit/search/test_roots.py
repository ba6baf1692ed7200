"""A root is the study's own, holds copies, or is somebody else's; which one is never guessed."""

from pathlib import Path

import optuna
import pytest

from kdbench.errors import StoreError
from kdbench.search.attributes import FIXED, TOKEN
from kdbench.search.roots import enter, stored_study
from kdbench.store import RootMark, Store
from tests.support import search as stub
from tests.unit.search.lab import Lab


def entered(study: optuna.Study, root: Path, *, upload: bool) -> bool:
    return enter(study, stub.GROUND, Store(root), upload=upload)


def test_a_study_that_begins_marks_its_root_and_tells_the_database(lab: Lab) -> None:
    study = lab.begin()
    mark = lab.store.root_mark("demo")
    assert mark == RootMark(token=study.user_attrs[TOKEN])
    assert len(mark.token) == 32
    assert lab.begin().user_attrs[TOKEN] == mark.token
    assert entered(study, lab.store.root, upload=False) is False
    assert entered(study, lab.store.root, upload=True) is False


def test_a_study_that_began_before_there_were_marks_is_marked_when_it_goes_on(lab: Lab) -> None:
    study = lab.begin()
    (lab.store.study_folder("demo") / "root.json").unlink()
    study.set_user_attr(TOKEN, None)
    assert entered(study, lab.store.root, upload=False) is False
    token = lab.begin().user_attrs[TOKEN]
    assert lab.store.root_mark("demo") == RootMark(token=token)


def test_a_database_that_was_lost_gets_the_mark_of_the_folders(lab: Lab) -> None:
    before = lab.begin().user_attrs[TOKEN]
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    assert lab.begin().user_attrs[TOKEN] == before


def test_another_root_is_refused_and_nothing_is_written_to_it(lab: Lab, tmp_path: Path) -> None:
    study = lab.begin()
    with pytest.raises(StoreError, match=r"is not the folder in which study 'demo' .*\n.*--upload"):
        entered(study, tmp_path / "other", upload=False)
    assert not (tmp_path / "other").exists()


def test_two_workers_that_enter_a_root_for_copies_at_once_both_do(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, copies, looks = lab.begin(), Store(tmp_path / "other"), Store.studies

    def entered_by_another_after_the_look(store: Store) -> tuple[str, ...]:
        known = looks(store)
        monkeypatch.setattr(Store, "studies", looks)
        assert entered(study, copies.root, upload=True) is True
        return known

    monkeypatch.setattr(Store, "studies", entered_by_another_after_the_look)
    assert entered(study, copies.root, upload=True) is True
    assert Store.studies is looks  # the other one was there in between


def test_a_root_for_copies_gets_the_study_and_is_no_root_to_begin_in(
    lab: Lab, tmp_path: Path
) -> None:
    study, copies = lab.begin(), Store(tmp_path / "other")
    for _ in range(2):
        assert entered(study, copies.root, upload=True) is True
    assert copies.load_study("demo") == lab.store.load_study("demo")
    assert copies.root_mark("demo") == RootMark(token=study.user_attrs[TOKEN], is_copy=True)
    with pytest.raises(StoreError, match="holds copies of what workers of study 'demo' found here"):
        entered(study, copies.root, upload=False)
    lab.store.root.rename(tmp_path / "gone")
    copies.root.rename(lab.store.root)
    (tmp_path / "gone/demo/optuna.db").rename(lab.store.study_folder("demo") / "optuna.db")
    with pytest.raises(StoreError, match="holds copies of a worker that uploads, not the study"):
        lab.begin()


@pytest.mark.parametrize("upload", [False, True])
def test_a_root_of_another_study_of_that_name_is_refused(
    lab: Lab, tmp_path: Path, upload: bool
) -> None:
    study = lab.begin()
    other = Store(tmp_path / "other")
    other.create_study(stored_study(study, stub.GROUND))
    other.mark_root("demo", RootMark(token="another"))
    with pytest.raises(StoreError, match="belongs to another study that is called 'demo', too"):
        entered(study, other.root, upload=upload)


def test_what_the_folder_says_can_be_told_from_the_database(lab: Lab) -> None:
    study = lab.begin()
    assert stored_study(study, stub.GROUND) == lab.store.load_study("demo")
    study.set_user_attr(FIXED, {"anchor": "jpeg"})
    assert dict(stored_study(study, stub.GROUND).fixed) == {"anchor": "jpeg"}
