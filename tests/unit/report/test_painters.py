"""Figures are drawn in processes beside: the same bytes, and nobody is left when one dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from kdbench.errors import KdbenchError
from kdbench.report import static
from kdbench.report.chart import Axis, Chart, Point, Series
from kdbench.report.painters import painting
from kdbench.report.static import image

POINTS = (Point(x=0.0, y=1.0), Point(x=1.0, y=3.0))
CHARTS = [
    Chart(
        name=name,
        title=name,
        x=Axis(label="x"),
        y=Axis(label="y"),
        series=(Series(name="s", kind="line", points=POINTS, role="front"),),
    )
    for name in ("one", "two", "three")
]
BARS = replace(CHARTS[0], name="bars", series=(replace(CHARTS[0].series[0], kind="bars"),))


def _dies(chart: Chart, kind: str) -> bytes:
    if chart.name == "two":
        os.kill(os.getpid(), signal.SIGKILL)
    return kind.encode()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("cores", [{0}, {0, 1, 2}])
def test_figures_are_the_same_whoever_draws_them(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], platform: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(sys, "platform", platform)
    with painting("svg") as paint:
        charts = [*CHARTS, BARS]
        found = paint(charts).result()
        assert [*found.items()] == [(chart.name, image(chart, "svg")) for chart in charts]
        assert paint([]).result() == {}


@pytest.mark.parametrize("cores", [{0}, {0, 1}])
def test_a_process_that_dies_while_it_draws_is_told(
    monkeypatch: pytest.MonkeyPatch, cores: set[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(static, "image", _dies)
    with (
        pytest.raises(KdbenchError, match="that draws figures died\n  fix: see that the machine"),
        painting("svg") as paint,
    ):
        paint(CHARTS).result(timeout=60)


@pytest.mark.parametrize("where", ["reading", "drawing"])
def test_those_who_draw_end_with_the_process_that_asked(where: str) -> None:
    """However it ends: a report may be killed while it reads, or while they draw."""
    script = (
        "import os, sys, time\n"
        "os.sched_getaffinity = lambda _: {0, 1}\n"
        "from kdbench.report import static\n"
        "from tests.unit.report.test_painters import CHARTS, painting\n"
        "def slow(chart, kind):\n"
        "    time.sleep(0 if chart.name == '' else 1000)\n"
        "static.image = slow\n"
        "with painting('svg') as paint:\n"
        "    if sys.argv[1] == 'drawing':\n"
        "        paint(CHARTS)\n"
        "    print('here', flush=True)\n"
        "    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", script, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "here\n"
        n, until = (1 if where == "reading" else 3), time.monotonic() + 60
        while len(drawing := psutil.Process(run.pid).children(recursive=True)) < n:
            assert time.monotonic() < until
            time.sleep(0.05)
        run.kill()
    _, alive = psutil.wait_procs(drawing, timeout=60)
    assert not alive
