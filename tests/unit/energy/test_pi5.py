"""What a Raspberry Pi 5's firmware tells, and what is said where it tells nothing."""

from pathlib import Path

import pytest

from kdbench.energy import pi5
from kdbench.energy.pi5 import Pi5Meter
from kdbench.errors import MeterError
from tests.support.boards import script, vcgencmd


def test_supplies_with_a_current_are_counted_and_the_input_is_not(tmp_path: Path) -> None:
    meter = Pi5Meter([str(vcgencmd(tmp_path, 2.0)), "pmic_read_adc"])
    assert meter.detail.startswith("2 supplies of the power chip, 10 samples a second, without")
    assert "5 V input" in meter.detail


def test_a_machine_without_the_program_says_where_it_comes_from() -> None:
    with pytest.raises(MeterError, match=r"no program vcgencmdd: no such.*\n  fix: .*raspi-utils"):
        Pi5Meter(["vcgencmdd"])


def test_an_earlier_board_is_told_from_a_pi_5(tmp_path: Path) -> None:
    older = script(tmp_path / "vcgencmd", "print('error=2 error_msg=\"Invalid arguments\"')")
    with pytest.raises(MeterError, match=r"tells no current with its voltage\n  fix: .*Pi 5"):
        Pi5Meter([str(older)])


def test_a_user_who_may_not_ask_the_firmware_is_told_how(tmp_path: Path) -> None:
    code = 'import sys; print("Can\'t open device file: /dev/vcio", file=sys.stderr); sys.exit(1)'
    with pytest.raises(MeterError, match=r"code 1: Can't open device.*\n  fix: .*usermod"):
        Pi5Meter([str(script(tmp_path / "vcgencmd", code))])


def test_a_firmware_that_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pi5, "ANSWER_S", 0.2)
    hangs = script(tmp_path / "vcgencmd", "import time; time.sleep(60)")
    with pytest.raises(MeterError, match=r"has not answered for 0\.2 s"):
        Pi5Meter([str(hangs)])
