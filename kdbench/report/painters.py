"""Figures for paper, drawn beside this process.

Another one loads the drawing library, which takes as long as three figures, while this one still
reads the study; it then divides itself among the cores.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Literal

from kdbench.device import n_cores
from kdbench.report.chart import Axis, Chart

Format = Literal["svg", "png", "pdf"]
Files = dict[str, bytes]
Paint = Callable[[Sequence[Chart]], "Future[Files]"]
MOST = 4  # of some eight figures


@contextmanager
def painting(kind: Format) -> Iterator[Paint]:
    """What begins files of figures, by their names; the same bytes however many draw.

    Open it before what takes time, and ask for the files as late as you can.
    """
    with ProcessPoolExecutor(1, get_context("fork")) as beside:
        with warnings.catch_warnings():
            _forget_threads()
            beside.submit(_warm_up, kind)
        yield lambda charts: beside.submit(_paint, charts, kind)


def _forget_threads() -> None:
    """Python warns of a process that forks beside threads: libraries' own, idle here."""
    warnings.simplefilter("ignore", DeprecationWarning)


def _warm_up(kind: Format) -> None:
    """Loads fonts and all."""
    _forget_threads()
    from kdbench.report.static import image

    image(Chart(name="", title="warm", x=Axis(label="x"), y=Axis(label="y"), series=()), kind)


def _paint(charts: Sequence[Chart], kind: Format) -> Files:
    from kdbench.report.static import image

    names, draw = [chart.name for chart in charts], partial(image, kind=kind)
    n = min(n_cores(), MOST, len(charts))
    if n < 2:
        return dict(zip(names, map(draw, charts), strict=True))
    with ProcessPoolExecutor(n, get_context("fork")) as pool:
        return dict(zip(names, pool.map(draw, charts), strict=True))
