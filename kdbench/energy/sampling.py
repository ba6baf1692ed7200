"""Power that is read now and then, integrated: for meters without a counter."""

from collections.abc import Callable
from itertools import pairwise
from time import perf_counter

from kdbench.energy.meter import Repeater


class Sampling:
    """Energy between `start` and `stop` from power readings, by the trapezoidal rule [J].

    One reading at each end, and one every `period_s` between them.

    Args:
        read_w: Gives the power now [W].
        period_s: From one reading to the next [s].
    """

    def __init__(self, read_w: Callable[[], float], period_s: float) -> None:
        self._read_w, self._period_s = read_w, period_s

    def start(self) -> None:
        """Begins to read.

        Raises:
            MeterError: Whatever `read_w` raises.
        """
        self._readings: list[tuple[float, float]] = []  # [s], [W]
        self._read()
        self._repeater = Repeater(self._read, self._period_s)

    def stop(self) -> float:
        """Joules since `start`.

        Raises:
            MeterError: A reading failed meanwhile.
        """
        self._repeater.stop()
        self._read()
        return integrated(self._readings)

    def _read(self) -> None:
        watts = self._read_w()
        self._readings.append((perf_counter(), watts))


def integrated(readings: list[tuple[float, float]]) -> float:
    """Energy of readings of time [s] and power [W], in their order [J]."""
    return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(readings))
