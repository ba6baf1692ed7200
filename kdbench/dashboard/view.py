"""The storage that the dashboard is given: the latest picture of one study, and never a write."""

import sys
import threading
import time
from collections.abc import Callable, Container
from typing import Any, NoReturn

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdbench.dashboard.picture import Picture
from kdbench.errors import KdbenchError

REFRESH_S = 2.0  # a page asks every 2 to 10 s; several pages make no more work than one
REST = 10  # times the processor time of the last picture, at least: trainings need it, too


class View(BaseStorage):
    """Answers from a picture in memory, taken again when the study has news and somebody looks.

    What the search writes is read through `stamp` and `take` alone; no page reaches its database.

    Args:
        stamp: Another value whenever the study has news.
        take: A picture of the study as it is.
        say: Told once when the study cannot be read any more; the last picture stays.

    Raises:
        KdbenchError: The first picture cannot be taken.
    """

    def __init__(
        self,
        stamp: Callable[[], object],
        take: Callable[[], Picture],
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self._stamp, self._take, self._say = stamp, take, say
        self._taking = threading.Lock()
        self._seen = stamp()
        self._next_s = 0.0  # when the next picture may be taken
        self.picture = self._timed()

    def refresh(self) -> None:
        """Take the picture again if there is news; who comes meanwhile gets the last one."""
        if not self._taking.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + REFRESH_S
                self._look()
        finally:
            self._taking.release()

    def _timed(self) -> Picture:
        began_s = time.thread_time()
        picture = self._take()
        took_s = time.thread_time() - began_s
        self._next_s = time.monotonic() + max(REFRESH_S, REST * took_s)
        return picture

    def _look(self) -> None:
        try:
            now = self._stamp()
            if now != self._seen or self.picture.problem is not None:
                self.picture, self._seen = self._timed(), now
        except KdbenchError as why:
            if self.picture.problem != str(why):
                self._say(f"the page keeps what it has: {why}")
                self.picture = self.picture.spoiled_by(str(why))

    # --- what is read

    def get_all_studies(self) -> list[Any]:
        self.refresh()
        return self.picture.storage.get_all_studies()

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.picture.storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.picture.storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.picture.storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.picture.storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.picture.storage.get_study_system_attrs(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.picture.storage.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return self.picture.storage.get_all_trials(study_id, deepcopy, states)

    # --- what would be written

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("the dashboard's storage is a view, which nothing writes to")

    create_new_study = delete_study = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = _refuse
    set_trial_intermediate_value = set_trial_user_attr = set_trial_system_attr = _refuse
