"""The lease that keeps trainers and measurers apart."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from kdbench.errors import DeviceError, StoreError
from kdbench.lease import Lease, host_lease

REPOSITORY = Path(__file__).parents[2]


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
        "from kdbench.lease import Lease\n"
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
        pytest.raises(StoreError, match=r"(?s)cannot open the lock .*file/lease.*fix: make"),
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
