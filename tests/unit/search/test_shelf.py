"""What is put into the database comes back as it was, or not at all."""

import io
from pathlib import Path

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import insert, update

from kdbench.errors import StoreError
from kdbench.search import shelf as shelves
from kdbench.search.patience import Patience
from kdbench.search.shelf import ARTIFACTS, PIECES, Shelf, make
from kdbench.search.storage import connect


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(shelves, "PIECE_BYTES", 10)
    storage = connect(f"sqlite:///{tmp_path}/optuna.db", create=True)
    storage.patience = Patience(sleep=lambda _: None)
    make(storage.engine)
    make(storage.engine)
    return Shelf(storage)


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 20, 1234])
def test_a_file_comes_back_as_it_was(shelf: Shelf, n: int) -> None:
    content = bytes(i % 251 for i in range(n))
    shelf.write("a", io.BytesIO(content))
    shelf.write("b", io.BytesIO(b"another"))
    assert shelf.open_reader("a").read() == content


def test_writing_again_replaces_and_removing_forgets(shelf: Shelf) -> None:
    shelf.write("a", io.BytesIO(b"first, and longer than a piece"))
    shelf.write("a", io.BytesIO(b"second"))
    assert shelf.open_reader("a").read() == b"second"
    shelf.remove("a")
    for ask in (shelf.open_reader, shelf.remove):
        with pytest.raises(ArtifactNotFound):
            ask("a")


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "MAX_BYTES", 25)
    with pytest.raises(StoreError, match=r"is not put into the database\n  fix: .*--root"):
        shelf.write("a", io.BytesIO(b"x" * 26))
    with pytest.raises(ArtifactNotFound):
        shelf.open_reader("a")
    shelf.write("a", io.BytesIO(b"x" * 25))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_damage_is_noticed_wherever_it_is(shelf: Shelf, place: int) -> None:
    shelf.write("a", io.BytesIO(b"x" * 25))
    with shelf.storage.engine.begin() as connection:
        connection.execute(update(PIECES).where(PIECES.c.place == place).values(data=b"yyyyy"))
    with pytest.raises(StoreError, match="artifact a in the database is damaged"):
        shelf.open_reader("a")


def test_a_piece_too_few_or_too_many_is_noticed(shelf: Shelf) -> None:
    shelf.write("a", io.BytesIO(b"x" * 25))
    with shelf.storage.engine.begin() as connection:
        connection.execute(insert(PIECES).values(artifact_id="a", place=3, data=b"x"))
    with pytest.raises(StoreError, match="damaged"):
        shelf.open_reader("a")
    with shelf.storage.engine.begin() as connection:
        connection.execute(PIECES.delete().where(PIECES.c.place > 1))
    with pytest.raises(StoreError, match="damaged"):
        shelf.open_reader("a")
    with shelf.storage.engine.begin() as connection:
        connection.execute(update(ARTIFACTS).values(sha256="0" * 64, n_bytes=20))
    with pytest.raises(StoreError, match="damaged"):
        shelf.open_reader("a")


def test_optuna_s_own_functions_write_and_read_it(shelf: Shelf, tmp_path: Path) -> None:
    study = optuna.create_study(storage=shelf.storage, study_name="demo")
    path = tmp_path / "result.json"
    path.write_bytes(b'{"a": 1}' * 10)
    artifact = optuna.artifacts.upload_artifact(
        artifact_store=shelf, file_path=str(path), study_or_trial=study
    )
    (meta,) = optuna.artifacts.get_all_artifact_meta(study)
    assert (meta.artifact_id, meta.filename) == (artifact, "result.json")
    back = tmp_path / "back.json"
    optuna.artifacts.download_artifact(
        artifact_store=shelf, artifact_id=artifact, file_path=str(back)
    )
    assert back.read_bytes() == path.read_bytes()
