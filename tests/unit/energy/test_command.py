"""A program of the user's as meter: what it may do wrong, each with its name and last words."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.energy import command, pick
from kdbench.energy.command import CommandMeter
from kdbench.errors import MeterError
from kdbench.records import EnergyPlan
from tests.support.boards import script

Program = Callable[[str], list[str]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A program of some Python code."""
    return lambda code: [str(script(tmp_path / "my meter", code))]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('12 W')", r"printed '12 W', which is no number of at least 0\n  fix: run `'/.*"),
        ("print('nan')", "printed 'nan'"),
        ("print(-3)", "printed '-3'"),
        ("print(1, flush=True); print('oops')", "printed 'oops'"),
        (
            "import sys; print('no such sensor', file=sys.stderr); sys.exit(3)",
            r"ended with code 3; it said:\n  no such sensor\n  fix: run",
        ),
        ("print(1); print(2)", r"ended with code 0; it said:\n  1\n  2\n"),
        ("pass", "ended with code 0"),
    ],
)
def test_a_program_that_is_no_meter_is_told_from_one(
    program: Program, code: str, said: str
) -> None:
    with pytest.raises(MeterError, match=said):
        CommandMeter("watts", program(code))


def test_a_missing_program_is_named() -> None:
    with pytest.raises(MeterError, match=r"program wattmeter does not start: no such file"):
        pick(EnergyPlan(meter="command:watts wattmeter --fast"), "cpu")


def test_a_program_that_hangs_is_ended_and_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "ANSWER_S", 0.5)
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(MeterError, match=r"has printed no number for 0\.5 s"):
        CommandMeter("watts", program(code))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_program_that_dies_in_a_window_is_an_error(program: Program, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    code = f"""
import os, sys, time
while not os.path.exists({str(stop)!r}):
    print(5, flush=True)
    time.sleep(0.01)
sys.exit("the sensor fell off")
"""
    meter = CommandMeter("watts", program(code))
    meter.start()
    stop.touch()
    time.sleep(0.5)
    with pytest.raises(MeterError, match=r"ended with code 1; it said:(?s:.*)the sensor fell off"):
        meter.stop()


def test_a_counter_that_falls_is_an_error(program: Program, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("100")
    code = f"""
from pathlib import Path
state = Path({str(tmp_path / "state")!r})
n = int(state.read_text())
print(n)
state.write_text(str(n - 1))
"""
    meter = CommandMeter("joules", program(code))
    meter.start()
    with pytest.raises(MeterError, match=r"fell from 99 to 98\n  fix: .*command:watts"):
        meter.stop()


def test_its_words_are_split_without_a_shell(tmp_path: Path, program: Program) -> None:
    (path,) = program("import sys; print(len(sys.argv))")
    meter = pick(EnergyPlan(meter=f"command:watts '{path}' --rail 'VDD IN' $HOME ; ls"), "cpu")
    assert meter is not None
    assert meter.detail.startswith("watts of `'")
    assert meter.source == "sampled"


@pytest.mark.parametrize(
    "meter", ["command:", "command:watts", "command:volts x", "command:watts '"]
)
def test_a_command_that_names_no_unit_or_program_is_refused(meter: str) -> None:
    with pytest.raises(MeterError, match=r"fix: write command:watts PROGRAM \(command:joules\)"):
        pick(EnergyPlan(meter=meter), "cpu")
