"""A running search on the terminal: what is done, what each worker does, how long it will take."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdbench.report.overview import Overview, overview
from kdbench.report.units import UNKNOWN, duration, figure, percent
from kdbench.store import Store, WorkerState

BEGINNING = "looks at photos, teachers and anchor; measures the anchor if nobody has"
SILENT_S = 60.0  # a worker that said nothing for so long is shown with the time it is silent


class Event(Protocol):
    """What a search says four times a second."""

    @property
    def notices(self) -> tuple[str, ...]: ...


@contextmanager
def watching(
    store: Store, study: str, asked: int, *, silent: bool
) -> Iterator[Callable[[Event], None]]:
    """Gives a function that draws the search on stderr; only notices where no terminal is."""
    if silent or not sys.stderr.isatty():
        yield lambda event: _print_notices(event, sys.stderr)
        return
    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        live.update(Text(f"{study}: {BEGINNING}"), refresh=True)
        view = LiveView(store, study, asked)

        def draw(event: Event) -> None:
            for notice in event.notices:
                console.print(notice, markup=False)
            live.update(view.picture(), refresh=True)

        yield draw


def _print_notices(event: Event, file: TextIO) -> None:
    for notice in event.notices:
        print(notice, file=file, flush=True)


@dataclass
class LiveView:
    """Draws a study from its files.

    Attributes:
        asked: Complete trials at which the search ends.
    """

    store: Store
    study: str
    asked: int
    began_s: float = field(default_factory=time.time)
    _found: Overview | None = field(default=None, init=False)
    _seen: tuple[int | None, ...] = field(default=(), init=False)

    def picture(self) -> RenderableType:
        """How the study stands now."""
        workers = self.store.workers(self.study)
        return render(self._overview(workers), workers, self.asked, self.began_s, time.time())

    def _overview(self, workers: list[WorkerState]) -> Overview:
        """Read again only when a worker took another trial: then one has ended."""
        now = tuple(worker.trial for worker in workers)
        if self._found is None or now != self._seen:
            self._found, self._seen = overview(self.store, self.study), now
        return self._found


def render(
    found: Overview, workers: list[WorkerState], asked: int, began_s: float, now_s: float
) -> RenderableType:
    """One picture; times in seconds since 1970."""
    done = found.n("complete")
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(found.study, style="bold"),
        Text(f"{done}/{asked} trials"),
        ProgressBar(total=max(asked, 1), completed=min(done, asked), width=24),
        Text(_time_left(found, len(workers), asked, now_s - began_s)),
    )
    picture: list[RenderableType] = [line, Text(_best(found))]
    if workers:
        rows = Table.grid(padding=(0, 2))
        for worker in workers:
            rows.add_row(*_worker(worker, now_s))
        picture.append(rows)
    return Group(*picture)


def _best(found: Overview) -> str:
    others = [
        f"{n} {state}"
        for state in ("stopped", "refused", "infeasible", "failed")
        if (n := found.n(state))
    ]
    if not found.front:
        return ", ".join(["no trial complete yet", *others])
    results = found.front_results
    known = {n: pct for n, result in results.items() if (pct := result.bd_rate_pct) is not None}
    if not known:
        return ", ".join([f"{found.n('complete')} complete", *others])
    number = min(known, key=lambda n: known[n])
    best = f"best BD-rate {percent(known[number])} % (trial {number})"
    return ", ".join([best, f"{len(found.front)} on the front", *others])


def _time_left(found: Overview, n_workers: int, asked: int, elapsed_s: float) -> str:
    """From what complete trials took; unknown before the first."""
    spent = f"{duration(elapsed_s)} so far"
    seconds = [sum(result.seconds.values()) for result in found.results.values()]
    left = asked - len(seconds)
    if not seconds or left <= 0 or n_workers == 0:
        return spent
    mean_s = sum(seconds) / len(seconds)
    return f"{spent}, about {duration(mean_s * left / n_workers)} left"


def _worker(worker: WorkerState, now_s: float) -> list[str]:
    said = worker.progress
    step = f"{said.step}/{said.n_steps}" if said.n_steps else ""
    loss = f"loss {figure(said.loss)}" if said.loss is not None else ""
    trial = UNKNOWN if worker.trial is None else str(worker.trial)
    silent_s = now_s - worker.updated_s
    silent = f"silent for {duration(silent_s)}" if silent_s > SILENT_S else ""
    return [f"worker {worker.index}", f"trial {trial}", said.stage, step, loss, silent]
