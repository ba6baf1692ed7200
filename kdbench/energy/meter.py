"""The protocol of an energy meter, and the one procedure that every meter goes through."""

from collections.abc import Callable
from math import ceil
from statistics import fmean
from threading import Event, Thread
from time import perf_counter, sleep
from typing import NamedTuple, Protocol

from kdbench.errors import MeterError
from kdbench.intervals import relative_interval
from kdbench.records import EnergyPlan, EnergyReading, Operation, Source

TICKS_PER_WINDOW = 10  # one tick of doubt at each end is then at most a tenth of the window each
QUICK_S = 5.0  # GPU counters refresh every 20 to 100 ms: under 1 % doubt from here on
TOLERATED = 0.05  # relative: half width of the 95 % interval, drift of the idle draw
WARM_UP_CALLS = 3
WARM_UP_S = 2.0  # clocks and caches settle; a model of CPU time has neither
MARGINS = (1.05, 1.1, 1.25, 1.5, 2.0)  # of a window, at each attempt to make all long enough


class EnergyMeter(Protocol):
    """Joules that one device draws between `start()` and `stop()`.

    Wrap-around, polling and unit scale are the backend's private business.

    Attributes:
        name: As in `energy.meter` of a study file.
        source: Where the joules come from.
        detail: What was really used, e.g. `cpu_load x 8 W (process)`.
        tick_s: Refresh period of the underlying counter [s].
        sees_idle: False where the figure follows the work, so that idling costs nothing.
    """

    name: str
    source: Source
    detail: str
    tick_s: float
    sees_idle: bool

    def start(self) -> None: ...
    def stop(self) -> float: ...  # [J] since start()


class Window(NamedTuple):
    """One window: what was coded, in which time, for how many joules."""

    joules: float
    work_s: float  # first call begins to last call ends
    metered_s: float  # what `joules` covers: `work_s`, and a wait for the counter's next tick
    mpx: float


def measure(
    operation: Operation,
    work: Callable[[], int],
    *,
    meter: EnergyMeter,
    plan: EnergyPlan,
    images_per_call: int = 1,
    idle_s: float | None = None,
) -> EnergyReading:
    """Energy of `work` in J per megapixel, gross and net of the idle draw.

    ::

         warm-up    idle before     window 1     window 2   ..   window n    idle after
        |~~~~~~~~|______________|############|############|....|###########|____________|
         untimed      idle_s      k calls of `work`, the same k in each       idle_s
                                  k from the warm-up: >= plan.window_s

    Gross is all that the meter counts in a window, net is gross less idle draw x seconds. A
    meter that does not see idle has neither idle periods nor a net figure, and a warm-up of
    `WARM_UP_CALLS` calls; others warm up for `WARM_UP_S` at least.
    The caller holds the host's exclusive lease: package counters see every process.

    Args:
        operation: What `work` does; encoding and decoding are measured apart.
        work: Codes its photos once and returns the real pixels it coded, when the device is
            done (`device.synchronise`).
        meter: Counts the joules.
        plan: Windows and their length.
        images_per_call: Photos that one call codes.
        idle_s: Length of each idle period [s]; `plan.window_s` by default.

    Raises:
        MeterError: Windows too short for the meter's tick, or a meter that counts nothing.
    """
    _refuse_impossible(plan, meter)
    call_s = _warm_up(work, long=meter.sees_idle)
    before_w = _idle_w(meter, idle_s or plan.window_s)
    n_calls, windows = _enough_windows(work, meter, plan, call_s)
    after_w = _idle_w(meter, idle_s or plan.window_s)
    gross = tuple(w.joules / w.mpx for w in windows)
    return EnergyReading(
        operation=operation,
        source=meter.source,
        meter=meter.name,
        detail=meter.detail,
        gross_j_per_mpx=gross,
        net_j_per_mpx=_net(windows, before_w, after_w),
        idle_before_w=before_w,
        idle_after_w=after_w,
        window_s=min(w.work_s for w in windows),
        images_per_window=n_calls * images_per_call,
        s_per_mpx=fmean(w.work_s / w.mpx for w in windows),
        flags=_flags(gross, before_w, after_w, min(w.work_s for w in windows)),
    )


