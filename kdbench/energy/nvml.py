"""GPU energy from NVML: the driver's energy counter, or power integrated where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Any

from kdbench.energy.meter import EnergyMeter
from kdbench.energy.sampling import Sampling
from kdbench.errors import MeterError
from kdbench.records import Source

STILL_S = 1.0  # a counter that has not moved for this long is broken


def nvml_meter(index: int) -> EnergyMeter:
    """The best meter of GPU `index` (NVML's order): its energy counter, else its power.

    Raises:
        MeterError: No driver, no such GPU, or a GPU that tells neither.
    """
    import pynvml

    with _explained(f"GPU {index}"):
        pynvml.nvmlInit()  # counted by NVML; ends with the process
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        label = f"GPU {index} ({_text(pynvml.nvmlDeviceGetName(handle))})"
    with _explained(label):
        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError_NotSupported:
            pynvml.nvmlDeviceGetPowerUsage(handle)
            return PowerMeter(handle, label)
        return CounterMeter(handle, label)


def nvml_index(uuid: str) -> int:
    """NVML's number of the GPU with this UUID.

    CUDA counts visible GPUs, fastest first; NVML counts all of them along the bus.

    Raises:
        MeterError: NVML does not list it.
    """
    import pynvml

    with _explained("the GPUs"):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if _text(pynvml.nvmlDeviceGetUUID(handle)).removeprefix("GPU-") == uuid:
                return index
    raise MeterError(
        f"NVML lists no GPU with UUID {uuid}",
        fix="use a whole GPU: a slice of one (MIG) has no energy of its own",
    )


class CounterMeter:
    """Energy of one GPU board from its total-energy counter [J].

    Both ends wait for the counter to move, so that no part of a tick is guessed: with a 100 ms
    counter a 1 s window is then 0.1 % sure instead of 5 %. The wait at the end, half a tick on
    average, is idle draw; `measure` counts its seconds.
    """

    name = "nvml"
    source: Source = "counter"
    tick_s = 0.1  # 10 to 100 ms have been seen, by board and driver
    sees_idle = True

    def __init__(self, handle: Any, label: str) -> None:
        self._handle = handle
        self._label = label
        self.detail = f"total-energy counter of {label}"

    def start(self) -> None:
        self._start_mj = self._next_mj()

    def stop(self) -> float:
        return (self._next_mj() - self._start_mj) / 1000

    def _next_mj(self) -> int:
        """The counter just after it moved [mJ]."""
        first_mj = now_mj = self._mj()
        began = perf_counter()
        while now_mj == first_mj:
            if perf_counter() - began > STILL_S:
                raise MeterError(
                    f"the energy counter of {self._label} has not moved for {STILL_S:g} s",
                    fix="check the board with `nvidia-smi -q -d POWER`, or update its driver",
                )
            sleep(0.0005)  # polling without sleep would burn the energy that is measured
            now_mj = self._mj()
        return now_mj

    def _mj(self) -> int:
        import pynvml

        with _explained(self._label):
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


class PowerMeter:
    """Energy of one GPU board without a counter: its power, sampled and integrated [J]."""

    name = "nvml"
    source: Source = "sampled"
    tick_s = 0.05
    sees_idle = True

    def __init__(self, handle: Any, label: str) -> None:
        self._handle = handle
        self._label = label
        self.detail = f"power of {label}, {1 / self.tick_s:.0f} samples a second"
        self._sampling = Sampling(self._watts, self.tick_s)

    def start(self) -> None:
        self._sampling.start()

    def stop(self) -> float:
        return self._sampling.stop()

    def _watts(self) -> float:
        import pynvml

        with _explained(self._label):
            return float(pynvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns NVML's errors into ours, each with its fix."""
    import pynvml

    fixes = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install NVIDIA's driver (libnvidia-ml.so.1)",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the driver: `sudo modprobe nvidia`",
        pynvml.NVML_ERROR_NO_PERMISSION: "ask for read access to /dev/nvidia*",
        pynvml.NVML_ERROR_INVALID_ARGUMENT: "`nvidia-smi -L` lists the GPUs that exist",
        pynvml.NVML_ERROR_NOT_SUPPORTED: "this board tells neither energy nor power:"
        " name another meter with `energy.meter`",
        pynvml.NVML_ERROR_GPU_IS_LOST: "restart the machine: the GPU fell off its bus",
    }
    try:
        yield
    except pynvml.NVMLError as error:
        raise MeterError(
            f"NVML on {what}: {error}",
            fix=fixes.get(error.value, "see what `nvidia-smi` says"),
        ) from None


def _text(value: str | bytes) -> str:
    """Older releases of pynvml answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
