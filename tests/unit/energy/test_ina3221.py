"""Which rails of a Jetson board are the whole of it, and what is said of boards nobody knows."""

from pathlib import Path

import pytest

from kdbench.energy.ina3221 import Ina3221Meter
from kdbench.errors import MeterError
from tests.support.boards import AGX_ORIN, NANO, ORIN_NX, Ina3221Tree, put

AGX_XAVIER = (("GPU", "CPU", "SOC"), ("CV", "VDDRQ", "SYS5V"))


@pytest.mark.parametrize(
    ("chips", "iio", "detail"),
    [
        ((ORIN_NX,), False, "the module's input, VDD_IN (1-0040), 20 samples a second"),
        ((NANO,), True, "the board's input, POM_5V_IN (6-0040), 20 samples a second"),
        (
            AGX_ORIN,
            False,
            "the module by its parts, VDD_GPU_SOC (1-0040) + VDD_CPU_CV (1-0040) + "
            "VIN_SYS_5V0 (1-0040), 20 samples a second",
        ),
        (
            AGX_XAVIER,
            True,
            "the module by all its parts, GPU (6-0040) + CPU (6-0040) + SOC (6-0040) + "
            "CV (6-0041) + VDDRQ (6-0041) + SYS5V (6-0041), 20 samples a second",
        ),
    ],
)
def test_the_rails_of_the_whole_board_are_read(
    tmp_path: Path, chips: tuple[tuple[str, ...], ...], iio: bool, detail: str
) -> None:
    assert Ina3221Meter(Ina3221Tree(tmp_path, *chips, iio=iio).root).detail == detail


def test_a_chip_that_refreshes_slowly_is_read_as_often_as_it_does(tmp_path: Path) -> None:
    meter = Ina3221Meter(Ina3221Tree(tmp_path, ORIN_NX, update_interval_ms=280).root)
    assert meter.tick_s == 0.28
    assert "3.57 samples a second" in meter.detail


def test_a_board_without_monitors_says_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match=rf"no INA3221 under {tmp_path}\n  fix: .*Jetson"):
        Ina3221Meter(tmp_path)


def test_rails_of_an_unknown_board_are_named_and_not_added(tmp_path: Path) -> None:
    tree = Ina3221Tree(tmp_path, ("VDD_MAIN", "VDD_CORE", "VDD_IO"))
    with pytest.raises(
        MeterError, match=r"VDD_MAIN, VDD_CORE, VDD_IO, and kdbench (?s:.*)command:"
    ):
        Ina3221Meter(tree.root)


def test_a_rail_that_says_no_number_is_named(tmp_path: Path) -> None:
    tree = Ina3221Tree(tmp_path)
    path = tree.files("VDD_IN")[0]
    put(path, "n/a")
    with pytest.raises(MeterError, match=rf"{path} says 'n/a', which is no number"):
        Ina3221Meter(tree.root)


def test_a_rail_that_goes_away_while_it_is_metered_is_an_error(tmp_path: Path) -> None:
    tree = Ina3221Tree(tmp_path)
    meter = Ina3221Meter(tree.root)
    meter.start()
    path = tree.files("VDD_IN")[1]
    path.unlink()
    with pytest.raises(MeterError, match=rf"cannot read {path}: no such file"):
        meter.stop()
