"""A meter that reads its joules from a list: for tests and demonstrations."""

from collections.abc import Sequence
from itertools import cycle

from kdbench.records import Source


class ReplayMeter:
    """Gives out `windows_j` in order, one value a window, and begins again at the end [J]."""

    name = "replay"
    source: Source = "replay"
    tick_s = 0.0

    def __init__(
        self, windows_j: Sequence[float] = (2.0, 2.1, 1.9), *, sees_idle: bool = False
    ) -> None:
        self._joules = cycle(windows_j)
        self.detail = f"{len(windows_j)} fixed values"
        self.sees_idle = sees_idle

    def start(self) -> None:
        pass

    def stop(self) -> float:
        return next(self._joules)
