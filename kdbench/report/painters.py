"""Figures for paper, drawn beside this process.

Another one loads the drawing library, which takes as long as three figures, while this one still
reads the study; it then divides itself among the cores. Only Linux forks without danger: elsewhere
figures are drawn here, one after another.
"""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

from kdbench.device import n_cores
from kdbench.errors import KdbenchError
from kdbench.report.chart import Axis, Chart, Format

Files = dict[str, bytes]
Paint = Callable[[Sequence[Chart]], "Future[Files]"]
MOST = 4  # of some eight figures


@contextmanager
def painting(kind: Format) -> Iterator[Paint]:
    """What begins files of figures, by their names; the same bytes however many draw.

    Open it before what takes time, and ask for the files as late as you can.

    Raises:
        KdbenchError: One of the processes died.
    """
    if sys.platform != "linux":
        yield lambda charts: _done(_paint(charts, kind, n=1))
        return
    with _processes(1) as beside:
        with warnings.catch_warnings():  # of threads beside a fork: libraries' own, idle here
            warnings.simplefilter("ignore", DeprecationWarning)
            beside.submit(_warm_up, kind)
        try:
            yield lambda charts: beside.submit(_paint, charts, kind, n=min(n_cores(), MOST))
        except BrokenProcessPool:
            raise KdbenchError(
                "a process that draws figures died",
                fix="see that the machine has memory left, and run the same command again",
            ) from None


def _processes(n: int) -> ProcessPoolExecutor:
    """Copies of this process, which end with it."""
    return ProcessPoolExecutor(n, get_context("fork"), initializer=_serve)


def _serve() -> None:
    """Leaves Ctrl-C to the first process, and ends when the one that forked this one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _warm_up(kind: Format) -> None:
    """Loads fonts and all, and collects no garbage from then on: this process ends soon."""
    from kdbench.report.static import image

    image(Chart(name="", title="warm", x=Axis(label="x"), y=Axis(label="y"), series=()), kind)
    gc.disable()


_CHARTS: list[Chart] = []  # copies of this process have them without being sent any


def _paint(charts: Sequence[Chart], kind: Format, *, n: int) -> Files:
    _CHARTS[:] = charts
    order = [*reversed(range(len(charts)))]  # the first ones of a report take alike: no long end
    n = min(n, len(charts))
    if n < 2:
        drawn = [_draw(kind, i) for i in order]
    else:
        with _processes(n) as pool:
            drawn = [*pool.map(partial(_draw, kind), order)]
    return {chart.name: file for chart, file in zip(charts, reversed(drawn), strict=True)}


def _draw(kind: Format, i: int) -> bytes:
    from kdbench.report.static import image

    return image(_CHARTS[i], kind)


def _done(files: Files) -> "Future[Files]":
    ready: Future[Files] = Future()
    ready.set_result(files)
    return ready
