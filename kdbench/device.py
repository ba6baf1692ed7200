"""Devices: which one works, what it is, when it is done, and whose turn it is to measure."""

import ctypes
import importlib.metadata
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdbench
from kdbench.errors import DeviceError
from kdbench.records import content_hash

CPU_FEATURES = (  # those that choose other kernels, hence other last bits
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "sve"),  # Arm
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
PACKAGES = ("torch", "compressai", "numpy", "pillow", "optuna", "codecarbon")


def resolve(name: str) -> str:
    """`cpu` or `cuda:N` for `name`: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: Unknown name, or no such GPU; says what is missing.
    """
    if name == "cpu":
        return "cpu"
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", name)
    if match is None:
        raise DeviceError(
            f"unknown device `{name}`", fix="use one of: auto, cpu, cuda, cuda:0, cuda:1, ..."
        )
    n_gpus, why_none = _cuda()
    if name == "auto" and n_gpus == 0:
        return "cpu"
    index = int(match[1] or 0)
    if n_gpus == 0:
        raise DeviceError(
            f"device `{name}`: {why_none}",
            fix="use `--device cpu`, or install NVIDIA's driver and a torch build with CUDA",
        )
    if index >= n_gpus:
        raise DeviceError(
            f"device `{name}`: this machine shows {n_gpus} GPU(s), counted from 0",
            fix=f"use `--device cuda:{n_gpus - 1}` or lower, or widen CUDA_VISIBLE_DEVICES",
        )
    _exact_cuda()
    return f"cuda:{index}"


def _exact_cuda() -> None:
    """Lets this process compute fp32 in fp32, and the same way each time.

    cuDNN rounds convolutions to TF32 by default, and cuBLAS needs a workspace of fixed size to be
    deterministic: https://docs.nvidia.com/cuda/cublas/#results-reproducibility.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def fingerprint(device: str, *, threads: int) -> dict[str, str]:
    """What bit-identity and joules depend on; unknown items are left out."""
    import torch

    onednn = re.search(r"(?:MKL-DNN|oneDNN)\D*(v[\d.]+)", torch.__config__.show())
    known: dict[str, str | None] = {
        "device": device,
        "threads": str(threads),
        "cpu": _cpu_model(),
        "cpu_features": " ".join(cpu_features()) or None,
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onednn": onednn[1] if onednn else None,
        "onednn_max_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }
    if device != "cpu":
        known |= _gpu(device)
    return {key: value.strip() for key, value in known.items() if value}


def n_cores() -> int:
    """Cores that this process may use; those of the machine where the system tells no less."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(device: str, *, threads: int) -> str:
    """What `fingerprint` says, in a line for people: what other last bits may come from."""
    known = fingerprint(device, threads=threads)
    parts = [
        known.get("gpu", known["cpu"]),
        f"{known['cpu_kernels']}{', at most ' + m if (m := known.get('onednn_max_isa')) else ''}",
        f"{threads} thread{'' if threads == 1 else 's'}",
        f"torch {known['torch']}",
        *([f"oneDNN {known['onednn']}"] if "onednn" in known else []),
    ]
    return ", ".join(parts)


def fingerprint_hash(items: Mapping[str, str]) -> str:
    """Names a device in caches."""
    return content_hash(items)


def environment() -> dict[str, str]:
    """Versions of kdbench, Python and the packages that results depend on; imports no package."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"kdbench": kdbench.__version__, "python": platform.python_version(), **versions}


def synchronise(device: str) -> None:
    """Returns when `device` has done all that was asked of it; a CPU always has."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside; the caller's number after."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(*, on: bool = True) -> Iterator[None]:
    """Deterministic kernels inside, or not; the caller's settings after.

    torch would then fill all new memory with NaN, too, to show reads of what nobody wrote; that
    took 6 to 10 % of a training step (28 November 2026) and changes no result.
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(on)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def keep_freed_memory() -> None:
    """Lets this process keep the memory it frees, where the C library is glibc.

    A training step frees and asks again for tensors of megabytes; by default each goes back to the
    kernel and is zeroed page by page when it returns, 15 % of a step at N=64 (22 November 2026),
    30 % of decoding a photo at N=16 (28 November).
    """
    if (libc := _glibc()) is not None:
        for option, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)


def return_freed_memory() -> None:
    """Gives back what `keep_freed_memory` has kept, before a process idles."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def peak_memory_bytes(work: Callable[[], object], device: str) -> int | None:
    """Most memory that `work` took beyond what was held before [byte]; None where nobody tells.

    On a GPU its own, by torch's count; on a CPU that of this process, by the kernel's (Linux).
    """
    if device != "cpu":
        import torch

        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        before = _status_bytes("VmRSS")
        work()
        return max(_status_bytes("VmHWM") - before, 0)
    except (OSError, KeyError):
        return None


def _status_bytes(field: str) -> int:
    """A size of this process, as the kernel tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes[field].split()[0]) * 1024


def supports_bf16(device: str) -> bool:
    """True where `device` multiplies bfloat16 in hardware."""
    if device == "cpu":
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_features()))
    import torch

    return bool(torch.cuda.get_device_capability(device) >= (8, 0))


def cpu_features() -> list[str]:
    """Those of `CPU_FEATURES` that this CPU has; none where the system does not tell."""
    flags = set(_cpuinfo().get("flags", "").split() or _cpuinfo().get("Features", "").split())
    return [feature for feature in CPU_FEATURES if feature in flags]


def gpu_uuid(device: str) -> str:
    """UUID of a CUDA device, without its prefix.

    Raises:
        DeviceError: No such GPU.
    """
    import torch

    return str(torch.cuda.get_device_properties(resolve(device)).uuid)


def _cuda() -> tuple[int, str]:
    """Number of usable GPUs, and why there is none."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus or torch.version.cuda is None:
        return n_gpus, f"torch {torch.__version__} is built without CUDA"
    first = str(said[0].message).splitlines()[0] if said else "no usable NVIDIA driver or GPU"
    return 0, first


def _gpu(device: str) -> dict[str, str | None]:
    import pynvml
    import torch

    known: dict[str, str | None] = {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return known
    return known | {"gpu_driver": driver if isinstance(driver, str) else driver.decode()}


def _cpu_model() -> str:
    """Name, and what tells two generations of one name apart (virtual machines shorten it)."""
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    steps = [f"{key} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return f"{name} ({', '.join(steps)})" if steps else name


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
