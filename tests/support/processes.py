"""Processes that a test starts: waited for, finished, ended."""

import subprocess
import time
from collections.abc import Callable, Iterable


def until(condition: Callable[[], bool], patience_s: float, pause_s: float = 0.05) -> None:
    """Waits until it comes true."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(pause_s)


def finished(process: subprocess.Popen[str], patience_s: float) -> tuple[int, str]:
    """Exit code, and what was printed."""
    printed, _ = process.communicate(timeout=patience_s)
    return process.returncode, printed


def end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Kills what still runs; what they printed is shown where the test has failed."""
    for process in processes:
        code = process.poll()
        process.kill()
        process.wait()
        if process.stdout and not process.stdout.closed:
            print(f"process {process.pid}, {code}: {process.args!r}\n{process.stdout.read()}")
            process.stdout.close()
