"""Devices: names, fingerprints and versions."""

import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.device import (
    environment,
    fingerprint,
    fingerprint_hash,
    n_cores,
    resolve,
    supports_bf16,
    synchronise,
)
from kdbench.errors import DeviceError

REPOSITORY = Path(__file__).parents[2]


def printed(code: str) -> str:
    """What `code` prints in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return run.stdout


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
    assert printed(code) == "False\n"


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


def test_cores_are_those_that_a_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert n_cores() == 10


def test_the_environment_names_versions_without_loading_packages() -> None:
    assert {"kdbench", "python", "torch", "compressai", "codecarbon"} <= environment().keys()
    code = "import sys; from kdbench.device import environment as e; e(); print(*sys.modules)"
    loaded = set(printed(code).split())
    assert not {"torch", "compressai", "codecarbon", "optuna"} & loaded


def test_a_cpu_is_always_done() -> None:
    synchronise("cpu")
