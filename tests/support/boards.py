"""Fake small boards: Jetson's INA3221 under /sys as two kernels lay it out, a Pi 5's firmware."""

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

ORIN_NX = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
AGX_ORIN = (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("NC", "VDDQ_VDD2_1V8AO", "NC"))
NANO = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")
VOLTS = 5.0
PMIC = """\
     3V7_WL_SW_A current(0)=0.10000000A
       VDD_CORE_A current(7)={amperes:.8f}A
     3V7_WL_SW_V volt(8)=3.70000000V
       VDD_CORE_V volt(15)=0.80000000V
        EXT5V_V volt(24)=5.10000000V
         BATT_V volt(25)=0.00000000V
"""
PI5_REST_W = 0.37  # of the supply that is not VDD_CORE


class Ina3221Tree:
    """Monitors with three channels each; all rails draw nothing at first.

    Attributes:
        root: What stands for /sys/bus/i2c/drivers.
    """

    def __init__(
        self,
        folder: Path,
        *chips: tuple[str, ...],
        iio: bool = False,
        update_interval_ms: int | None = None,
    ) -> None:
        self.root = folder / "bus/i2c/drivers"
        self._power: dict[str, tuple[Path, Path | None]] = {}  # voltage and current, or power
        for number, labels in enumerate(chips or (ORIN_NX,)):
            if iio:
                chip = self.root / f"ina3221x/6-004{number}/iio:device{number}"
            else:
                chip = self.root / f"ina3221/1-004{number}/hwmon/hwmon{3 + number}"
            chip.mkdir(parents=True)
            if update_interval_ms is not None:
                put(chip / "update_interval", update_interval_ms)
            for channel, label in enumerate(labels):
                self._add(chip, channel, label, iio=iio)
            if not iio:
                put(chip / "in7_label", "sum of shunt voltages")
        self.set_w({label: 0.0 for label in self._power})

    def set_w(self, watts: Mapping[str, float]) -> None:
        """Sets what rails draw [W]."""
        for label, value in watts.items():
            first, second = self._power[label]
            if second is None:
                put(first, round(1e3 * value))
            else:
                put(first, round(1e3 * VOLTS))
                put(second, round(1e3 * value / VOLTS))

    def files(self, label: str) -> list[Path]:
        """What the power of a rail is read from."""
        return [path for path in self._power[label] if path is not None]

    def _add(self, chip: Path, channel: int, label: str, *, iio: bool) -> None:
        if iio:
            put(chip / f"rail_name_{channel}", label)
            self._power[label] = (chip / f"in_power{channel}_input", None)
        else:
            put(chip / f"in{channel + 1}_label", label)
            files = (chip / f"in{channel + 1}_input", chip / f"curr{channel + 1}_input")
            self._power[label] = files


def vcgencmd(folder: Path, core_w: float) -> Path:
    """A program that prints what a Pi 5's does, whose processor draws `core_w`."""
    return script(folder / "vcgencmd", f"print('''{PMIC.format(amperes=core_w / 0.8)}''')")


def script(path: Path, code: str) -> Path:
    """A program of one Python file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -S\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def put(path: Path, value: object) -> None:
    """Replaces a file at once: a reader never sees it empty."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(f"{value}\n")
    fresh.rename(path)


POWERMETRICS = """
import sys, time
words = dict(zip(sys.argv, sys.argv[1:]))
time.sleep(int(words["-n"]) * int(words["-i"]) / 1000)
with open(words["-o"], "w") as log:
    for _ in range(int(words["-n"])):
        print("CPU Power: {cpu_mw} mW\\nGPU Power: {gpu_mw} mW\\nCombined Power: 1 mW", file=log)
"""


def powermetrics(folder: Path, cpu_mw: int, gpu_mw: int) -> None:
    """`sudo` and `powermetrics` of a Mac, for a PATH that begins with `folder`."""
    code = POWERMETRICS.format(cpu_mw=cpu_mw, gpu_mw=gpu_mw)
    script(folder / "powermetrics", code)
    script(folder / "sudo", "import os, sys\nos.execvp(sys.argv[1], sys.argv[1:])")
