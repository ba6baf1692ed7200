"""Whose root a worker writes to: the study's own, or one of its machine that only holds copies.

A study's own folder holds a token, and the database the same one. A worker that does not find it in
its root does not share the root: nobody would see what it wrote there. It is told so, and works
without a shared root only where it is asked to (`--upload`): an unmounted disk looks the same.
"""

from uuid import uuid4

import optuna

from kdbench.errors import StoreError
from kdbench.search.attributes import FIXED, SETTINGS, TOKEN
from kdbench.search.ground import Ground
from kdbench.store import RootMark, Store, StoredStudy

BOTH = (
    "name the study's own root with `--root`, on a disk that both machines have; or let this one "
    "keep its own and upload what it finds: `--upload`"
)


def claim(study: optuna.Study, store: Store, *, begins: bool) -> None:
    """The coordinator's: this root is the study's own; the database is told.

    A root without a mark becomes it: one that began before there were marks, or was made by
    `kdbench collect` where the first one was lost. For one coordinator at a time.

    Args:
        study: Of the database.
        store: The root.
        begins: Whether the study was not in this root before.

    Raises:
        StoreError: The study's own root is another one.
    """
    name = study.study_name
    known = study.user_attrs.get(TOKEN)
    if begins and known is not None and store.root_mark(name) is None:
        raise StoreError(
            f"study {name!r} has just begun in another root than {store.root}",
            fix=f"join it from here: `kdbench worker --study {name}`, with the same `--storage` "
            "and `--root`, or with `--upload`",
        )
    mark = store.mark_root(name, RootMark(token=known or uuid4().hex))
    folder = store.study_folder(name)
    if mark.is_copy:
        raise StoreError(
            f"{folder} holds copies of a worker that uploads, not the study",
            fix="name the study's own root with `--root`; if it is lost, `kdbench collect` makes "
            "another one from the database",
        )
    if known is None:
        study.set_user_attr(TOKEN, mark.token)
    elif mark.token != known:
        raise StoreError(
            f"{folder} and the database belong to two studies that are both called {name!r}",
            fix="name the study's own root with `--root` or its own database with `--storage`, or "
            "begin another one: `--set name=NAME`",
        )


def enter(study: optuna.Study, ground: Ground, store: Store, *, upload: bool) -> bool:
    """A worker's: whether this root only holds copies, so that all must be uploaded.

    Args:
        study: Whose root it may be.
        ground: What the study was begun on.
        store: The root.
        upload: Whether the worker was asked to work without the study's own root.

    Raises:
        StoreError: It is not the study's own root, and the worker was not asked to; or it belongs
            to another study of that name.
    """
    name, token = study.study_name, study.user_attrs.get(TOKEN)
    if token is None:  # begun before there were tokens: on one machine
        store.load_study(name)
        return False
    if upload and name not in store.studies():
        store.require_writable()
        mark: RootMark | None = store.mark_root(name, RootMark(token=token, is_copy=True))
    else:  # marked before the study is in it, so never seen between the two
        mark = store.root_mark(name)
    folder = store.study_folder(name)
    if mark is None:
        raise StoreError(f"{folder} is not the folder in which study {name!r} began", fix=BOTH)
    if mark.token != token:
        raise StoreError(
            f"{folder} belongs to another study that is called {name!r}, too",
            fix=f"{BOTH} into another `--root`",
        )
    if mark.is_copy:
        if not upload:
            raise StoreError(
                f"{folder} holds copies of what workers of study {name!r} found here", fix=BOTH
            )
        store.create_study(stored_study(study, ground))
    return mark.is_copy


def stored_study(study: optuna.Study, ground: Ground) -> StoredStudy:
    """What the study's own folder says of it, from the database."""
    known = study.user_attrs
    return StoredStudy(
        name=study.study_name, settings=known[SETTINGS], fixed=known.get(FIXED, ground.fixed)
    )
