"""CPU energy from RAPL counters, as the Linux kernel shows them under /sys/class/powercap."""

import re
from pathlib import Path

from kdbench.energy.meter import Repeater
from kdbench.errors import MeterError
from kdbench.records import Source

ROOT = Path("/sys/class/powercap")
MOST_W = 1000.0  # of one domain: twice the largest server CPU of 2026 (500 W)


class Domain:
    """One counter, with its wrap-around undone as long as it is read once a round.

    Raises:
        MeterError: The counter is not readable; says how to make it so.
    """

    def __init__(self, folder: Path) -> None:
        self.label = _read(folder / "name")
        self._energy = folder / "energy_uj"
        self._range_uj = int(_read(folder / "max_energy_range_uj"))
        self.start()

    @property
    def round_s(self) -> float:
        """Seconds in which the counter cannot have come round [s]."""
        return self._range_uj / 1e6 / MOST_W

    def start(self) -> None:
        self._last_uj = int(_read(self._energy))
        self._total_uj = 0

    def update(self) -> None:
        now_uj = int(_read(self._energy))
        self._total_uj += (now_uj - self._last_uj) % self._range_uj
        self._last_uj = now_uj

    @property
    def joules(self) -> float:
        """Energy from `start()` to the last `update()` [J]."""
        return self._total_uj / 1e6


class PowercapMeter:
    """Energy of all CPU packages and their DRAM, where it is counted apart [J].

    Packages are sockets: everything that runs there is in the figure. `core` and `uncore` lie
    inside the package, `psys` holds the package: neither is added.

    Raises:
        MeterError: No counter here, or none that this user may read.
    """

    name = "powercap"
    source: Source = "counter"
    tick_s = 0.001  # RAPL refreshes about every millisecond
    sees_idle = True

    def __init__(self, root: Path = ROOT) -> None:
        self._domains = [Domain(folder) for folder in _folders(root)]
        self._poll_s = min(domain.round_s for domain in self._domains) / 2
        self.detail = "RAPL " + " + ".join(domain.label for domain in self._domains)

    def start(self) -> None:
        for domain in self._domains:
            domain.start()
        self._poll = Repeater(self._update, self._poll_s)

    def stop(self) -> float:
        self._poll.stop()
        self._update()
        return sum(domain.joules for domain in self._domains)

    def _update(self) -> None:
        for domain in self._domains:
            domain.update()


def _folders(root: Path) -> list[Path]:
    """Packages and the DRAM below them, in the order of their numbers; AMD has the same names.

    `intel-rapl-mmio:N` is left out: it shows package N again.
    """
    folders = []
    for folder in sorted(root.glob("intel-rapl:*"), key=_numbers):
        label = _read(folder / "name")
        if label.startswith("package") or label == "dram":
            folders.append(folder)
    if not folders:
        raise MeterError(
            f"no RAPL package under {root}",
            fix="measure on the bare machine (virtual machines and most containers hide the"
            " counters), with `modprobe intel_rapl_msr` where the kernel has it as a module",
        )
    return folders


def _numbers(folder: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", folder.name)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError:
        # Root only since CVE-2020-8694: joules at 1 kHz give away what others compute.
        raise MeterError(
            f"this user may not read {path}",
            fix=f"sudo chmod a+r {path.parent.parent}/intel-rapl:*/energy_uj",
        ) from None
    except OSError as error:
        raise MeterError(
            f"cannot read {path}: {error.strerror}",
            fix="name another meter with `energy.meter`; `kdbench doctor` lists them",
        ) from None
