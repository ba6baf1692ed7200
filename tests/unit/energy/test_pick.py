"""Which meter a study gets, and what it is told where it gets none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench import energy
from kdbench.energy import available, pick
from kdbench.energy.powercap import PowercapMeter
from kdbench.energy.replay import ReplayMeter
from kdbench.errors import MeterError
from kdbench.records import EnergyPlan, Source
from tests.support.powercap_tree import PowercapTree


class Named(ReplayMeter):
    """A meter of any name and source."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__()
        self.name = name
        self.source = source


def missing() -> energy.EnergyMeter:
    raise MeterError("no such counter", fix="buy one")


def unwanted() -> energy.EnergyMeter:
    raise AssertionError("probed although a better meter works")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what each meter of this machine does when it is opened; this is no small board."""
    boards = {"ina3221": missing, "pi5": missing, "apple": missing}

    def install(**openers: Callable[[], energy.EnergyMeter]) -> None:
        monkeypatch.setattr(energy, "_openers", lambda device: boards | openers)

    return install


def counter() -> energy.EnergyMeter:
    return Named("powercap", "counter")


def model() -> energy.EnergyMeter:
    return Named("codecarbon", "model")


def test_the_counter_wins_and_nothing_after_it_is_probed(machine: Callable[..., None]) -> None:
    machine(powercap=counter, codecarbon=unwanted, nvml=unwanted)
    meter = pick(EnergyPlan(), "cpu")
    assert meter is not None
    assert meter.name == "powercap"


def test_a_model_is_taken_where_nothing_measures(machine: Callable[..., None]) -> None:
    machine(powercap=missing, codecarbon=model, nvml=unwanted)
    meter = pick(EnergyPlan(), "cpu")
    assert meter is not None
    assert meter.source == "model"


def test_a_study_that_requires_measurement_refuses_a_model(machine: Callable[..., None]) -> None:
    machine(powercap=missing, codecarbon=model, nvml=missing)
    with pytest.raises(MeterError) as caught:
        pick(EnergyPlan(require="measured"), "cpu")
    assert caught.value.problem == "no meter measures cpu here (`energy.meter: auto`)"
    assert caught.value.fix.splitlines() == [
        "set `energy.require: any`, or give a meter what it lacks:",
        "    powercap: no such counter; buy one",
        "    ina3221: no such counter; buy one",
        "    pi5: no such counter; buy one",
        "    apple: no such counter; buy one",
        "    codecarbon: only a model (3 fixed values)",
        "    nvml: no such counter; buy one",
    ]


def test_a_named_meter_that_lacks_something_is_not_replaced(machine: Callable[..., None]) -> None:
    machine(powercap=missing, codecarbon=unwanted, nvml=unwanted)
    with pytest.raises(
        MeterError, match=r"(?s)no meter works on cpu.*powercap.*auto.*no such counter; buy one"
    ):
        pick(EnergyPlan(meter="powercap"), "cpu")


def test_a_named_model_is_refused_where_measurement_is_required(
    machine: Callable[..., None],
) -> None:
    machine(powercap=unwanted, codecarbon=model, nvml=unwanted)
    with pytest.raises(MeterError, match="only a model"):
        pick(EnergyPlan(meter="codecarbon", require="measured"), "cpu")


def test_no_meter_at_all_points_to_none(machine: Callable[..., None]) -> None:
    machine(powercap=missing, codecarbon=missing, nvml=missing)
    with pytest.raises(MeterError, match=r"`energy\.meter: none`"):
        pick(EnergyPlan(), "cpu")


def test_none_means_no_meter(machine: Callable[..., None]) -> None:
    machine()
    assert pick(EnergyPlan(meter="none"), "cpu") is None


def test_none_contradicts_required_measurement() -> None:
    with pytest.raises(MeterError, match=r"contradicts.*\n  fix: .*require: any"):
        pick(EnergyPlan(meter="none", require="measured"), "cpu")


def test_an_unknown_meter_lists_the_known_ones() -> None:
    with pytest.raises(
        MeterError, match=r"`wattmeter`\n  fix: .*auto, nvml, powercap, ina3221, pi5, .*command:"
    ):
        pick(EnergyPlan(meter="wattmeter"), "cpu")


def test_replay_is_picked_by_name_only() -> None:
    meter = pick(EnergyPlan(meter="replay"), "cpu")
    assert meter is not None
    assert meter.source == "replay"
    assert "replay" not in [status.name for status in available("cpu")]


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("cpu", ["powercap", "ina3221", "pi5", "apple", "codecarbon", "nvml", "command"]),
        ("cuda:0", ["nvml", "ina3221", "codecarbon", "powercap", "command"]),
    ],
)
def test_meters_are_listed_best_first_with_what_they_lack(
    machine: Callable[..., None], device: str, names: list[str]
) -> None:
    machine(powercap=missing, codecarbon=model, nvml=missing)
    statuses = available(device)
    assert [status.name for status in statuses] == names
    for status in statuses:
        assert (status.meter is None) == (status.why_not is not None)


def test_a_board_s_own_meter_goes_before_a_model(machine: Callable[..., None]) -> None:
    machine(powercap=missing, ina3221=lambda: Named("ina3221", "sampled"), codecarbon=unwanted)
    meter = pick(EnergyPlan(require="measured"), "cpu")
    assert meter is not None
    assert meter.name == "ina3221"


def test_a_counter_of_another_device_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = PowercapTree(tmp_path)
    monkeypatch.setattr(energy, "PowercapMeter", lambda: PowercapMeter(tree.class_dir))
    monkeypatch.setattr(energy, "gpu_uuid", lambda device: missing())
    on_gpu = {status.name: status for status in available("cuda:0")}
    assert on_gpu["powercap"].meter is None
    assert "counts the CPU, and the study runs on cuda:0" in str(on_gpu["powercap"].why_not)


def test_importing_energy_and_device_loads_nothing_heavy() -> None:
    code = (
        "import sys, kdbench.energy, kdbench.device;"
        "print({'torch', 'codecarbon', 'pynvml', 'scipy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
