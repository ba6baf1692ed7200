"""The NVML meter against a stub whose joules are known, in processes of their own."""

import json
from typing import Any

import pytest

from tests.support.nvml_stub import run_with_stub

PRELUDE = """
import json
from time import perf_counter, process_time, sleep
from kdbench import energy
from kdbench.energy import measure, pick
from kdbench.energy.nvml import nvml_index, nvml_meter
from kdbench.errors import MeterError
from kdbench.records import EnergyPlan

def busy(seconds=0.05):
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass
    return 1_000_000

def metered(meter, seconds):
    meter.start()
    began = perf_counter()
    busy(seconds)
    joules = meter.stop()
    return joules, perf_counter() - began

def why_not(call):
    try:
        call()
    except MeterError as error:
        return [error.problem, error.fix]
"""


def on_stub(code: str, **settings: str) -> Any:
    """What `code` puts into `out`, run with the stub; `settings` as in nvml_stub.c."""
    done = run_with_stub("-c", f"{PRELUDE}\n{code}\nprint(json.dumps(out))", settings=settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_constant_100_w_is_read_within_one_percent_in_windows_of_5_s() -> None:
    out = on_stub(
        """
meter = nvml_meter(0)
plan = EnergyPlan(window_s=5.0, windows=1)
reading = measure("encode", busy, meter=meter, plan=plan, idle_s=0.5)
out = [reading.gross_j_per_mpx[0] / reading.s_per_mpx, reading.idle_before_w,
       reading.net_j_per_mpx[0] / reading.s_per_mpx, reading.flags, reading.source]
""",
        UPDATE_MS="20",
    )
    gross_w, idle_w, net_w, flags, source = out
    assert gross_w == pytest.approx(100.0, rel=0.01)
    assert idle_w == pytest.approx(100.0, rel=0.01)
    assert net_w == pytest.approx(0.0, abs=1.0)
    assert (flags, source) == ([], "counter")


def test_a_slow_counter_is_read_at_its_ticks() -> None:
    """Unaligned, a 100 ms counter is up to 12 % off in a window of 0.83 s."""
    joules, seconds = on_stub("out = metered(nvml_meter(0), 0.83)", UPDATE_MS="100")
    assert joules == pytest.approx(100.0 * seconds, rel=0.05)  # of a sample each end


def test_net_energy_is_that_of_the_work() -> None:
    out = on_stub(
        """
plan = EnergyPlan(window_s=1.0, windows=2)
cpu_s = []
def work():
    began = process_time()
    busy()
    cpu_s.append(process_time() - began)
    return 1_000_000
reading = measure("decode", work, meter=nvml_meter(0), plan=plan)
n = 2 * reading.images_per_window
out = [sum(reading.net_j_per_mpx) / 2, 50 * sum(cpu_s[-n:]) / n]
""",
        IDLE_W="100",
        DYN_W="50",
    )
    net_j_per_mpx, truth_j_per_mpx = out
    # The meter's own polling is CPU time too, and 20 ms ticks are not exact: 10 %.
    assert net_j_per_mpx == pytest.approx(truth_j_per_mpx, rel=0.1)


def test_a_board_without_a_counter_is_sampled() -> None:
    source, detail, (joules, seconds) = on_stub(
        "meter = nvml_meter(0); out = [meter.source, meter.detail, metered(meter, 0.7)]",
        NO_ENERGY="1",
    )
    assert source == "sampled"
    assert detail == "power of GPU 0 (STUB GPU (simulated)), 20 samples a second"
    assert joules == pytest.approx(100.0 * seconds, rel=0.05)  # of a sample each end


def test_what_is_missing_is_named_with_its_remedy() -> None:
    code = "out = why_not(lambda: nvml_meter(0))"
    assert on_stub(code, INIT_FAIL="9") == [
        "NVML on GPU 0: Driver Not Loaded",
        "load the driver: `sudo modprobe nvidia`",
    ]
    neither = on_stub(code, NO_ENERGY="1", NO_POWER="1")
    assert neither[0] == "NVML on GPU 0 (STUB GPU (simulated)): Not Supported"
    assert "neither energy nor power" in neither[1]


def test_gpus_are_found_by_uuid_and_missing_ones_are_named() -> None:
    last = "00000000-0000-0000-0000-000000000001"
    index, unknown, beyond = on_stub(
        f"""
out = [nvml_index("{last}"), why_not(lambda: nvml_index("MIG-1")), why_not(lambda: nvml_meter(2))]
""",
        COUNT="2",
    )
    assert index == 1
    assert unknown[0] == "NVML lists no GPU with UUID MIG-1"
    assert beyond[1] == "`nvidia-smi -L` lists the GPUs that exist"


def test_a_counter_that_stands_still_is_an_error() -> None:
    problem, fix = on_stub("out = why_not(nvml_meter(0).start)", IDLE_W="0")
    assert "has not moved for 1 s" in problem
    assert "nvidia-smi" in fix


def test_auto_takes_the_counter_of_the_gpu_that_works() -> None:
    assert on_stub(
        """
energy.gpu_uuid = lambda device: "00000000-0000-0000-0000-000000000001"
meter = pick(EnergyPlan(require="measured"), "cuda:0")
out = [meter.name, meter.source, meter.detail]
""",
        COUNT="2",
    ) == ["nvml", "counter", "total-energy counter of GPU 1 (STUB GPU (simulated))"]
