"""A database that goes away for a while: whoever asks it waits, and says so.

A server is restarted, a connection is cut, a network is down for a minute: none of it is worth a
trial. Every call of Optuna's storage is made again until it is answered or patience ends. That is
safe also where the connection broke while the server was committing: what is set is set again to
the same; a trial told twice is recognised below; a trial begun twice is one that nobody claims, and
`dead.settle_unclaimed` ends it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

PATIENCE_S = 600.0
PAUSES_S = (0.0, 0.5, 1.0, 2.0)  # then the last one; a connection that was cut is back at once
AFTERWARDS_S = 180.0  # after it came back: time for all to say that they are alive
GONE = ("57P01", "57P02", "57P03", "53300")  # shut down, crashed, starting, too many clients
GONE_CLASSES = ("08", "40")  # connection; rolled back for another one's sake
PASSWORD = ("password authentication failed", "no password supplied")
REFUSED = ("pg_hba.conf", "does not exist", "not permitted to log in")  # not later, too

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)  # what Optuna's storage raises

T = TypeVar("T")


def driver_error(why: BaseException) -> DBAPIError | None:
    """What the driver said, beneath what SQLAlchemy and Optuna made of it."""
    cause: BaseException | None = why
    if isinstance(cause, StorageInternalError):
        cause = cause.__cause__
    if isinstance(cause, PendingRollbackError):  # Optuna asked once more on a broken connection
        cause = cause.__context__
    return cause if isinstance(cause, DBAPIError) else None


def is_gone(why: BaseException) -> bool:
    """Whether an error says that the server is away and may come back; never of a file."""
    cause = driver_error(why)
    if not isinstance(cause, DBAPIError) or type(cause.orig).__module__.startswith("sqlite3"):
        return False
    if cause.connection_invalidated:
        return True
    state = getattr(cause.orig, "sqlstate", None) or getattr(cause.orig, "pgcode", None)
    if state is not None:
        return state in GONE or state[:2] in GONE_CLASSES
    if not type(cause.orig).__module__.startswith("psycopg"):
        return False
    answered = "FATAL:" in str(cause.orig) and any(word in str(cause.orig) for word in REFUSED)
    answered = answered or wants_another_password(cause)
    return not answered and isinstance(cause, OperationalError | InterfaceError)


def wants_another_password(why: BaseException) -> bool:
    """Whether PostgreSQL refused the password, or got none."""
    cause = driver_error(why)
    return cause is not None and any(words in str(cause.orig) for words in PASSWORD)


class Patience:
    """How long a process waits for its database, and whom it tells.

    Args:
        total_s: From the first call that failed to giving up [s].
        sleep: Waits so many seconds; may raise KeyboardInterrupt.
        tell: Told when the waiting begins and when it ends.

    Attributes:
        sleep: The same, for who waits for others.
        password_may_change: Whether it is read anew for each connection, so that a refused one is
            waited for, too.
    """

    def __init__(
        self,
        total_s: float = PATIENCE_S,
        *,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._total_s, self.sleep, self._tell = total_s, sleep, tell
        self.password_may_change = False
        self._is_over = False  # nobody waits twice for a server that does not come back
        self._back: float | None = None

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns once the database answers.

        Raises:
            SQLAlchemyError, StorageInternalError: It fails, or did not come back in time.
            KeyboardInterrupt: From `sleep`.
        """
        began, n = 0.0, 0
        while True:
            try:
                found = function()
            except DATABASE_ERRORS as why:
                now = time.monotonic()
                began = now if n == 0 else began
                self._is_over = self._is_over or now - began >= self._total_s
                if not self.bears(why) or self._is_over:
                    raise
                if n == 1:
                    what = "is gone; waiting for it"
                    if wants_another_password(why):
                        what = "refuses the password; waiting for another one in ~/.pgpass"
                    self._tell(f"the database {what}, {self._total_s:.0f} s at most")
                self.sleep(PAUSES_S[min(n, len(PAUSES_S) - 1)])
                n += 1
            else:
                self._is_over = False
                if n > 0:
                    self._back = now = time.monotonic()
                    if n > 1:
                        self._tell(f"the database is back after {now - began:.0f} s")
                return found

    def bears(self, why: BaseException) -> bool:
        """Whether what a call raised may pass."""
        return is_gone(why) or (self.password_may_change and wants_another_password(why))

    @property
    def was_away(self) -> bool:
        """Whether it came back only just now: silence of others then says nothing about them."""
        return self._back is not None and time.monotonic() - self._back < AFTERWARDS_S


class PatientStorage(RDBStorage):
    """Optuna's database, every call of which waits for a server that is gone for a while.

    Args:
        url: As SQLAlchemy writes it.
        patience: How long; None: as long as `PATIENCE_S`, telling nobody.
        options: Of Optuna's `RDBStorage`.
    """

    def __init__(self, url: str, *, patience: Patience | None = None, **options: Any) -> None:
        self.patience = Patience(0.0)  # the first connection is waited for by who makes it
        try:
            super().__init__(url, **options)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        self.patience = patience or Patience()

    def close(self) -> None:
        """End its connections."""
        self.remove_session()
        self.engine.dispose()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; a state that was set when the connection broke is set."""
        n = 0

        def tell() -> bool:
            nonlocal n
            n += 1
            try:
                return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if n == 1:
                    raise
                trial = self.get_trial(trial_id)
                if trial.state != state or (values and list(values) != trial.values):
                    raise
                return True

        return self.patience.call(tell)

    def record_heartbeat(self, trial_id: int) -> None:
        """As Optuna's; one that fails is made up for by the next: the thread must not end.

        What keeps failing is told to the thread that trains, by the next question of its own.
        """
        with suppress(*DATABASE_ERRORS):
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """None while the database is hardly back: nobody could say that he is alive."""

        def ask() -> list[int]:
            return super(PatientStorage, self)._get_stale_trial_ids(study_id)

        stale = self.patience.call(ask)
        return [] if self.patience.was_away else stale


PATIENT = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "_create_new_trial",
    "set_trial_param",
    "_set_trial_param",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "get_all_trials",
    "_get_trials",
    "get_best_trial",
)


def _patient(name: str) -> Callable[..., Any]:
    plain = getattr(RDBStorage, name)

    @wraps(plain)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patience.call(lambda: plain(self, *args, **kwargs))

    return call


for _name in PATIENT:
    setattr(PatientStorage, _name, _patient(_name))
