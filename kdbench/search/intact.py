"""Whether a study's database is whole: its pages, its rows, and what it says of finished trials.

SQLite notices some damage when it meets it, days later, and some never: a digit of a value has no
checksum. So a search looks before it goes on. What it finds damaged is named and left as it is;
moved away, it is made again from the trials' folders (`restore`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from kdbench.config import StudyConfig
from kdbench.errors import StoreError, notice
from kdbench.search.attributes import DUPLICATE_OF, SPEC_HASH
from kdbench.search.ground import Ground
from kdbench.search.restore import told_by
from kdbench.search.storage import CONNECT_ARGS, shown
from kdbench.store import Store

# What Optuna and SQLAlchemy raise on rows that nobody wrote: states and JSON they cannot read.
_ODD_ROWS = (ValueError, LookupError, TypeError, AssertionError, AttributeError, ArithmeticError)


def require_whole(url: str) -> None:
    """Look through every page of an SQLite file that is there; other databases see to themselves.

    Raises:
        StoreError: A page is damaged.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not Path(parsed.database or "").is_file():
        return
    engine = create_engine(url, poolclass=NullPool, connect_args=CONNECT_ARGS["sqlite"])
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    except SQLAlchemyError as err:
        if not any(word in str(err) for word in ("malformed", "not a database", "encrypted")):
            raise  # locked, read-only or full: `storage_errors` has words for it
        found = [str(getattr(err, "orig", err))]
    if found != ["ok"]:
        raise _damaged(url, str(found[0]).splitlines()[0])


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turns what odd rows make of a read into a StoreError that names the database.

    Raises:
        StoreError: The rows are not what Optuna writes.
    """
    try:
        yield
    except _ODD_ROWS as err:
        first = next(iter(str(err).splitlines()), "")
        raise _damaged(url, f"{type(err).__name__}: {first[:200]}") from None


def require_agreement(
    study: optuna.Study, cfg: StudyConfig, ground: Ground, store: Store, url: str
) -> None:
    """Compare every finished trial with what its folder would tell an empty database.

    Raises:
        StoreError: They differ; names the trial and both.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        folder = store.trial(cfg.name, trial.number)
        if DUPLICATE_OF in trial.user_attrs or not folder.spec.is_file():
            continue
        try:
            kept = store.load_trial(cfg.name, trial.number)
        except StoreError as why:
            notice(f"{why.problem}; `kdbench show` and reports need it")
            continue
        differ = _difference(trial, told_by(kept, cfg, ground), kept.spec_hash)
        if differ is not None:
            raise _damaged(url, f"trial {trial.number} has {differ}")


def _difference(here: FrozenTrial, there: FrozenTrial, spec_hash: str | None) -> str | None:
    """What two trials do not have in common, with both values."""
    told_hash = here.user_attrs.get(SPEC_HASH)
    compared = {
        "state": (here.state.name, there.state.name),
        "parameters": (here.params, there.params),
        "spec": (told_hash, spec_hash or told_hash),
        "values": (_rounded(here.values), _rounded(there.values)),
    }
    for name, (own, other) in compared.items():
        if own != other:
            return f"the {name} {own}, and {other} in its folder"
    return None


def _rounded(values: Sequence[float] | None) -> list[str]:
    """To as many digits as every database keeps."""
    return [f"{value:.12g}" for value in values or ()]


def _damaged(url: str, why: str) -> StoreError:
    return StoreError(
        f"the database {shown(make_url(url))} is damaged: {why}",
        fix="move it away, `kdbench search` makes it again from the trials' folders; or restore it "
        "from a copy",
    )
