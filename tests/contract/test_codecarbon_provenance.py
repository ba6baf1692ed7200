"""CodeCarbon's private names that `energy/codecarbon.py` reads, and what it must not do.

If one of these fails after an upgrade, look at `_parts` before raising the version.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdbench.energy.codecarbon import CHIPS, CPU_MODES
from tests.support.nvml_stub import REPOSITORY, run_with_stub
from tests.support.powercap_tree import PowercapTree

METER = """
import json, time
from kdbench.energy.codecarbon import CodecarbonMeter, _parts, _tracker

def facts(meter):
    return {"source": meter.source, "detail": meter.detail, "tick_s": meter.tick_s,
            "sees_idle": meter.sees_idle}

def counted(meter, work):
    meter.start()
    work()
    return meter.stop()

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


def run(
    code: str, folder: Path, **environment: str
) -> tuple[Any, subprocess.CompletedProcess[str]]:
    """What `code` puts into `out`, in a process of its own that works in `folder`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{METER}\n{code}\nprint(json.dumps(out))"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done


def on_stub(code: str, **settings: str) -> Any:
    """The same on the NVML stub, with its `nvidia-smi`."""
    text = f"{METER}\n{code}\nprint(json.dumps(out))"
    done = run_with_stub("-c", text, nvidia_smi=True, settings=settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_silent_offline_and_leaves_no_file(tmp_path: Path) -> None:
    out, done = run(
        """
import socket
def refuse(*args, **kwargs):
    calls.append(repr(args[1:]))
    raise OSError("no network in tests")
calls = []
socket.socket.connect = refuse
socket.getaddrinfo = refuse
meter = CodecarbonMeter()
for _ in range(10):  # every 8 measurements it would report
    counted(meter, lambda: burn(0.02))
out = calls
""",
        tmp_path,
        CODECARBON_CO2_SIGNAL_API_TOKEN="would-call-out",
        CODECARBON_EMISSIONS_ENDPOINT="http://localhost:1",
        CODECARBON_OUTPUT_METHODS="csv,api",
    )
    assert out == []
    assert done.stderr == ""
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_user_do_not_change_the_joules(tmp_path: Path) -> None:
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\npue=3\nforce_cpu_power=500\n")
    code = "m = CodecarbonMeter(); out = [m.detail, counted(m, lambda: burn(0.5))]"
    (detail, joules), _ = run(code, tmp_path, CODECARBON_TRACKING_MODE="machine")
    assert "500" not in detail
    assert "(process)" in detail or "intel_rapl" in detail
    watts = float(detail.split(" x ")[1].split()[0]) if " x " in detail else None
    if watts is not None:
        cpus = os.cpu_count() or 1
        # 10 ms of kernel ticks at each end, and the tracker's own few
        assert joules == pytest.approx(0.5 * watts / cpus, abs=0.05 * watts / cpus)


def test_cpu_load_is_a_model_that_follows_the_work_of_this_process(tmp_path: Path) -> None:
    code = """
import codecarbon.core.resource_tracker as tracker
tracker.cpu.is_rapl_available = lambda: False
meter = CodecarbonMeter()
out = [facts(meter), counted(meter, lambda: time.sleep(0.5)), counted(meter, lambda: burn(0.5))]
"""
    (facts, asleep_j, busy_j), _ = run(code, tmp_path)
    assert facts["source"] == "model"
    assert facts["detail"].startswith("cpu_load x ")
    assert facts["detail"].endswith(" W (process)")
    assert facts["tick_s"] == 0.01
    assert not facts["sees_idle"]
    assert asleep_j < 0.2 * busy_j


def test_rapl_is_a_counter_and_its_joules_are_passed_on(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "sys", parts=())
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
import codecarbon.core.resource_tracker as tracker
import codecarbon.external.hardware as hardware
tracker.cpu.is_rapl_available = lambda: True
original = hardware.IntelRAPL
root = {str(tree.class_dir / "intel-rapl/subsystem")!r}
hardware.IntelRAPL = lambda rapl_dir, **options: original(rapl_dir=root, **options)
counter = Path({str(tree.class_dir / "intel-rapl:0/energy_uj")!r})
meter = CodecarbonMeter()
out = [facts(meter), counted(meter, lambda: counter.write_text("12500000"))]
"""
    (facts, joules), _ = run(code, tmp_path)
    assert facts["source"] == "counter"
    assert facts["detail"] == "intel_rapl (whole machine)"
    assert facts["sees_idle"]
    assert joules == pytest.approx(12.5, rel=1e-5)


@pytest.mark.parametrize(
    ("no_energy", "source", "detail"),
    [
        ("0", "counter", "energy counter of GPU 0 (STUB GPU (simulated))"),
        ("1", "sampled", "power once a second of GPU 0 (STUB GPU (simulated))"),
    ],
)
def test_a_gpu_is_read_alone_where_the_cpu_is_a_guess(
    no_energy: str, source: str, detail: str
) -> None:
    facts, joules, seconds = on_stub(
        """
meter = CodecarbonMeter(0)
began = time.perf_counter()
joules = counted(meter, lambda: burn(0.5))
out = [facts(meter), joules, time.perf_counter() - began]
""",
        NO_ENERGY=no_energy,
    )
    assert facts["source"] == source
    assert facts["detail"] == detail
    assert joules == pytest.approx(100.0 * seconds, rel=0.1)  # ticks of 20 ms; its own overhead


def test_a_counter_that_fails_inside_a_window_is_an_error() -> None:
    problem = on_stub(
        """
import os
from kdbench.errors import MeterError
meter = CodecarbonMeter(0)
try:
    counted(meter, lambda: os.environ.update(NVMLSTUB_NO_ENERGY="1"))
except MeterError as error:
    out = error.problem
"""
    )
    assert problem.startswith("CodeCarbon lost `energy counter of GPU 0")


def test_a_gpu_that_codecarbon_does_not_see_is_not_a_zero(tmp_path: Path) -> None:
    code = """
from kdbench.errors import MeterError
import codecarbon.core.resource_tracker as tracker
tracker.gpu.is_nvidia_system = tracker.gpu.is_rocm_system = lambda: False
try:
    CodecarbonMeter(0)
except MeterError as error:
    out = str(error)
"""
    message, _ = run(code, tmp_path)
    assert "CodeCarbon sees no GPU" in message
    assert "nvidia-smi" in message


def test_hardware_of_unknown_provenance_is_refused(tmp_path: Path) -> None:
    code = """
from kdbench.errors import MeterError
tracker = _tracker(__import__("os").getpid(), None)
cpu = next(h for h in tracker._hardware if type(h).__name__ == "CPU")
cpu._mode = "crystal_ball"
try:
    CodecarbonMeter()
except MeterError as error:
    out = str(error)
"""
    message, _ = run(code, tmp_path)
    assert "kdbench does not know whether that is measured" in message


def test_every_way_in_which_codecarbon_reads_hardware_has_a_provenance() -> None:
    """The names in its source; a new backend must be judged before it is trusted."""
    from codecarbon.external import hardware

    source = Path(str(hardware.__file__)).read_text()
    for mode in CPU_MODES:
        assert f'"{mode}"' in source
    classes = {
        cls.__name__
        for cls in vars(hardware).values()
        if isinstance(cls, type)
        and issubclass(cls, hardware.BaseHardware)
        and cls is not hardware.BaseHardware
    }
    assert classes == {"CPU", "GPU", *CHIPS}
