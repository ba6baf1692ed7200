"""A meter that is a program of the user's: it prints joules or watts, kdbench reads them.

    command:watts PROGRAM     the power now [W]
    command:joules PROGRAM    a counter: the energy since any moment that stays the same [J]

It prints one number a line and goes on until it is stopped, or prints one number and ends, and is
then started for every reading. Which of the two is found by trying. No shell reads its words.
"""

import math
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Thread
from time import perf_counter
from typing import IO

from kdbench.energy.sampling import Sampling, integrated
from kdbench.errors import MeterError
from kdbench.records import MeterUnit, Source

ANSWER_S = 10.0  # a program that is silent for longer hangs
STOP_S = 2.0  # from SIGTERM to SIGKILL
POLL_S = 0.1  # between two calls of a program that prints one number
N_TRIED = 4  # numbers that tell how often a program prints
N_LAST_LINES = 5
FIX = "run `{}` in a terminal: it must print {}, one number a line, and flush each line"


class CommandMeter:
    """Energy as a program of the user's tells it [J].

    Args:
        unit: What its numbers are.
        program: Its name and arguments.

    Attributes:
        tick_s: From one number to the next, as it was found by trying; of a program that prints
            one and ends, the pause between two calls.

    Raises:
        MeterError: No such program; one that fails, hangs, or prints what is no number.
    """

    name = "command"
    sees_idle = True

    def __init__(self, unit: MeterUnit, program: Sequence[str]) -> None:
        self._unit, self._program = unit, tuple(program)
        self.source: Source = "counter" if unit == "joules" else "sampled"
        period_s = self._try()
        self._calls = period_s is None
        self.tick_s = POLL_S if period_s is None else period_s
        how = "one call a reading" if self._calls else "read as they come"
        self.detail = f"{unit} of `{shlex.join(self._program)}`, {how}"
        self._sampling = Sampling(self._call, POLL_S)

    def start(self) -> None:
        if not self._calls:
            self._run = _Run(self._program, self._unit)
            self._run.number_after(0.0)
        elif self._unit == "joules":
            self._began_j = self._call()
        else:
            self._sampling.start()

    def stop(self) -> float:
        if self._calls and self._unit == "watts":
            return self._sampling.stop()
        if self._calls:
            return self._grown(self._began_j, self._call())
        try:
            self._run.number_after(perf_counter())
            readings = list(self._run.readings)  # dying, it may print half a number
        finally:
            self._run.end()
        if self._unit == "watts":
            return integrated(readings)
        return self._grown(readings[0][1], readings[-1][1])

    def _grown(self, began_j: float, ended_j: float) -> float:
        if ended_j < began_j:
            raise MeterError(
                f"the joules of `{shlex.join(self._program)}` fell from {began_j:g} to {ended_j:g}",
                fix="let it print a counter that only grows, or its power as `command:watts ...`",
            )
        return ended_j - began_j

    def _call(self) -> float:
        """The one number of a program that ends, as it is let to."""
        run = _Run(self._program, self._unit)
        try:
            value = run.number_after(0.0)
            run.wait(lambda: run.code is not None)
            if run.code != 0:
                run.require_alive()
            return value
        finally:
            run.end()

    def _try(self) -> float | None:
        """Seconds from one number to the next; None of a program that prints one and ends."""
        run = _Run(self._program, self._unit)
        try:
            run.number_after(0.0)
            run.wait(lambda: run.code is not None or len(run.readings) >= N_TRIED)
            if run.code == 0 and len(run.readings) == 1:
                return None
            run.require_alive()
            (first_s, _), (last_s, _) = run.readings[0], run.readings[-1]
            return max((last_s - first_s) / (len(run.readings) - 1), 1e-3)
        finally:
            run.end()


class _Run:
    """One run of the program: its numbers with the time each came, as they come."""

    def __init__(self, program: Sequence[str], unit: MeterUnit) -> None:
        self._shown = shlex.join(program)
        self._fix = FIX.format(self._shown, unit)
        self.readings: list[tuple[float, float]] = []
        self.code: int | None = None
        self._rubbish: str | None = None
        self._last: deque[str] = deque(maxlen=N_LAST_LINES)
        self._news = Condition()
        try:
            self._process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # what it starts ends with it
            )
        except OSError as error:
            raise MeterError(
                f"the meter program {program[0]} does not start: {str(error.strerror).lower()}",
                fix="name one that is on the PATH, or its whole path, in `energy.meter: "
                f"command:{unit} PROGRAM`",
            ) from None
        assert self._process.stdout
        assert self._process.stderr
        complaints = Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        numbers = Thread(target=self._count, args=(self._process.stdout, complaints), daemon=True)
        self._threads = (complaints, numbers)
        for thread in self._threads:
            thread.start()

    def number_after(self, moment_s: float) -> float:
        """The first number that came after `moment_s` (`perf_counter`), waited for.

        Raises:
            MeterError: The program ended, printed something else, or is silent.
        """

        def there() -> bool:
            return bool(self.readings) and self.readings[-1][0] > moment_s

        self.wait(lambda: there() or self.code is not None)
        if not there():
            self.require_alive()
        return self.readings[-1][1]

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until that is true; raises MeterError for rubbish, and after `ANSWER_S` of silence."""
        with self._news:
            while not happened():
                if self._rubbish is not None:
                    break
                n = len(self.readings)
                if not self._news.wait(ANSWER_S) and len(self.readings) == n and not happened():
                    raise MeterError(
                        f"the meter program `{self._shown}` has printed no number for "
                        f"{ANSWER_S:g} s{self._words()}",
                        fix=self._fix,
                    )
        if self._rubbish is not None:
            raise MeterError(
                f"the meter program `{self._shown}` printed {self._rubbish!r}, which is no number "
                "of at least 0",
                fix=self._fix,
            )

    def require_alive(self) -> None:
        """Raises MeterError where it has ended."""
        if self.code is not None:
            raise MeterError(
                f"the meter program `{self._shown}` ended with code {self.code}{self._words()}",
                fix=self._fix,
            )

    def end(self) -> None:
        """Stops it, and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
                break
        for thread in self._threads:
            thread.join(STOP_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _words(self) -> str:
        """What it said last."""
        return (
            "".join(["; it said:", *(f"\n  {line}" for line in self._last)]) if self._last else ""
        )

    def _count(self, stream: IO[str], complaints: Thread) -> None:
        for line in stream:
            now = perf_counter()
            self._last.append(line.rstrip())
            if not line.strip():
                continue
            with self._news:
                if (value := _number(line)) is None:
                    self._rubbish = line.strip()
                else:
                    self.readings.append((now, value))
                self._news.notify_all()
        code = self._process.wait()
        complaints.join(STOP_S)  # its last words come before its end is told
        with self._news:
            self.code = code
            self._news.notify_all()

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            self._last.append(line.rstrip())


def _number(line: str) -> float | None:
    try:
        value = float(line)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
