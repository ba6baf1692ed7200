"""macOS's `powermetrics` through CodeCarbon's reader: what it needs, and a reading that fails."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.energy import available
from kdbench.energy.apple import AppleMeter
from kdbench.errors import MeterError
from tests.support.boards import powermetrics, script


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes this machine look like a Mac; its programs are in the folder that is given."""

    def become(chip: str = "Apple M4") -> Path:
        monkeypatch.setattr("sys.platform", "darwin")
        monkeypatch.setattr("codecarbon.core.powermetrics.detect_cpu_model", lambda: chip)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        powermetrics(tmp_path, 30_000, 10_000)
        return tmp_path

    return become


def test_elsewhere_it_says_so() -> None:
    (found,) = [status for status in available("cpu") if status.name == "apple"]
    assert found.why_not == "not on macOS; measure on a Mac with Apple silicon"


def test_an_intel_mac_is_refused(mac: Callable[..., Path]) -> None:
    mac("Intel(R) Core(TM) i9")
    with pytest.raises(MeterError, match="Apple Silicon, detected CPU: 'Intel"):
        AppleMeter()


def test_a_password_that_would_be_asked_for_is_told_with_its_fix(
    mac: Callable[..., Path],
) -> None:
    script(mac() / "sudo", "import sys; sys.exit('sudo: a password is required')")
    with pytest.raises(MeterError, match=r"told no power\n  fix: .*NOPASSWD"):
        AppleMeter()


def test_a_reading_that_fails_later_is_no_old_one(mac: Callable[..., Path]) -> None:
    folder = mac()
    meter = AppleMeter()
    script(folder / "powermetrics", "import sys; sys.exit(1)")
    meter.start()
    with pytest.raises(MeterError, match="told no power"):
        meter.stop()
