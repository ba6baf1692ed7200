"""Ctrl-C, SIGTERM and SIGUSR1, let through only where a trial can bear them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

from kdbench.signals import put_off

TIME_UP = signal.SIGUSR1  # a scheduler's word that the time it gave is nearly over
SIGNALS = (signal.SIGINT, signal.SIGTERM, TIME_UP)
WATCH_S = 0.5
AGAIN_S = 0.01  # from an interrupt that got lost to the next


class TimeUp(KeyboardInterrupt):
    """Somebody wants us to stop here, and to go on elsewhere or later."""


class Interrupt(AbstractContextManager["Interrupt"]):
    """Remembers that somebody wants us to stop; raises only inside `allowed`.

    A KeyboardInterrupt in the middle of a database write would leave a trial running for ever.
    Later signals change nothing: one is enough. A step of a training is finished first
    (`signals.unbroken`), so that what it made is kept. Python ignores what is raised inside a
    finalizer, of which SQLAlchemy and torch run many: such a one is raised again.

    Args:
        parent: Pid of the process whose death counts as a signal, too.

    Attributes:
        wanted: Whether a signal came.
        time_is_up: Whether it was the one that says so; what is raised leaves as `TimeUp`.
    """

    def __init__(self, parent: int | None = None) -> None:
        self.wanted = self.time_is_up = False
        self._parent = parent
        self._allowed = False
        self._before: dict[signal.Signals, Any] = {}
        self._ignored_before = sys.unraisablehook
        self._again: threading.Timer | None = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {which: signal.signal(which, self._came) for which in SIGNALS}
            self._ignored_before, sys.unraisablehook = sys.unraisablehook, self._ignored
        if self._parent is not None:
            threading.Thread(target=self._watch, args=(self._parent,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again.join()  # its signal must not come once nobody hears it
        if self._before:
            sys.unraisablehook = self._ignored_before
        for which, handler in self._before.items():
            signal.signal(which, handler)
        if self.time_is_up and kind is KeyboardInterrupt:
            raise TimeUp from error

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raises KeyboardInterrupt inside the block as soon as somebody wants us to stop.

        Such a block may be inside of another one.
        """
        before, self._allowed = self._allowed, True
        try:
            if self.wanted:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = before and not self.wanted

    def check(self) -> None:
        """Raises KeyboardInterrupt if somebody wants us to stop."""
        if self.wanted:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleeps; raises KeyboardInterrupt as soon as somebody wants us to stop."""
        with self.allowed():
            time.sleep(seconds)

    def _came(self, number: int, frame: FrameType | None) -> None:
        self.time_is_up = self.time_is_up or (number == TIME_UP and not self.wanted)
        self.wanted = True
        if self._allowed:
            self._allowed = False
            if not put_off():
                raise KeyboardInterrupt

    def _ignored(self, what: "sys.UnraisableHookArgs") -> None:
        """Python ignores what a finalizer raised; the block it ran in is still to be left."""
        if not (self.wanted and issubclass(what.exc_type, KeyboardInterrupt)):
            self._ignored_before(what)
            return
        self._allowed = True
        self._again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        self._again.start()

    @staticmethod
    def _watch(parent: int) -> None:
        """Orphans get another parent; they send themselves the signal that nobody else will."""
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(WATCH_S)
        os.kill(os.getpid(), signal.SIGTERM)
