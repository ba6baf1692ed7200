"""Devices: names, fingerprints, and the lease that keeps trainers and measurers apart."""

import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from kdbench.device import (
    Lease,
    environment,
    fingerprint,
    fingerprint_hash,
    host_lease,
    resolve,
    supports_bf16,
    synchronise,
)
from kdbench.errors import DeviceError

REPOSITORY = Path(__file__).parents[2]


# --- which device ------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many GPUs torch shows."""

    def show(n_gpus: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: n_gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)

    return show


@pytest.mark.parametrize(
    ("name", "n_gpus", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 2, "cuda:0"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_has_one_name(
    gpus: Callable[[int], None], name: str, n_gpus: int, device: str
) -> None:
    gpus(n_gpus)
    assert resolve(name) == device


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "CPU", "", "cuda:-1"])
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"unknown device `{name}`\n  fix: .*auto, cpu, cuda"):
        resolve(name)


def test_cuda_on_a_machine_without_it_names_the_way_out(gpus: Callable[[int], None]) -> None:
    gpus(0)
    with pytest.raises(DeviceError, match=r"(?s)device `cuda`: .*fix: use `--device cpu`, or"):
        resolve("cuda")


def test_cuda_repeats_what_torch_said_about_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", is_available)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(DeviceError, match="driver on your system is too old"):
        resolve("cuda:0")


def test_a_gpu_beyond_the_last_names_the_last(gpus: Callable[[int], None]) -> None:
    gpus(2)
    with pytest.raises(DeviceError, match=r"(?s)`cuda:2`: this machine shows 2 .*cuda:1` or"):
        resolve("cuda:2")


def test_asking_for_the_cpu_does_not_load_torch() -> None:
    code = (
        "import sys; from kdbench.device import resolve, synchronise, supports_bf16;"
        "resolve('cpu'); synchronise('cpu'); supports_bf16('cpu'); print('torch' in sys.modules)"
    )
    assert python(code).communicate()[0] == "False\n"


# --- what the device is --------------------------------------------------------------------------


def test_a_fingerprint_names_what_the_last_bits_depend_on() -> None:
    items = fingerprint("cpu", threads=1)
    assert {"device", "threads", "cpu", "cores", "platform", "python", "torch"} <= items.keys()
    assert items["onednn"].startswith("v")
    assert all(isinstance(value, str) and value for value in items.values())
    assert "gpu" not in items


def test_a_fingerprint_is_stable_and_changes_with_threads() -> None:
    one = fingerprint("cpu", threads=1)
    assert fingerprint_hash(one) == fingerprint_hash(fingerprint("cpu", threads=1))
    assert fingerprint_hash(one) != fingerprint_hash(fingerprint("cpu", threads=2))


def test_a_capped_instruction_set_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert fingerprint("cpu", threads=1)["onednn_max_isa"] == "AVX2"


