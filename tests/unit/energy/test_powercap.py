"""RAPL counters on a fake /sys/class/powercap."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import pytest

from kdbench.energy.powercap import Domain, PowercapMeter
from kdbench.errors import MeterError
from tests.support.powercap_tree import PowercapTree

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything: step down to nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_joules_are_those_that_the_counter_moved(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=())
    tree.set_joules({"package-0": 1000.0})
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.set_joules({"package-0": 1012.5})
    assert meter.stop() == pytest.approx(12.5)


def test_packages_and_their_dram_add_up_and_nothing_counts_twice(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, packages=2, parts=("core", "uncore", "dram"), psys=True)
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.set_joules({"package-0": 10.0, "package-1": 20.0, "dram": 3.5})
    tree.set_joules({"core": 8.0, "uncore": 1.0, "psys": 60.0})
    assert meter.stop() == pytest.approx(10 + 20 + 2 * 3.5)
    assert meter.detail == "RAPL package-0 + dram + package-1 + dram"


def test_a_second_window_begins_at_zero(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=())
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.set_joules({"package-0": 5.0})
    meter.stop()
    meter.start()
    tree.set_joules({"package-0": 7.0})
    assert meter.stop() == pytest.approx(2.0)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=(), range_uj=100_000_000)
    tree.set_joules({"package-0": 99.0})
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.set_joules({"package-0": 103.0})  # reads 3 J
    assert meter.stop() == pytest.approx(4.0)


def test_each_counter_wraps_on_its_own(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, packages=2, parts=(), range_uj=100_000_000)
    tree.set_joules({"package-0": 99.0, "package-1": 50.0})
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.set_joules({"package-0": 103.0, "package-1": 60.0})
    assert meter.stop() == pytest.approx(4.0 + 10.0)


def test_a_domain_read_once_a_round_loses_none(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=(), range_uj=100_000_000)
    domain = Domain(tree.class_dir / "intel-rapl:0")
    for joules in range(0, 1001, 50):
        tree.set_joules({"package-0": float(joules)})
        domain.update()
    assert domain.joules == pytest.approx(1000.0)


def test_a_window_longer_than_a_round_loses_none(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=(), range_uj=20_000_000)  # 20 ms at the highest power
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    for joules in (15.0, 30.0, 45.0):
        tree.set_joules({"package-0": joules})
        sleep(0.3)  # 30 polls
    assert meter.stop() == pytest.approx(45.0)


def test_polling_is_rare_where_the_range_is_wide(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=(), range_uj=262_143_328_850)
    assert Domain(tree.class_dir / "intel-rapl:0").round_s == pytest.approx(262.143, abs=0.001)


def test_a_forbidden_counter_names_the_command_that_opens_it() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to nobody
        root = Path(folder)
        root.chmod(0o755)
        tree = PowercapTree(root)
        for file in tree.energy_files():
            file.chmod(0)
        with unprivileged(), pytest.raises(MeterError) as caught:
            PowercapMeter(tree.class_dir)
    assert "may not read" in caught.value.problem
    assert "intel-rapl:0/energy_uj" in caught.value.problem
    assert caught.value.fix == f"sudo chmod a+r {tree.class_dir}/intel-rapl:*/energy_uj"


@pytest.mark.parametrize("folder", ["class/powercap", "nowhere"])
def test_a_machine_without_rapl_is_told_where_to_find_it(tmp_path: Path, folder: str) -> None:
    PowercapTree(tmp_path, packages=0, psys=True)
    with pytest.raises(MeterError, match=r"(?s)no RAPL package under .*fix: .*bare machine"):
        PowercapMeter(tmp_path / folder)


def test_a_counter_that_vanishes_inside_a_window_is_an_error(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path)
    meter = PowercapMeter(tree.class_dir)
    meter.start()
    tree.energy_files()[0].unlink()
    with pytest.raises(MeterError, match=r"(?s)cannot read .*energy_uj: No such file.*fix: "):
        meter.stop()


def test_the_memory_mapped_view_of_a_package_is_not_added(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path, parts=())
    mapped = tree.class_dir / "intel-rapl-mmio:0"
    mapped.symlink_to(tree.class_dir / "intel-rapl:0")
    assert PowercapMeter(tree.class_dir).detail == "RAPL package-0"
