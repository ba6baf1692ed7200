"""What every energy meter promises. A new one joins METERS."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from kdbench.energy.apple import AppleMeter
from kdbench.energy.codecarbon import CodecarbonMeter
from kdbench.energy.command import CommandMeter
from kdbench.energy.ina3221 import Ina3221Meter
from kdbench.energy.meter import EnergyMeter, Repeater, measure
from kdbench.energy.nvml import nvml_meter
from kdbench.energy.pi5 import Pi5Meter
from kdbench.energy.powercap import PowercapMeter
from kdbench.energy.replay import ReplayMeter
from kdbench.records import EnergyPlan, EnergyReading, MeterUnit, Source
from tests.support.boards import (
    AGX_ORIN,
    NANO,
    ORIN_NX,
    Ina3221Tree,
    powermetrics,
    script,
    vcgencmd,
)
from tests.support.nvml_stub import run_with_stub
from tests.support.powercap_tree import PowercapTree

ON_STUB = "KDBENCH_TEST_NVML_STUB"  # set in the process that sees the stub
IMAGE_PX = 250_000


def powercap(folder: Path) -> Iterator[EnergyMeter]:
    """40 W, on a fake tree that ticks every millisecond."""
    tree = PowercapTree(folder, packages=2)
    tick = Repeater(lambda: tree.set_joules({"package-0": 40 * time.monotonic()}), 0.001)
    yield PowercapMeter(tree.class_dir)
    tick.stop()


def jetson(*chips: tuple[str, ...], iio: bool = False) -> Callable[[Path], Iterator[EnergyMeter]]:
    """40 W at the input, or shared by three rails."""

    def meters(folder: Path) -> Iterator[EnergyMeter]:
        tree = Ina3221Tree(folder, *chips, iio=iio, update_interval_ms=None if iio else 18)
        parts = {"VDD_GPU_SOC": 10.0, "VDD_CPU_CV": 20.0, "VIN_SYS_5V0": 10.0}
        whole = {"NC": 7.0, "VDDQ_VDD2_1V8AO": 3.0} | parts if len(chips) > 1 else {}
        tree.set_w(whole or {chips[0][0]: 40.0, chips[0][1]: 25.0})
        yield Ina3221Meter(tree.root)

    return meters


def pi5(folder: Path) -> Iterator[EnergyMeter]:
    """40 W, of which most feeds the processor."""
    yield Pi5Meter([str(vcgencmd(folder, 39.63)), "pmic_read_adc"])


def apple(folder: Path) -> Iterator[EnergyMeter]:
    """40 W, a quarter of it in the GPU; this machine plays a Mac until the meter is closed."""
    powermetrics(folder, 30_000, 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codecarbon.core.powermetrics.detect_cpu_model", lambda: "Apple M4")
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.MonkeyPatch.context() as mac:
            mac.setattr("sys.platform", "darwin")
            meter = AppleMeter()
        yield meter


def command(unit: MeterUnit, code: str) -> Callable[[Path], Iterator[EnergyMeter]]:
    """A program of one Python file."""

    def meters(folder: Path) -> Iterator[EnergyMeter]:
        yield CommandMeter(unit, [str(script(folder / "meter", f"import time\n{code}"))])

    return meters


FOR_EVER = "while True:\n    print({}, flush=True)\n    time.sleep(0.02)"


def simple(make: Callable[[], EnergyMeter]) -> Callable[[Path], Iterator[EnergyMeter]]:
    """`make` as a member of METERS."""

    def meters(_folder: Path) -> Iterator[EnergyMeter]:
        yield make()

    return meters


def stubbed() -> EnergyMeter:
    """The NVML meter, of the source that the starting process expects."""
    meter = nvml_meter(0)
    assert meter.source == os.environ[ON_STUB]
    assert "STUB" in meter.detail
    return meter


METERS: dict[str, Callable[[Path], Iterator[EnergyMeter]]] = (
    {"nvml": simple(stubbed)}
    if ON_STUB in os.environ
    else {
        "replay": simple(ReplayMeter),
        "powercap": powercap,
        "codecarbon": simple(CodecarbonMeter),
        "ina3221": jetson(ORIN_NX),
        "ina3221 of parts": jetson(*AGX_ORIN),
        "ina3221 by iio": jetson(NANO, iio=True),
        "pi5": pi5,
        "apple": apple,
        "command that goes on, watts": command("watts", FOR_EVER.format("40.0")),
        "command that goes on, joules": command("joules", FOR_EVER.format("40 * time.monotonic()")),
        "command that ends, watts": command("watts", "print(40.0)"),
        "command that ends, joules": command("joules", "print(40 * time.monotonic())"),
    }
)
CLOCKED = [name for name in METERS if name != "replay"]  # a replay does not look at the clock
OF_40_W = [name for name in CLOCKED if name not in ("codecarbon", "nvml")]


@pytest.fixture(scope="module", params=METERS)
def meter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EnergyMeter]:
    yield from METERS[request.param](tmp_path_factory.mktemp("meter"))


@pytest.fixture(scope="module")
def plan(meter: EnergyMeter) -> EnergyPlan:
    return EnergyPlan(window_s=max(10 * meter.tick_s, 0.2), windows=2)


@pytest.fixture(scope="module")
def reading(meter: EnergyMeter, plan: EnergyPlan) -> EnergyReading:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.energy.meter.WARM_UP_S", 0.1)
        return measure("decode", busy, meter=meter, plan=plan, images_per_call=2)


def busy(seconds: float = 0.02) -> int:
    """Burns CPU time, not only time on the clock; two images a call."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 2 * IMAGE_PX


