"""A progress bar on stderr where a terminal is, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kdbench.records import Progress
from kdbench.report.units import figure


@contextmanager
def counting(what: str, *, silent: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is told the number done and the number to do."""
    with following(what, silent=silent) as follow:
        yield lambda done, n: follow(Progress(stage="", step=done, n_steps=n))


@contextmanager
def following(what: str, *, silent: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Gives a function that is told the progress of one training or trial."""
    if silent or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=1, loss="")
        stage = ""

        def follow(said: Progress) -> None:
            nonlocal stage
            if said.stage != stage:  # a new stage has a clock of its own
                stage = said.stage
                bars.reset(task, total=1, description=f"{what} {stage}".strip(), loss="")
            loss = "" if said.loss is None else f"loss {figure(said.loss)}"
            bars.update(task, completed=said.step, total=max(said.n_steps, 1), loss=loss)

        yield follow
