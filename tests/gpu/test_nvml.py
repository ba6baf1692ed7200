"""The NVML meter on a real GPU: the contract, and that work costs more than idling."""

import time
from collections.abc import Callable

import pynvml
import pytest
import torch

from kdbench.device import fingerprint, gpu_uuid, resolve, synchronise
from kdbench.energy import available, measure, pick
from kdbench.energy.nvml import CounterMeter, PowerMeter, nvml_index
from kdbench.records import EnergyPlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="NO GPU: NVML is checked against a stub only"
    ),
]
DEVICE = "cuda:0"


@pytest.fixture
def work() -> Callable[[], int]:
    """Matrix products for about 50 ms, said to be one megapixel."""
    matrix = torch.rand(4096, 4096, device=DEVICE)

    def multiply() -> int:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            matrix @ matrix
            synchronise(DEVICE)
        return 1_000_000

    return multiply


def test_auto_measures_this_gpu() -> None:
    meter = pick(EnergyPlan(require="measured"), resolve("auto"))
    assert meter is not None
    assert meter.name == "nvml"
    assert meter.source in ("counter", "sampled")


def test_work_costs_more_than_idling(work: Callable[[], int]) -> None:
    meter = pick(EnergyPlan(), DEVICE)
    assert meter is not None
    reading = measure("decode", work, meter=meter, plan=EnergyPlan(window_s=5.0, windows=2))
    assert reading.idle_before_w is not None
    assert 1 < reading.idle_before_w < 500
    assert reading.net_j_per_mpx is not None
    assert min(reading.net_j_per_mpx) > 0
    watts = reading.mean_j_per_mpx / reading.s_per_mpx
    assert reading.idle_before_w < watts < 2000


def test_the_counter_agrees_with_integrated_power(work: Callable[[], int]) -> None:
    """Within 10 %: boards average the power they tell, and zeus#12 saw 1 %."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(nvml_index(gpu_uuid(DEVICE)))
    joules = {}
    for meter in (CounterMeter(handle, "GPU"), PowerMeter(handle, "GPU")):
        for _ in range(40):
            work()
        meter.start()
        for _ in range(100):
            work()
        joules[meter.source] = meter.stop()
    assert joules["sampled"] == pytest.approx(joules["counter"], rel=0.1)


def test_every_meter_works_or_says_why_not() -> None:
    for status in available(DEVICE):
        assert (status.meter is None) == bool(status.why_not)


def test_the_fingerprint_names_gpu_and_driver() -> None:
    assert {"gpu", "gpu_driver", "cuda"} <= fingerprint(DEVICE, threads=1).keys()
