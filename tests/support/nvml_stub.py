"""Runs Python in a process of its own that sees the NVML stub instead of a driver.

Never in the test's own process: torch takes the stub for a GPU.
"""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def run_with_stub(
    *arguments: str, settings: Mapping[str, str], nvidia_smi: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python *arguments` with the stub; settings lack their prefix, e.g. `{"IDLE_W": "50"}`."""
    folder = _built()
    environment = {
        **os.environ,
        **{f"NVMLSTUB_{key}": value for key, value in settings.items()},
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    if nvidia_smi:
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@functools.cache
def _built() -> Path:
    """Folder with the stub's library, and its `nvidia-smi` in `bin/`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NO C COMPILER: the NVML meter is not checked against known joules")
    folder = Path(tempfile.mkdtemp(prefix="kdbench-nvml-stub-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "libnvidia-ml.so.1"
    flags = ["-O2", "-fPIC", "-shared", f"-Wl,-soname,{library.name}"]
    source = HERE / "nvml_stub.c"
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    (folder / "bin").mkdir()
    shutil.copy(HERE / "nvidia-smi.stub", folder / "bin/nvidia-smi")
    (folder / "bin/nvidia-smi").chmod(0o755)
    return folder
