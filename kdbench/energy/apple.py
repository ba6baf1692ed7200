"""Power of Apple silicon from macOS's `powermetrics`, through CodeCarbon's reader.

macOS computes these watts from activity, so they are a model; a better one than processor time.
"""

import logging
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any

from kdbench.errors import MeterError
from kdbench.records import Source

N_POINTS, INTERVAL_MS = 2, 100  # of one reading
LOG = "powermetrics.txt"
FIX = (
    "let this user run it without a password: `sudo visudo`, then a line "
    "`USER ALL = (root) NOPASSWD: /usr/bin/powermetrics`"
)


class AppleMeter:
    """Energy of an Apple processor and its GPU, memory and display left out [J].

    One reading follows the other, each the mean power while it was taken; starting `powermetrics`
    for each costs some milliseconds of a core, which are in the figure.

    Raises:
        MeterError: Not on Apple silicon, or `powermetrics` may not be run.
    """

    name = "apple"
    source: Source = "model"
    tick_s = 0.3  # a reading and the start of its program
    sees_idle = True
    detail = "powermetrics, processor and GPU of the whole machine, computed from activity"

    def __init__(self) -> None:
        system: str = sys.platform
        if system != "darwin":
            raise MeterError("not on macOS", fix="measure on a Mac with Apple silicon")
        self._folder = Path(tempfile.mkdtemp(prefix="kdbench-powermetrics-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._reader = _reader(self._folder)
        self._read_w()  # a password that is asked for is better told now

    def start(self) -> None:
        self._joules = 0.0
        self._error: MeterError | None = None
        self._done = Event()
        self._thread = Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._joules

    def _loop(self) -> None:
        """Until stopped, and to the end of the reading that runs then."""
        last_s = perf_counter()
        while not self._done.is_set():
            try:
                watts = self._read_w()
            except MeterError as error:
                self._error = error
                return
            now_s = perf_counter()
            self._joules += watts * (now_s - last_s)
            last_s = now_s

    def _read_w(self) -> float:
        """Mean power while it reads [W]."""
        log = self._folder / LOG
        log.unlink(missing_ok=True)  # else the reader would take an old one for a new one
        found = self._reader.get_details()
        if not log.is_file() or not found.get("CPU Power"):
            raise MeterError("`sudo powermetrics` told no power", fix=FIX)
        return float(found["CPU Power"]) + float(found.get("GPU Power", 0.0))


def _reader(folder: Path) -> Any:
    """CodeCarbon's reader of `powermetrics`."""
    from codecarbon.core.powermetrics import ApplePowermetrics

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        return ApplePowermetrics(
            output_dir=str(folder), n_points=N_POINTS, interval=INTERVAL_MS, log_file_name=LOG
        )
    except (SystemError, OSError) as error:
        raise MeterError(
            f"CodeCarbon cannot read this Mac: {error}", fix="measure on a Mac with Apple silicon"
        ) from None