CPUINFO = """processor	: 0
cpu family	: 6
model	: 143
model name	: Intel(R) Xeon(R) Platinum 8480+
stepping	: 8
flags	: fpu sse avx2 fma avx512f avx512_bf16 amx_bf16 amx_tile

processor	: 1
flags	: fpu
"""


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features", "bf16"),
    [
        (
            CPUINFO,
            "Intel(R) Xeon(R) Platinum 8480+ (cpu family 6, model 143, stepping 8)",
            "avx2 fma avx512f avx512_bf16 amx_tile amx_bf16",
            True,
        ),
        ("model name : Old\nflags : sse avx2 fma\n", "Old", "avx2 fma", False),
        ("Features : fp asimd bf16 sve\n", None, "asimd bf16 sve", True),
    ],
)
def test_cpu_features_are_those_of_the_first_processor(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str | None, features: str, bf16: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    monkeypatch.setattr(platform, "processor", lambda: "")
    items = fingerprint("cpu", threads=1)
    assert items["cpu"] == (name or platform.machine())
    assert items["cpu_features"] == features
    assert supports_bf16("cpu") is bf16


def test_the_environment_names_versions_without_loading_packages() -> None:
    assert {"kdbench", "python", "torch", "compressai", "codecarbon"} <= environment().keys()
    code = "import sys; from kdbench.device import environment as e; e(); print(*sys.modules)"
    loaded = set(python(code).communicate()[0].split())
    assert not {"torch", "compressai", "codecarbon", "optuna"} & loaded


def test_a_cpu_is_always_done() -> None:
    synchronise("cpu")


# --- whose turn it is ----------------------------------------------------------------------------

TRAINER = """
lease = Lease(Path(sys.argv[1]))
with lease.shared():
    print("trains", flush=True)
    while True:
        sleep(0.01)
        lease.yield_if_wanted()
"""
MEASURER = """
lease = Lease(Path(sys.argv[1]))
with lease.exclusive(60):
    print("measures", flush=True)
    sleep(60)
"""


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """`code` in a process of its own; arguments are its `sys.argv[1:]`."""
    prelude = (
        "import sys\nfrom pathlib import Path\nfrom time import sleep, monotonic\n"
        "from kdbench.device import Lease\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Starts code on the lease of this test, and waits for its first line."""
    running: list[subprocess.Popen[str]] = []

    def begin(code: str) -> "subprocess.Popen[str]":
        process = python(code, tmp_path)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_many_train_at_once(start: Callable[[str], Any], tmp_path: Path) -> None:
    start(TRAINER)
    start(TRAINER)
    with Lease(tmp_path).shared(timeout_s=2):
        pass


def test_a_measurer_gets_in_although_others_never_stop_training(
    start: Callable[[str], Any], tmp_path: Path
) -> None:
    trainers = [start(TRAINER) for _ in range(3)]
    lease = Lease(tmp_path)
    for _ in range(3):
        with lease.exclusive(timeout_s=10):
            pass
        sleep(0.1)
    assert all(trainer.poll() is None for trainer in trainers)
    assert 0 < lease.waited_s < 10


def test_nobody_trains_while_one_measures(start: Callable[[str], Any], tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    steps.touch()
    code = TRAINER.replace(
        "sleep(0.01)", "sleep(0.01); open(sys.argv[1] + '/steps', 'a').write('.')"
    )
    start(code)
    while not steps.stat().st_size:
        sleep(0.01)
    with Lease(tmp_path).exclusive(timeout_s=10):
        before = steps.stat().st_size
        sleep(0.5)
        assert steps.stat().st_size == before
    end = monotonic() + 10
    while steps.stat().st_size == before:
        assert monotonic() < end, "the trainer does not go on"
        sleep(0.01)


def test_two_never_measure_at_once(start: Callable[[str], Any], tmp_path: Path) -> None:
    other = start(MEASURER)
    with (
        pytest.raises(DeviceError, match=rf"held by pid {other.pid} \(measures\)"),
        Lease(tmp_path).exclusive(timeout_s=0.3),
    ):
        pass


def test_a_trainer_that_waits_too_long_names_the_measurer(
    start: Callable[[str], Any], tmp_path: Path
) -> None:
    other = start(MEASURER)
    with (
        pytest.raises(DeviceError, match=rf"held by pid {other.pid} \(measures\)"),
        Lease(tmp_path).shared(timeout_s=0.3),
    ):
        pass


@pytest.mark.parametrize("code", [TRAINER, MEASURER])
def test_a_holder_that_is_killed_lets_go(
    start: Callable[[str], Any], tmp_path: Path, code: str
) -> None:
    holder = start(code)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lease = Lease(tmp_path)
    with lease.exclusive(timeout_s=5):
        pass
    assert lease.waited_s < 1


def test_a_stopped_trainer_ends_the_wait_with_its_pid(
    start: Callable[[str], Any], tmp_path: Path
) -> None:
    trainer = start(TRAINER)
    start(TRAINER)  # lets go: not named
    killed = start(TRAINER)
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until reaped
    trainer.send_signal(signal.SIGSTOP)
    lease = Lease(tmp_path)
    began = monotonic()
    with pytest.raises(DeviceError) as caught, lease.exclusive(timeout_s=1):
        pass
    assert 1 <= monotonic() - began < 5
    assert lease.waited_s >= 1
    who = f"held by pid {trainer.pid} (trains, stopped)"
    assert caught.value.problem == f"this host is not free after 1 s: {who}"
    assert f"kill -CONT {trainer.pid}`" in caught.value.fix
    trainer.send_signal(signal.SIGCONT)
    with lease.exclusive(timeout_s=10):
        pass


def test_who_gave_up_waiting_does_not_block_the_others(
    start: Callable[[str], Any], tmp_path: Path
) -> None:
    trainer = start(TRAINER)
    trainer.send_signal(signal.SIGSTOP)
    with pytest.raises(DeviceError), Lease(tmp_path).exclusive(timeout_s=0.2):
        pass
    with Lease(tmp_path).shared(timeout_s=0.2):
        pass


def test_seconds_lost_to_others_are_counted(start: Callable[[str], Any], tmp_path: Path) -> None:
    start(MEASURER.replace("sleep(60)", "sleep(0.6)"))
    lease = Lease(tmp_path)
    with lease.shared():
        assert 0.2 < lease.waited_s < 5


def test_yielding_is_cheap_where_nobody_waits(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    with lease.shared():
        began = monotonic()
        waited_s = [lease.yield_if_wanted() for _ in range(1000)]
        assert monotonic() - began < 1  # 10 us each on 2026 servers
    assert waited_s == [0.0] * 1000


def test_yielding_returns_the_seconds_it_took(start: Callable[[str], Any], tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    with lease.shared():
        measurer = python(MEASURER.replace("sleep(60)", "sleep(0.5)"), tmp_path)
        end = monotonic() + 20
        waited_s = 0.0
        while not waited_s:
            assert monotonic() < end, "the measurer never wanted the host"
            sleep(0.01)
            waited_s = lease.yield_if_wanted()
        assert 0.4 < waited_s < 10
        assert lease.waited_s == pytest.approx(waited_s, abs=0.05)
    measurer.communicate()


def test_work_that_fails_gives_the_lease_back(tmp_path: Path) -> None:
    for hold in (Lease.shared, Lease.exclusive):
        with pytest.raises(ZeroDivisionError), hold(Lease(tmp_path), timeout_s=1):
            raise ZeroDivisionError
    with Lease(tmp_path).exclusive(timeout_s=1):
        pass
    assert not list(tmp_path.glob("holder.*"))


def test_a_forked_child_does_not_keep_what_its_parent_let_go(tmp_path: Path) -> None:
    code = """
import os
lease = Lease(Path(sys.argv[1]))
with lease.shared():
    child = os.fork()
    if child == 0:
        sleep(60)
        os._exit(0)
print(child, flush=True)
sleep(60)
"""
    parent = python(code, tmp_path)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with Lease(tmp_path).exclusive(timeout_s=5):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.communicate()


def test_one_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    with (
        lease.shared(),
        pytest.raises(RuntimeError, match="holds the lease already"),
        lease.exclusive(timeout_s=1),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DeviceError, match=r"(?s)cannot open the lock .*file/lease.*fix: make"),
        Lease(tmp_path / "file/lease").shared(),
    ):
        pass


def test_all_studies_of_a_user_share_the_lease_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with (
        host_lease().exclusive(1),
        pytest.raises(DeviceError),
        host_lease().exclusive(0.1),
    ):
        pass
