"""Devices: which one works, what it is, when it is done, and whose turn it is to measure."""

import fcntl
import importlib.metadata
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psutil

import kdbench
from kdbench.errors import DeviceError
from kdbench.records import content_hash

CPU_FEATURES = (  # those that choose other kernels, hence other last bits
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "sve"),  # Arm
)
PACKAGES = ("torch", "compressai", "numpy", "pillow", "optuna", "codecarbon")
POLL_S = 0.05  # how often who waits for the lease looks again
PATIENCE_S = 3600.0  # a trainer's, while others measure


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
    return f"cuda:{index}"


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


def host_lease() -> "Lease":
    """The lease that every study of this user on this host shares."""
    return Lease(Path(tempfile.gettempdir()) / f"kdbench-lease-{os.getuid()}")


class Lease:
    """Whose turn it is on this host: many train, or one measures.

    Trainers hold `lease` shared, a measurer holds it exclusively. `flock` is not fair, so a
    measurer first takes `turnstile`, through which every trainer must pass: who trains looks at
    it between steps and lets go. The kernel releases both when their holder dies.

    Args:
        folder: Where the lock files lie; made if missing.

    Attributes:
        waited_s: Seconds spent waiting for others, so far.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lease = _Lock(folder / "lease")
        self._turnstile = _Lock(folder / "turnstile")
        self.waited_s = 0.0

    @contextmanager
    def shared(self, timeout_s: float = PATIENCE_S) -> Iterator["Lease"]:
        """Held while training; call `yield_if_wanted` between steps.

        Raises:
            DeviceError: Others have measured for `timeout_s`; names them.
        """
        self._enter(fcntl.LOCK_SH, timeout_s)
        try:
            yield self
        finally:
            self._leave()

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator["Lease"]:
        """Held while measuring: nobody trains or measures meanwhile.

        Raises:
            DeviceError: Others did not let go within `timeout_s`; names them.
        """
        self._enter(fcntl.LOCK_EX, timeout_s)
        try:
            yield self
        finally:
            self._leave()

    def yield_if_wanted(self, device: str = "cpu", timeout_s: float = PATIENCE_S) -> float:
        """Seconds waited: 0.0 at once if nobody wants to measure, else as long as that took.

        Costs about 10 us when nobody waits. `device` is synchronised before it is let go.

        Raises:
            DeviceError: Others have measured for `timeout_s`; names them.
        """
        if self._turnstile.try_acquire(fcntl.LOCK_SH):
            self._turnstile.release()
            return 0.0
        synchronise(device)
        before_s = self.waited_s
        self._leave()
        self._enter(fcntl.LOCK_SH, timeout_s)
        return self.waited_s - before_s

    def _enter(self, mode: int, timeout_s: float) -> None:
        if self._lease.is_held:
            raise RuntimeError("this process holds the lease already")
        began = monotonic()
        try:
            self._turnstile.acquire(mode, began + timeout_s)
            self._lease.acquire(mode, began + timeout_s)
        except TimeoutError:
            raise self._timed_out(timeout_s) from None
        finally:
            if mode == fcntl.LOCK_SH or not self._lease.is_held:
                self._turnstile.release()
            self.waited_s += monotonic() - began
        self._note.write_text("trains" if mode == fcntl.LOCK_SH else "measures")

    def _leave(self) -> None:
        self._note.unlink(missing_ok=True)
        self._lease.release()
        self._turnstile.release()

    @property
    def _note(self) -> Path:
        """Says what this process does, for the messages of others; the locks decide."""
        return self._folder / f"holder.{os.getpid()}"

    def _timed_out(self, timeout_s: float) -> DeviceError:
        others = dict(_holders(self._folder))
        pids = " ".join(map(str, others)) or "PID"
        who = ", ".join(f"pid {pid} ({doing})" for pid, doing in others.items()) or "nobody known"
        return DeviceError(
            f"this host is not free after {timeout_s:g} s: held by {who}",
            fix=f"a stopped process goes on with `kill -CONT {pids}`; `kill {pids}` ends it",
        )


class _Lock:
    """One `flock`; opened anew each time, so that a fork never shares it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        return self._fd is not None

    def try_acquire(self, mode: int) -> bool:
        fd = self._open()
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def acquire(self, mode: int, end: float) -> None:
        while not self.try_acquire(mode):
            if monotonic() > end:
                raise TimeoutError
            sleep(POLL_S)

    def release(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing alone leaves it to forked children
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        try:
            if not self._path.parent.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeviceError(
                f"cannot open the lock {self._path}: {error.strerror}",
                fix=f"make {self._path.parent} a folder of yours, or set TMPDIR to another one",
            ) from None


def _holders(folder: Path) -> Iterator[tuple[int, str]]:
    """Pid of each living holder, and what it does; notes of the dead are removed."""
    for note in sorted(folder.glob("holder.*")):
        pid = int(note.suffix[1:])
        try:
            state = psutil.Process(pid).status()
            if state != psutil.STATUS_ZOMBIE:
                stopped = ", stopped" if state == psutil.STATUS_STOPPED else ""
                yield pid, note.read_text() + stopped
        except (psutil.NoSuchProcess, FileNotFoundError):
            note.unlink(missing_ok=True)


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
