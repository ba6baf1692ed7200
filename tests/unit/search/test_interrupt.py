"""Signals are remembered, and raise only where a trial can bear them."""

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from kdbench.search.interrupt import Interrupt, TimeUp
from kdbench.signals import unbroken


def test_a_signal_outside_is_kept_until_somebody_asks() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interrupt.wanted
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_a_signal_outside_raises_at_the_next_door() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt), interrupt.allowed():
            pytest.fail("the block must not begin")


def test_a_sleeper_wakes_up() -> None:
    with Interrupt() as interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupt.sleep(10)
        signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - began < 5


def test_a_second_signal_does_not_disturb_the_tidying_up() -> None:
    tidied = []

    def work(interrupt: Interrupt) -> None:
        with interrupt.allowed():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
                tidied.append(True)

    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        work(interrupt)
    assert tidied == [True]


def test_a_word_that_time_is_up_is_told_apart() -> None:
    def stopped_by(*signals: signal.Signals) -> None:
        with Interrupt() as interrupt:
            for which in signals:
                os.kill(os.getpid(), which)
            interrupt.sleep(10)

    with pytest.raises(TimeUp):
        stopped_by(signal.SIGUSR1, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        stopped_by(signal.SIGTERM, signal.SIGUSR1)
    assert caught.type is KeyboardInterrupt


def test_time_that_is_up_too_late_is_no_matter() -> None:
    with Interrupt():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)


def test_a_step_is_finished_before_a_signal_is_heard() -> None:
    done = []

    def step() -> None:
        with unbroken():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append("the step")

    def work(interrupt: Interrupt) -> None:
        with interrupt.allowed():
            try:
                step()
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                done.append("what is kept of it")
                raise
            done.append("never")

    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        work(interrupt)
    assert done == ["the step", "what is kept of it"]


def test_a_signal_that_a_finalizer_swallows_is_heard_all_the_same() -> None:
    class Thing:
        pass

    def finalizer(_: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        while not interrupt.wanted:
            pass
        pytest.fail("what is raised in a finalizer ends it")

    def work() -> None:
        with interrupt.allowed():
            thing = Thing()
            ended = weakref.ref(thing, finalizer)
            del thing
            assert ended() is None
            assert interrupt.wanted
            time.sleep(10)
            pytest.fail("the block must not go on")

    before = sys.unraisablehook
    with pytest.raises(TimeUp), Interrupt() as interrupt:
        work()
    assert sys.unraisablehook == before


def test_what_else_a_finalizer_raises_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thing:
        def __del__(self) -> None:
            raise ValueError("of no matter")

    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(str(what.exc_value)))
    with Interrupt():
        Thing()
    assert told == ["of no matter"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_orphan_stops() -> None:
    """A middle process starts a worker and dies; the worker sees that its parent is gone."""
    worker = (
        "import os, sys; from kdbench.search.interrupt import Interrupt\n"
        "with Interrupt(int(sys.argv[1])) as interrupt:\n"
        "    print('up', flush=True)\n"
        "    try: interrupt.sleep(30)\n"
        "    except KeyboardInterrupt: print('stopped', flush=True)\n"
    )
    middle = (
        "import os, subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {worker!r}, str(os.getpid())],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(p.stdout.readline().strip(), p.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said, pid = process.stdout.readline().split()
        process.communicate("")
    assert said == "up"
    while is_there(int(pid)):
        assert time.monotonic() - began < 20
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