class Repeater:
    """Calls `action` every `period_s` in a thread of its own; its error waits for `stop()`."""

    def __init__(self, action: Callable[[], None], period_s: float) -> None:
        self._action = action
        self._period_s = period_s
        self._done = Event()
        self._error: MeterError | None = None
        self._thread = Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        while not self._done.wait(self._period_s):
            try:
                self._action()
            except MeterError as error:
                self._error = error
                return


def _refuse_impossible(plan: EnergyPlan, meter: EnergyMeter) -> None:
    shortest_s = TICKS_PER_WINDOW * meter.tick_s
    if plan.window_s < shortest_s or plan.window_s <= 0:
        raise MeterError(
            f"a window of {plan.window_s:g} s is under {TICKS_PER_WINDOW} ticks"
            f" of {meter.tick_s:g} s of the meter `{meter.name}`",
            fix=f"set `energy.window_s` to {shortest_s or 1.0:g} or more",
        )
    if plan.windows < 1:
        raise MeterError(
            f"{plan.windows} windows measure nothing", fix="set `energy.windows` to 1 or more"
        )


def _warm_up(work: Callable[[], int], *, long: bool) -> float:
    """Seconds of the fastest call."""
    seconds: list[float] = []
    while len(seconds) < WARM_UP_CALLS or (long and sum(seconds) < WARM_UP_S):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return max(min(seconds), 1e-6)


def _idle_w(meter: EnergyMeter, idle_s: float) -> float | None:
    """Draw of the idle device [W]; None where the meter cannot see it."""
    if not meter.sees_idle:
        return None
    meter.start()
    began = perf_counter()
    sleep(idle_s)
    joules = meter.stop()
    return joules / (perf_counter() - began)


def _enough_windows(
    work: Callable[[], int], meter: EnergyMeter, plan: EnergyPlan, call_s: float
) -> tuple[int, list[Window]]:
    """Calls per window, and windows that all last long enough.

    A machine that was busy during the warm-up may code faster now: then the number of calls is
    raised and the windows begin anew, each time with more to spare.
    """
    for margin in MARGINS:
        n_calls, windows = ceil(margin * plan.window_s / call_s), list[Window]()
        while len(windows) < plan.windows:
            windows.append(_window(work, meter, n_calls))
            if windows[-1].work_s < plan.window_s:
                break
        else:
            return n_calls, windows
        short_s = windows[-1].work_s
        call_s = short_s / n_calls
    raise MeterError(
        f"after {len(MARGINS)} attempts a window still lasts {short_s:.3f} s,"
        f" less than `energy.window_s` = {plan.window_s:g} s: the work gets faster each time",
        fix="stop what else runs on this machine and measure again",
    )


def _window(work: Callable[[], int], meter: EnergyMeter, n_calls: int) -> Window:
    meter.start()
    began = perf_counter()
    try:
        n_pixels = sum(work() for _ in range(n_calls))
        work_s = perf_counter() - began
    finally:
        joules = meter.stop()
        metered_s = perf_counter() - began
    if n_pixels <= 0 or joules <= 0:
        raise MeterError(
            f"`{meter.name}` counted {joules:g} J for {n_pixels} pixels in {work_s:.3f} s",
            fix="see `kdbench doctor` for the meters of this machine, and name another one"
            " with `energy.meter`",
        )
    return Window(joules, work_s, metered_s, n_pixels / 1e6)


def _net(
    windows: list[Window], before_w: float | None, after_w: float | None
) -> tuple[float, ...] | None:
    """Gross less the mean idle draw [J per megapixel]; None where idle is unknown."""
    if before_w is None or after_w is None:
        return None
    idle_w = (before_w + after_w) / 2
    return tuple((w.joules - idle_w * w.metered_s) / w.mpx for w in windows)


def _flags(
    gross: tuple[float, ...], before_w: float | None, after_w: float | None, window_s: float
) -> tuple[str, ...]:
    """What a reader must know before trusting the figure."""
    flags = []
    interval = relative_interval(gross)
    if interval is not None and interval > TOLERATED:
        flags.append(f"noisy: {100 * interval:.1f} % interval")
    if before_w is not None and after_w is not None and max(before_w, after_w) > 0:
        drift = abs(after_w - before_w) / max(before_w, after_w)
        if drift > TOLERATED:
            flags.append(f"idle drifted {100 * drift:.1f} %")
    if window_s < QUICK_S:
        flags.append(f"quick: {window_s:.1f} s windows")
    return tuple(flags)