def joules(meter: EnergyMeter, work: Callable[[], object]) -> float:
    """What `meter` counts for `work`."""
    meter.start()
    work()
    return meter.stop()


def test_energy_is_positive_and_its_origin_is_named(reading: EnergyReading) -> None:
    assert all(j > 0 for j in reading.gross_j_per_mpx)
    assert reading.source in get_args(Source)
    assert reading.meter
    assert reading.detail


def test_a_window_lasts_as_asked_and_ten_ticks(
    reading: EnergyReading, plan: EnergyPlan, meter: EnergyMeter
) -> None:
    assert reading.window_s >= plan.window_s
    assert reading.window_s >= 10 * meter.tick_s
    assert len(reading.gross_j_per_mpx) == plan.windows


def test_images_seconds_and_megapixels_agree(reading: EnergyReading) -> None:
    mpx_per_window = reading.images_per_window * IMAGE_PX / 1e6
    assert reading.s_per_mpx * mpx_per_window >= reading.window_s * 0.999  # the shortest window


def test_net_energy_exists_where_idle_is_seen_and_is_below_gross(
    reading: EnergyReading, meter: EnergyMeter
) -> None:
    if not meter.sees_idle:
        assert reading.net_j_per_mpx is None
        assert reading.idle_before_w is None
        assert reading.idle_after_w is None
        return
    assert reading.idle_before_w is not None
    assert reading.idle_before_w > 0
    assert reading.net_j_per_mpx is not None
    assert all(
        net < gross
        for net, gross in zip(reading.net_j_per_mpx, reading.gross_j_per_mpx, strict=True)
    )


@pytest.mark.parametrize("meter", CLOCKED, indirect=True)
def test_a_window_holds_nothing_of_the_one_before(meter: EnergyMeter) -> None:
    long_j = joules(meter, lambda: busy(0.9))
    short_j = joules(meter, lambda: busy(0.2))
    assert short_j < long_j / 2


@pytest.mark.parametrize("meter", CLOCKED, indirect=True)
def test_doing_nothing_costs_time_where_idle_is_seen_and_nothing_elsewhere(
    meter: EnergyMeter,
) -> None:
    asleep_j = joules(meter, lambda: time.sleep(0.5))
    busy_j = joules(meter, lambda: busy(0.5))
    if meter.sees_idle:
        assert asleep_j > 0
    else:
        assert asleep_j < 0.2 * busy_j  # 10 ms of kernel ticks, and the meter's own work


@pytest.mark.skipif(ON_STUB in os.environ, reason="the stub draws what its process works")
@pytest.mark.parametrize("meter", OF_40_W, indirect=True)
def test_a_load_that_is_known_is_told_in_joules(meter: EnergyMeter) -> None:
    """Rails inside others would make it more, units mixed up would make it a thousandth."""
    meter.start()
    began = time.perf_counter()
    time.sleep(1.0)
    counted_j = meter.stop()
    assert counted_j == pytest.approx(40 * (time.perf_counter() - began), rel=0.5)


def test_a_meter_serves_again_after_the_work_failed(meter: EnergyMeter, plan: EnergyPlan) -> None:
    def fails() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure("decode", fails, meter=meter, plan=plan)
    assert joules(meter, lambda: busy(0.1)) > 0


@pytest.mark.parametrize(("no_energy", "source"), [("0", "counter"), ("1", "sampled")])
def test_nvml_keeps_this_contract_on_the_stub(
    no_energy: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ON_STUB, source)
    options = ["-p", "no:cacheprovider", "--no-header", "-q"]
    arguments = ["-m", "pytest", *options, "-k", "not stub", __file__]
    settings = {"NO_ENERGY": no_energy, "UPDATE_MS": "100", "DYN_W": "50"}
    done = run_with_stub(*arguments, settings=settings)
    assert done.returncode == 0, done.stdout
    assert "7 passed, 1 skipped, 2 deselected" in done.stdout
