"""Energy: which meter counts the joules of a device, and why the others do not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdbench.device import gpu_uuid
from kdbench.energy.apple import AppleMeter
from kdbench.energy.codecarbon import CodecarbonMeter
from kdbench.energy.command import CommandMeter
from kdbench.energy.ina3221 import Ina3221Meter
from kdbench.energy.meter import EnergyMeter, measure
from kdbench.energy.nvml import nvml_index, nvml_meter
from kdbench.energy.pi5 import Pi5Meter
from kdbench.energy.powercap import PowercapMeter
from kdbench.energy.replay import ReplayMeter
from kdbench.errors import DeviceError, MeterError
from kdbench.records import EnergyPlan, MeterUnit

__all__ = ["EnergyMeter", "MeterStatus", "available", "measure", "pick"]

CHOICES = ("auto", "nvml", "powercap", "ina3221", "pi5", "apple", "codecarbon", "replay", "none")
COMMAND = "command:watts PROGRAM (command:joules)"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterStatus:
    """One meter, or what it lacks.

    Attributes:
        why_not: What is missing and how to get it; None if the meter works.
    """

    name: str
    meter: EnergyMeter | None
    why_not: str | None


def available(device: str) -> list[MeterStatus]:
    """Every meter that could serve `device` (`cpu`, `cuda:0`), best first.

    The last one, a program of the user's, is not among what `auto` tries.
    """
    named = MeterStatus(
        name="command",
        meter=None,
        why_not="none is named; `energy.meter: command:watts PROGRAM` reads one of yours",
    )
    return [*(_status(name, device) for name in _preference(device)), named]


def pick(plan: EnergyPlan, device: str) -> EnergyMeter | None:
    """The meter that `plan` names, or the best one that works; None if it names none.

    Raises:
        MeterError: Unknown or missing meter; only a model, where the plan wants a measurement.
    """
    command = _command(plan)
    if command is not None:
        return _accepted([_working(CommandMeter(*command))], plan, device)
    if plan.meter not in CHOICES:
        raise MeterError(
            f"unknown meter `{plan.meter}`",
            fix=f"set `energy.meter` to one of: {', '.join((*CHOICES, COMMAND))}",
        )
    if plan.meter == "none":
        if plan.require == "measured":
            raise MeterError(
                "`energy.meter: none` contradicts `energy.require: measured`",
                fix="set `energy.require: any`, or name a meter",
            )
        return None
    if plan.meter == "replay":
        return _accepted([_working(ReplayMeter())], plan, device)
    if plan.meter == "auto":
        return _first_good(plan, device)
    return _accepted([_status(plan.meter, device)], plan, device)


def _command(plan: EnergyPlan) -> tuple[MeterUnit, tuple[str, ...]] | None:
    try:
        return plan.command
    except ValueError as why:
        raise MeterError(f"`energy.meter: {plan.meter}` is {why}", fix=f"write {COMMAND}") from None


def _first_good(plan: EnergyPlan, device: str) -> EnergyMeter:
    """Walks down the list; meters after the chosen one are not probed."""
    tried: list[MeterStatus] = []
    for name in _preference(device):
        tried.append(_status(name, device))
        if _is_good(tried[-1], plan):
            break
    return _accepted(tried, plan, device)


def _accepted(tried: Sequence[MeterStatus], plan: EnergyPlan, device: str) -> EnergyMeter:
    last = tried[-1]
    if last.meter is not None and _is_good(last, plan):
        return last.meter
    verb, way_out = (
        "works on",
        "energy.meter: none" if plan.meter == "auto" else "energy.meter: auto",
    )
    if plan.require == "measured":
        verb, way_out = "measures", "energy.require: any"
    raise MeterError(
        f"no meter {verb} {device} here (`energy.meter: {plan.meter}`)",
        fix="\n    ".join(
            (
                f"set `{way_out}`, or give a meter what it lacks:",
                *(f"{status.name}: {_shortcoming(status)}" for status in tried),
            )
        ),
    )


def _is_good(status: MeterStatus, plan: EnergyPlan) -> bool:
    if status.meter is None:
        return False
    return plan.require == "any" or status.meter.source in ("counter", "sampled")


def _shortcoming(status: MeterStatus) -> str:
    if status.meter is None:
        return str(status.why_not)
    return f"only a {status.meter.source} ({status.meter.detail})"


def _preference(device: str) -> tuple[str, ...]:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        return ("nvml", "ina3221", "codecarbon", "powercap")
    return ("powercap", "ina3221", "pi5", "apple", "codecarbon", "nvml")


def _status(name: str, device: str) -> MeterStatus:
    try:
        return _working(_openers(device)[name]())
    except (MeterError, DeviceError) as error:
        return MeterStatus(name=name, meter=None, why_not=f"{error.problem}; {error.fix}")


def _working(meter: EnergyMeter) -> MeterStatus:
    return MeterStatus(name=meter.name, meter=meter, why_not=None)


def _openers(device: str) -> dict[str, Callable[[], EnergyMeter]]:
    if device.startswith("cuda"):
        return {
            "nvml": lambda: nvml_meter(nvml_index(gpu_uuid(device))),
            "ina3221": Ina3221Meter,  # of the whole module, GPU included
            "codecarbon": lambda: CodecarbonMeter(nvml_index(gpu_uuid(device))),
            "pi5": lambda: _elsewhere(Pi5Meter(), "CPU", device),
            "apple": lambda: _elsewhere(AppleMeter(), "CPU", device),
            "powercap": lambda: _elsewhere(PowercapMeter(), "CPU", device),
        }
    return {
        "powercap": PowercapMeter,
        "ina3221": Ina3221Meter,
        "pi5": Pi5Meter,
        "apple": AppleMeter,
        "codecarbon": CodecarbonMeter,
        "nvml": lambda: _elsewhere(nvml_meter(0), "GPU", device),
    }


def _elsewhere(meter: EnergyMeter, counted: str, device: str) -> EnergyMeter:
    raise MeterError(
        f"works here, but counts the {counted}, and the study runs on {device}",
        fix=f"use it in studies that run on the {counted}",
    )
