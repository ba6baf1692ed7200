"""The measuring procedure, on a clock that the test winds."""

from collections.abc import Callable, Iterator
from itertools import count, repeat
from threading import Event

import pytest

from kdbench.energy import meter as procedure
from kdbench.energy.meter import Repeater, measure
from kdbench.errors import MeterError
from kdbench.records import EnergyPlan, EnergyReading, Source

PLAN = EnergyPlan(window_s=5.0, windows=3)
CALL_PX = 500_000


class Clock:
    """Time passes only where the test says so, at some draw [W]."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.drawn_j = 0.0
        self.idle_w: Iterator[float] = repeat(10.0)

    def perf_counter(self) -> float:
        return self.now_s

    def spend(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        self.drawn_j += seconds * watts

    def sleep(self, seconds: float) -> None:
        self.spend(seconds, next(self.idle_w))


class ClockMeter:
    """Counts what the clock drew; `wait_s` idles at the end, as for a counter's next tick."""

    name = "clock"
    source: Source = "counter"
    detail = "of the test"

    def __init__(
        self, clock: Clock, *, tick_s: float = 0.001, sees_idle: bool = True, wait_s: float = 0.0
    ) -> None:
        self.tick_s = tick_s
        self.sees_idle = sees_idle
        self.n_windows = 0
        self.is_running = False
        self._clock = clock
        self._wait_s = wait_s

    def start(self) -> None:
        assert not self.is_running
        self.is_running = True
        self.n_windows += 1
        self._start_j = self._clock.drawn_j

    def stop(self) -> float:
        assert self.is_running
        self.is_running = False
        if self._wait_s:
            self._clock.sleep(self._wait_s)
        return self._clock.drawn_j - self._start_j


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(procedure, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(procedure, "sleep", clock.sleep)
    return clock


def coder(
    clock: Clock, *, call_s: Iterator[float] | None = None, watts: float = 30.0
) -> Callable[[], int]:
    """Half a megapixel a call."""
    seconds = call_s or repeat(0.1)

    def work() -> int:
        clock.spend(next(seconds), watts)
        return CALL_PX

    return work


def read(
    clock: Clock, plan: EnergyPlan = PLAN, *, tick_s: float = 0.001, wait_s: float = 0.0
) -> EnergyReading:
    """A reading of the plain coder."""
    meter = ClockMeter(clock, tick_s=tick_s, wait_s=wait_s)
    return measure("encode", coder(clock), meter=meter, plan=plan)


def test_gross_is_draw_times_time_per_megapixel(clock: Clock) -> None:
    assert read(clock).gross_j_per_mpx == pytest.approx((6.0, 6.0, 6.0))  # 30 W x 0.1 s / 0.5


def test_net_is_gross_less_the_idle_draw(clock: Clock) -> None:
    reading = read(clock)
    assert reading.idle_before_w == pytest.approx(10.0)
    assert reading.idle_after_w == pytest.approx(10.0)
    assert reading.net_j_per_mpx == pytest.approx((4.0, 4.0, 4.0))


def test_a_wait_for_the_tick_is_idle_and_not_coding_time(clock: Clock) -> None:
    reading = read(clock, wait_s=0.5)
    assert reading.s_per_mpx == pytest.approx(0.2)
    assert reading.net_j_per_mpx == pytest.approx((4.0, 4.0, 4.0))


def test_every_window_holds_the_same_calls_and_lasts_as_asked(clock: Clock) -> None:
    plain = measure("encode", coder(clock), meter=ClockMeter(clock), plan=PLAN, images_per_call=8)
    assert plain.window_s >= PLAN.window_s
    assert plain.window_s == pytest.approx(0.1 * plain.images_per_window / 8)


def test_a_meter_blind_to_idle_has_no_idle_no_net_and_no_idle_periods(clock: Clock) -> None:
    blind = ClockMeter(clock, sees_idle=False)
    reading = measure("decode", coder(clock), meter=blind, plan=PLAN)
    assert (reading.idle_before_w, reading.idle_after_w, reading.net_j_per_mpx) == (None,) * 3
    assert blind.n_windows == PLAN.windows


def test_idle_is_seen_before_and_after_the_windows(clock: Clock) -> None:
    seeing = ClockMeter(clock)
    measure("decode", coder(clock), meter=seeing, plan=PLAN)
    assert seeing.n_windows == PLAN.windows + 2


@pytest.mark.parametrize(
    ("after_w", "flags"), [(10.4, ()), (12.5, ("idle drifted 20.0 %",)), (10.0, ())]
)
def test_an_idle_draw_that_drifts_is_flagged(
    clock: Clock, after_w: float, flags: tuple[str, ...]
) -> None:
    clock.idle_w = iter([10.0, after_w])
    reading = read(clock)
    assert reading.flags == flags
    assert reading.net_j_per_mpx == pytest.approx((6 - 0.2 * (10 + after_w) / 2,) * 3)


def test_windows_that_disagree_are_flagged_with_their_interval(clock: Clock) -> None:
    n_warm_up, n_calls = 16, 42  # of 0.125 s: 2 s; 5 s and 5 % more
    by_window = [0.125] * n_calls + [0.1375] * n_calls + [0.15] * n_calls
    seconds = [0.125] * n_warm_up + by_window
    reading = measure(
        "decode", coder(clock, call_s=iter(seconds)), meter=ClockMeter(clock), plan=PLAN
    )
    # Mean 0.1375, deviation 0.0125, t(2) = 4.303: 4.303 x 0.0125 / sqrt(3) / 0.1375
    assert reading.flags == ("noisy: 22.6 % interval",)


def test_windows_under_five_seconds_are_flagged_as_quick(clock: Clock) -> None:
    assert read(clock, EnergyPlan(window_s=1.0, windows=2)).flags == ("quick: 1.1 s windows",)
    assert read(clock).flags == ()


def test_one_window_has_no_spread_and_cannot_be_called_noisy(clock: Clock) -> None:
    reading = read(clock, EnergyPlan(window_s=5.0, windows=1))
    assert reading.spread_j_per_mpx is None
    assert reading.flags == ()


def test_work_that_gets_faster_is_calibrated_anew(clock: Clock) -> None:
    seconds = (0.1 if n < 60 else 0.05 for n in count())
    reading = measure("decode", coder(clock, call_s=seconds), meter=ClockMeter(clock), plan=PLAN)
    assert reading.window_s >= PLAN.window_s
    assert reading.gross_j_per_mpx == pytest.approx((3.0, 3.0, 3.0))


def test_a_machine_that_calms_down_slowly_is_measured_in_the_end(clock: Clock) -> None:
    seconds = (0.1 * 0.995 ** min(n, 200) for n in count())
    reading = measure("decode", coder(clock, call_s=seconds), meter=ClockMeter(clock), plan=PLAN)
    assert PLAN.window_s <= reading.window_s < 2.2 * PLAN.window_s


def test_work_that_never_stops_getting_faster_says_what_to_do(clock: Clock) -> None:
    seconds = (0.1 * 0.99**n for n in count())
    with pytest.raises(MeterError, match=r"(?s)after 5 attempts.* = 5 s.*fix: stop what else"):
        measure("decode", coder(clock, call_s=seconds), meter=ClockMeter(clock), plan=PLAN)


def test_a_window_under_ten_ticks_names_the_key_to_raise(clock: Clock) -> None:
    with pytest.raises(
        MeterError, match=r"(?s)0\.5 s is under 10 ticks of 0\.1 s.*energy\.window_s` to 1 "
    ):
        read(clock, EnergyPlan(window_s=0.5), tick_s=0.1)


def test_a_plan_without_windows_is_refused(clock: Clock) -> None:
    with pytest.raises(MeterError, match=r"(?s)0 windows.*`energy\.windows` to 1"):
        read(clock, EnergyPlan(windows=0))


def test_a_meter_that_counts_nothing_is_an_error_and_not_a_zero(clock: Clock) -> None:
    dead = ClockMeter(clock)
    with pytest.raises(MeterError, match=r"(?s)`clock` counted 0 J.*kdbench doctor"):
        measure("decode", coder(clock, watts=0.0), meter=dead, plan=PLAN)


def test_work_that_fails_leaves_the_meter_stopped(clock: Clock) -> None:
    fine_calls = iter([0.1] * 30)
    meter = ClockMeter(clock)

    def work() -> int:
        try:
            return coder(clock, call_s=fine_calls)()
        except StopIteration:
            raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        measure("decode", work, meter=meter, plan=PLAN)
    assert not meter.is_running


def test_an_error_in_a_repeated_action_waits_for_stop() -> None:
    called = Event()

    def fails() -> None:
        called.set()
        raise MeterError("the counter is gone", fix="none")

    repeater = Repeater(fails, 0.001)
    assert called.wait(10)
    with pytest.raises(MeterError, match="the counter is gone"):
        repeater.stop()
