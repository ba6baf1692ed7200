"""A fake /sys: powercap folders and links as the kernel lays them out, counters set by the test."""

from collections.abc import Mapping
from pathlib import Path

RANGE_UJ = 262_143_328_850  # of a server of 2023


class PowercapTree:
    """`packages` sockets under `root`, each with its parts; all counters start at 0 J.

    Attributes:
        class_dir: What stands for /sys/class/powercap.
    """

    def __init__(
        self,
        root: Path,
        *,
        packages: int = 1,
        parts: tuple[str, ...] = ("core", "dram"),
        psys: bool = False,
        range_uj: int = RANGE_UJ,
    ) -> None:
        self.class_dir = root / "class/powercap"
        self._zone = root / "devices/virtual/powercap/intel-rapl"
        self._range_uj = range_uj
        self._domains: list[Path] = []
        self.class_dir.mkdir(parents=True)
        self._zone.mkdir(parents=True)
        self._link(self._zone)
        (self._zone / "subsystem").symlink_to(self.class_dir)
        for package in range(packages):
            folder = self._zone / f"intel-rapl:{package}"
            self._add(folder, f"package-{package}")
            for number, part in enumerate(parts):
                self._add(folder / f"intel-rapl:{package}:{number}", part)
        if psys:
            self._add(self._zone / f"intel-rapl:{packages}", "psys")

    def set_joules(self, joules: Mapping[str, float]) -> None:
        """Sets counters by label (`dram`: all of them) or folder (`intel-rapl:0:1`), wrapped."""
        for folder in self._domains:
            for key in {folder.name, (folder / "name").read_text().strip()} & joules.keys():
                energy_uj = round(joules[key] * 1e6) % self._range_uj
                self._put(folder / "energy_uj", energy_uj)

    def energy_files(self) -> list[Path]:
        """Every counter."""
        return [folder / "energy_uj" for folder in self._domains]

    def _add(self, folder: Path, label: str) -> None:
        folder.mkdir()
        self._put(folder / "name", label)
        self._put(folder / "energy_uj", 0)
        self._put(folder / "max_energy_range_uj", self._range_uj)
        self._link(folder)
        self._domains.append(folder)

    def _link(self, folder: Path) -> None:
        (self.class_dir / folder.name).symlink_to(folder)

    @staticmethod
    def _put(path: Path, value: object) -> None:
        """A counter is replaced at once: a reader never sees it empty."""
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{value}\n")
        fresh.rename(path)
