"""CodeCarbon as a meter: offline, silent, without its guess for memory, and with provenance.

CodeCarbon measures where the machine lets it and estimates elsewhere, and its records do not say
which. `_parts` reads that from its private names; tests/contract guards them, and a name that is
not in the tables below is an error.
"""

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdbench.errors import MeterError
from kdbench.records import Source

J_PER_KWH = 3.6e6
CPU_MODES: dict[str, Source] = {
    "intel_rapl": "counter",
    "windows_emi": "counter",
    "intel_power_gadget": "sampled",
    "cpu_load": "model",  # TDP x CPU seconds of this process and its children / logical CPUs
    "constant": "model",  # TDP / 2 x seconds
}
CHIPS: dict[str, Source] = {
    "AppleSiliconChip": "model",  # powermetrics computes watts from activity
    "Raspberry": "sampled",
}
TICKS_S = {"counter": 0.001, "model": 0.01}  # RAPL; process times of the kernel
GPU_TICKS_S = {"counter": 0.1, "sampled": 1.0}
TRUST: list[Source] = ["counter", "sampled", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of hardware that CodeCarbon reads, and how it comes by its joules."""

    hardware: Literal["cpu", "gpu"]
    source: Source
    detail: str
    tick_s: float


class CodecarbonMeter:
    """What CodeCarbon says this process (or, with counters, the device) draws [J].

    On a CPU the figure is CodeCarbon's CPU energy. On a GPU it is the GPU's, plus the CPU's
    where both are measured: an estimate is never added to a measurement.
    Without counters the figure is CPU seconds of this process and its children x TDP / logical
    CPUs: it does not see idle, nor what others do (with one more busy process a core it
    moved by 4 % where seconds doubled, 2026-11-23). `start` and `stop` take 6 ms together and
    add 0.4 % to a window of 1 s. Children that begin or end inside a window are missed.

    Args:
        gpu_index: NVML's number of the GPU that does the work; None for a CPU.

    Raises:
        MeterError: CodeCarbon does not start, sees no such device, or reads it in a way whose
            provenance is not known here.
    """

    name = "codecarbon"

    def __init__(self, gpu_index: int | None = None) -> None:
        self._tracker = _tracker(os.getpid(), gpu_index)
        self._parts = _chosen(_parts(self._tracker), gpu=gpu_index is not None)
        self.source: Source = max((part.source for part in self._parts), key=TRUST.index)
        self.detail = " + ".join(part.detail for part in self._parts)
        self.tick_s = max(part.tick_s for part in self._parts)
        self.sees_idle = self.source != "model"

    def start(self) -> None:
        self._tracker.start_task()

    def stop(self) -> float:
        task = self._tracker.stop_task()
        if task is None or _chosen(_parts(self._tracker), gpu=self._is_gpu) != self._parts:
            raise MeterError(
                f"CodeCarbon lost `{self.detail}` inside a window",
                fix="measure again; if it comes back, name another meter with `energy.meter`",
            )
        kwh = {"cpu": task.cpu_energy, "gpu": task.gpu_energy}
        return J_PER_KWH * float(sum(kwh[part.hardware] for part in self._parts))

    @property
    def _is_gpu(self) -> bool:
        return any(part.hardware == "gpu" for part in self._parts)


@functools.cache
def _tracker(_pid: int, gpu_index: int | None) -> Any:
    """The tracker of this process, hardware probed: 1.8 s once (a fork has its own).

    Every option that ~/.codecarbon.config or CODECARBON_* could set, and that would change the
    joules, write, or call out, is given here.
    """
    import codecarbon

    # Importing sets the level back; the constructor writes two lines before it reads its own.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code="FRA",  # needed, unused: only grams of CO2 depend on it
        force_carbon_intensity_g_co2e_kwh=0.0,  # else a token in the environment calls out
        emissions_endpoint="",
        output_methods=[],
        output_handlers=[],
        output_dir=".",
        log_level="critical",
        allow_multiple_runs=True,
        measure_power_secs=3600.0,
        tracking_mode="process",
        gpu_ids=None if gpu_index is None else [gpu_index],
        force_cpu_power=None,
        force_mode_cpu_load=False,
        rapl_include_dram=False,  # without effect in 3.3.2 (codecarbon#1305)
        rapl_prefer_psys=False,
        pue=1.0,
    )
    try:
        tracker.start_task()  # the first one loads tables: 0.1 s
        tracker.stop_task()
    except (AttributeError, OSError) as error:
        # Its constructor swallows every exception and leaves half an object behind.
        raise MeterError(
            f"CodeCarbon {codecarbon.__version__} does not start: {error}",
            fix="pip install 'codecarbon>=3.3.2,<3.4', or name another meter with `energy.meter`",
        ) from None
    return tracker


def _chosen(parts: Sequence[Part], *, gpu: bool) -> list[Part]:
    """The parts that make up the figure: of the device that works, never mixed with a guess."""
    if not gpu:
        return [part for part in parts if part.hardware == "cpu"]
    if not any(part.hardware == "gpu" for part in parts):
        raise MeterError(
            "CodeCarbon sees no GPU: it looks only where `nvidia-smi --help` succeeds",
            fix="put `nvidia-smi` on the PATH, or set `energy.meter: nvml`",
        )
    return [part for part in parts if part.hardware == "gpu" or part.source != "model"]


def _parts(tracker: Any) -> list[Part]:
    """What the tracker really reads, RAM left out."""
    parts: list[Part] = []
    for hardware in tracker._hardware:
        kind = type(hardware).__name__
        if kind == "CPU" and hardware._mode in CPU_MODES:
            parts.append(_cpu_part(hardware))
        elif kind == "GPU":
            parts += [_gpu_part(hardware, board) for board in _boards(hardware)]
        elif kind in CHIPS and hardware.chip_part == "CPU":
            detail = f"{kind} {hardware.chip_part} (whole machine)"
            parts.append(Part(hardware="cpu", source=CHIPS[kind], detail=detail, tick_s=1.0))
        elif kind != "RAM" and getattr(hardware, "chip_part", None) not in ("GPU", "RAM"):
            raise MeterError(
                f"CodeCarbon reads `{hardware.description()}` here: kdbench does not know"
                " whether that is measured",
                fix="pip install 'codecarbon>=3.3.2,<3.4', or name another meter"
                " with `energy.meter`",
            )
    return parts


def _cpu_part(cpu: Any) -> Part:
    source = CPU_MODES[cpu._mode]
    scope = "process" if cpu._mode == "cpu_load" else "whole machine"
    factor = {"cpu_load": f" x {cpu._tdp:g} W", "constant": f" {cpu._tdp / 2:g} W"}
    detail = f"{cpu._mode}{factor.get(cpu._mode, '')} ({scope})"
    return Part(hardware="cpu", source=source, detail=detail, tick_s=TICKS_S.get(source, 1.0))


def _boards(gpu: Any) -> list[Any]:
    return [board for board in gpu.devices.devices if board.gpu_index in gpu._get_gpu_ids()]


def _gpu_part(gpu: Any, board: Any) -> Part:
    counts = board._has_counter and not board._use_power_fallback
    source: Source = "counter" if counts else "sampled"
    what = "energy counter" if counts else "power once a second"
    detail = f"{what} of GPU {board.gpu_index} ({board._gpu_name})"
    return Part(hardware="gpu", source=source, detail=detail, tick_s=GPU_TICKS_S[source])
