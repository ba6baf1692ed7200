"""Power of a Jetson board from its INA3221 monitors, as the Linux kernel shows them under /sys.

Two drivers have shown them, by release of Jetson Linux:

    hwmon   drivers/ina3221/1-0040/hwmon/hwmon3    in1_label, in1_input [mV], curr1_input [mA]
    iio     drivers/ina3221x/6-0040/iio:device0    rail_name_0, in_power0_input [mW]

Each rail is a supply of its own, and some lie inside others: what feeds the module and what the
module feeds must not be added. `WHOLE` says which rails are the module, by board.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdbench.energy.sampling import Sampling
from kdbench.errors import MeterError
from kdbench.records import Source

ROOT = Path("/sys/bus/i2c/drivers")
SAMPLES_EVERY_S = 0.05
WHOLE: Mapping[str, tuple[str, ...]] = {
    "the module's input": ("VDD_IN",),  # Orin NX, Orin Nano, Xavier NX, TX2, TX1
    "the board's input": ("POM_5V_IN",),  # Nano
    "the board's 5 V input": ("5V_IN",),
    # AGX Orin has no rail of everything; VDDQ_VDD2_1V8AO, the memory, lies inside VIN_SYS_5V0.
    "the module by its parts": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "the module by all its parts": ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
}


@dataclass(frozen=True, slots=True)
class Rail:
    """One supply: its name, the monitor that sees it, and how its power is read [W]."""

    label: str
    chip: str
    read_w: Callable[[], float]
    refresh_s: float | None  # of the chip, where it tells


class Ina3221Meter:
    """Energy of a whole Jetson module, CPU, GPU and memory together [J].

    Power is voltage times current (hwmon) or as the driver computes it (iio), read 20 times a
    second, or as often as the chip refreshes, and integrated. What the carrier board draws beside
    the module is not in it, nor what a power supply loses.

    Args:
        root: What stands for /sys/bus/i2c/drivers.

    Raises:
        MeterError: No monitor here, rails of an unknown board, or a rail that cannot be read.
    """

    name = "ina3221"
    source: Source = "sampled"
    sees_idle = True

    def __init__(self, root: Path = ROOT) -> None:
        what, self._rails = _whole(_rails(root), root)
        refresh_s = max((rail.refresh_s or 0.0 for rail in self._rails), default=0.0)
        self.tick_s = max(refresh_s, SAMPLES_EVERY_S)
        names = " + ".join(f"{rail.label} ({rail.chip})" for rail in self._rails)
        self.detail = f"{what}, {names}, {1 / self.tick_s:.3g} samples a second"
        self._sampling = Sampling(self._watts, self.tick_s)
        self._watts()  # a rail that cannot be read is better told now

    def start(self) -> None:
        self._sampling.start()

    def stop(self) -> float:
        return self._sampling.stop()

    def _watts(self) -> float:
        return sum(rail.read_w() for rail in self._rails)


def _whole(rails: Mapping[str, Rail], root: Path) -> tuple[str, list[Rail]]:
    """The rails that together are the module, and what to call them."""
    if not rails:
        raise MeterError(
            f"no INA3221 under {root}",
            fix="measure on a Jetson board, whose kernel has the driver ina3221; in a container, "
            "let it see /sys",
        )
    for what, labels in WHOLE.items():
        if rails.keys() >= set(labels):
            return what, [rails[label] for label in labels]
    raise MeterError(
        f"the INA3221 here has the rails {', '.join(rails)}, and kdbench does not know which of "
        "them are the whole board",
        fix="read the right ones with a program of your own: `energy.meter: command:watts PROGRAM`",
    )


def _rails(root: Path) -> dict[str, Rail]:
    """Every rail that any monitor here names, by its label."""
    found: dict[str, Rail] = {}
    for path in sorted(root.glob("ina3221*/*/hwmon/hwmon*/in[0-9]_label")):
        number, folder = path.name[2], path.parent
        volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
        if amperes.exists():  # in7_label is a sum of shunt voltages
            chip = folder.parents[1].name
            rail = Rail(_text(path), chip, _product(volts, amperes), _refresh_s(folder))
            found.setdefault(rail.label, rail)
    for path in sorted(root.glob("ina3221*/*/iio:device*/rail_name_[0-9]")):
        folder = path.parent
        power = folder / f"in_power{path.name[-1]}_input"
        rail = Rail(_text(path), folder.parent.name, _milli(power), None)
        found.setdefault(rail.label, rail)
    return found


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    return lambda: _number(volts) * _number(amperes) / 1e6  # mV x mA


def _milli(power: Path) -> Callable[[], float]:
    return lambda: _number(power) / 1e3


def _refresh_s(folder: Path) -> float | None:
    """How long one round of conversions takes [s]; None where the driver does not tell."""
    path = folder / "update_interval"
    return _number(path) / 1e3 if path.exists() else None


def _number(path: Path) -> float:
    text = _text(path)
    try:
        return float(text)
    except ValueError:
        raise MeterError(
            f"{path} says {text!r}, which is no number",
            fix="restart the board; `energy.meter: command:watts PROGRAM` takes another source",
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise MeterError(
            f"cannot read {path}: {str(error.strerror).lower()}",
            fix=f"let this user read it (sudo chmod a+r {path}), and see that the channel is "
            "enabled",
        ) from None
