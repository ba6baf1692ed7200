"""What one PostgreSQL carries: asks, tells, heartbeats and sessions; and what a plan needs of them.

    python -m benchmarks.queue                                                   about 4 minutes
    python -m benchmarks.queue --stored 5 --asks 3 --sessions 4 --workers 2 --seconds 1   a smoke

It starts a server of its own in a temporary folder, on loopback, that waits for the disk at every
commit; clients share its cores, so that seconds of the server's processors (`server ms`) say more
than the rates: a server of its own does as many a core as 1000 over them.

Asks and tells: a real worker (`search.worker.work`) runs trials that cost nothing. What lies
between taking the turn to ask and giving it back is the ask: one at a time in a study, on all
machines together, so its wall time bounds the study's trials a second. It looks at all stored
trials. The rest, tell and files, runs beside others'.

Heartbeats: one thread a session beats as fast as it can. Workers: threads of this process, each a
real worker with trials that cost nothing; Python runs one at a time, so their rate is the clients'.
The sessions of the largest number stay open and idle meanwhile in the rows that say so.
"""

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil

from benchmarks.publish import add_out, markdown, publish
from benchmarks.scale import STUDY, FreeTrials, random_trials
from kdbench.config import load_study
from kdbench.search import turn
from kdbench.search.budget import Budget, n_complete, set_budget
from kdbench.search.ground import survey
from kdbench.search.patience import PatientStorage
from kdbench.search.postgres import connect_args
from kdbench.search.storage import HEARTBEAT_S, connect, parse, quiet
from kdbench.search.study import begin
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support.postgres import Postgres, served

NAME = "kd_pareto"
PLANNED = (10, 100, 1000)
TRIAL_S = (60, 600)
BEATS_PER_S = 1 / HEARTBEAT_S


@dataclass
class Server:
    """The seconds of its processors and its memory, of sessions that have ended, too."""

    postgres: Postgres

    def cpu_s(self) -> float:
        """So far; exact once the sessions of interest are open or waited for by the server."""
        assert self.postgres.pid is not None
        mother = psutil.Process(self.postgres.pid)
        own = mother.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in mother.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return float(total)

    def memory_mib(self) -> float:
        """Of all its processes, what they share counted once."""
        assert self.postgres.pid is not None
        found = 0
        for process in (p := psutil.Process(self.postgres.pid), *p.children()):
            try:
                found += process.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
        return found / 2**20


@contextmanager
def asks_timed() -> Iterator[list[float]]:
    """Seconds between taking the turn to ask and giving it back, while it is open."""
    seconds: list[float] = []
    taken: dict[int, float] = {}
    take, release = turn.Turn.take, turn.Turn.release

    def timed_take(self: turn.Turn) -> bool:
        began = time.perf_counter()
        found = take(self)
        if found:
            taken[id(self)] = began
        return found

    def timed_release(self: turn.Turn) -> None:
        release(self)
        if (began := taken.pop(id(self), None)) is not None:
            seconds.append(time.perf_counter() - began)

    turn.Turn.take, turn.Turn.release = timed_take, timed_release  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        turn.Turn.take, turn.Turn.release = take, release  # type: ignore[method-assign]


@dataclass
class Bench:
    """One study on one server."""

    server: Server
    store: Store
    url: str

    def more_complete(self, n: int) -> None:
        """The budget is `n` complete trials above what there is."""
        study = optuna.load_study(study_name=NAME, storage=self.storage())
        set_budget(study, Budget(trials=n_complete(study) + n))

    def storage(self) -> PatientStorage:
        """One more session."""
        return connect(self.url, create=False)

    def run(self, index: int, free: FreeTrials) -> None:
        """One worker until the budget is spent."""
        work(NAME, self.store, index=index, storage=self.url, run=free)


def ask_and_tell(bench: Bench, n: int, stored: int, n_idle: int) -> dict[str, Any]:
    """What one worker takes for each of `n` trials, alone with the server."""
    bench.more_complete(n)
    free = FreeTrials()
    before, cpu = bench.server.cpu_s(), time.process_time()
    with asks_timed() as asks:
        bench.run(0, free)
    server_ms = 1000 * (bench.server.cpu_s() - before) / n
    client_ms = 1000 * (time.process_time() - cpu) / n
    kept = 1000 * np.array(asks[:-1] or asks)  # the last look finds the budget spent
    return {
        "stored": stored,
        "idle_sessions": n_idle,
        "ask_ms_p50": float(np.percentile(kept, 50)),
        "ask_ms_p95": float(np.percentile(kept, 95)),
        "asks_per_s": 1000 / float(np.mean(kept)),
        "tell_and_ask_ms_p50": float(
            np.percentile(1000 * np.array([w for w, _ in free.between]), 50)
        ),
        "server_cpu_ms_per_trial": server_ms,
        "client_cpu_ms_per_trial": client_ms,
    }


def heartbeats(bench: Bench, n: int, seconds: float) -> dict[str, Any]:
    """Beats a second of `n` sessions that do nothing else."""
    study = optuna.load_study(study_name=NAME, storage=bench.storage())
    storage = opened(bench, n)
    numbers = [storage.create_new_trial(study._study_id) for _ in range(n)]
    for trial in numbers:
        storage.record_heartbeat(trial)
    before, end = bench.server.cpu_s(), time.monotonic() + seconds
    counts = [0] * n

    def beat(i: int) -> None:
        while time.monotonic() < end:
            storage.record_heartbeat(numbers[i])
            counts[i] += 1

    together(beat, n)
    server_ms = 1000 * (bench.server.cpu_s() - before) / sum(counts)
    memory = bench.server.memory_mib()
    for trial in numbers:
        storage.set_trial_state_values(trial, optuna.trial.TrialState.FAIL)
    storage.close()
    return {
        "sessions": n,
        "beats_per_s": sum(counts) / seconds,
        "server_cpu_ms_per_beat": server_ms,
        "server_memory_mib": memory,
    }


def workers(bench: Bench, n: int, n_trials: int) -> dict[str, Any]:
    """Trials a second of `n` workers at once."""
    bench.more_complete(n_trials)
    before, began = bench.server.cpu_s(), time.perf_counter()
    with asks_timed() as asks:
        together(lambda i: bench.run(i, FreeTrials()), n)
    seconds = time.perf_counter() - began
    return {
        "workers": n,
        "trials": n_trials,
        "trials_per_s": n_trials / seconds,
        "turn_ms_p50": 1000 * float(np.percentile(asks, 50)),
        "server_cpu_ms_per_trial": 1000 * (bench.server.cpu_s() - before) / n_trials,
    }


def opened(bench: Bench, n: int) -> PatientStorage:
    """So many sessions, open from now on, of one storage: a thread uses one of its own."""
    url = parse(bench.url)
    storage = PatientStorage(
        url.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": connect_args(url), "pool_size": n},
        skip_table_creation=True,
    )
    sessions = [storage.engine.connect() for _ in range(n)]
    for session in sessions:
        session.close()
    return storage


def together(call: Callable[[int], object], n: int) -> None:
    """`call` in `n` threads at once."""
    threads = [threading.Thread(target=call, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def plan(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What workers need of what the server has: shares of one core, of the turn, of sessions."""
    most = max(found["ask_tell"], key=lambda row: (row["stored"], row["idle_sessions"]))
    beat_ms = min(row["server_cpu_ms_per_beat"] for row in found["heartbeats"])
    rows = []
    for n, trial_s in itertools.product(PLANNED, TRIAL_S):
        asks = n / trial_s
        cores = asks * most["server_cpu_ms_per_trial"] / 1000 + n * BEATS_PER_S * beat_ms / 1000
        rows.append(
            {
                "workers": n,
                "trial_s": trial_s,
                "asks_per_s": asks,
                "share_of_turn": asks / most["asks_per_s"],
                "server_cores": cores,
                "sessions": 2 * n,
            }
        )
    return rows


Columns = dict[str, tuple[str, str]]  # of a table: heading, key of a row and its format
ASK_TELL: Columns = {
    "stored": ("stored", ""),
    "idle sessions": ("idle_sessions", ""),
    "ask p50 ms": ("ask_ms_p50", ".0f"),
    "ask p95 ms": ("ask_ms_p95", ".0f"),
    "asks a second at most": ("asks_per_s", ".1f"),
    "tell and ask p50 ms": ("tell_and_ask_ms_p50", ".0f"),
    "server ms a trial": ("server_cpu_ms_per_trial", ".0f"),
    "client ms a trial": ("client_cpu_ms_per_trial", ".0f"),
}
HEARTBEATS: Columns = {
    "sessions": ("sessions", ""),
    "heartbeats a second": ("beats_per_s", ".0f"),
    "server ms a beat": ("server_cpu_ms_per_beat", ".2f"),
    "server MiB": ("server_memory_mib", ".0f"),
}
WORKERS: Columns = {
    "workers": ("workers", ""),
    "trials a second": ("trials_per_s", ".1f"),
    "turn p50 ms, waiting included": ("turn_ms_p50", ".0f"),
    "server ms a trial": ("server_cpu_ms_per_trial", ".0f"),
}
PLAN: Columns = {
    "workers": ("workers", ""),
    "seconds a trial": ("trial_s", ""),
    "asks a second": ("asks_per_s", ".2f"),
    "share of the turn": ("share_of_turn", ".0%"),
    "server cores": ("server_cores", ".2f"),
    "sessions, asking ones included": ("sessions", ""),
}


def table(found: dict[str, Any]) -> str:
    """Four tables."""

    def part(name: str, columns: Columns) -> str:
        rows = [[format(row[key], form) for key, form in columns.values()] for row in found[name]]
        return markdown(list(columns), rows)

    parts = [
        part("ask_tell", ASK_TELL),
        part("heartbeats", HEARTBEATS),
        part("workers", WORKERS),
        "Extrapolated from the first row of most stored trials and from the heartbeats:",
        part("plan", PLAN),
    ]
    return "\n\n".join(parts)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"ask_tell": [], "heartbeats": [], "workers": []}
    most = max(arguments.sessions)
    settings = {"max_connections": str(most + 200), "shared_buffers": "256MB"}
    with served(**settings) as postgres, quiet():
        store, cfg = Store(folder / "runs"), load_study(NAME, (*STUDY, "sampler.name=random"))
        ground, url = survey(cfg, store), postgres.database()
        study, _ = begin(cfg, store, url, lambda: ground)
        bench = Bench(Server(postgres), store, url)
        stored = 0
        for n in arguments.stored:
            for trial in random_trials(cfg, ground, n - stored, seed=stored):
                study.add_trial(trial)
            stored = n
            found["ask_tell"].append(ask_and_tell(bench, arguments.asks, n, 0))
        for n in arguments.sessions:
            found["heartbeats"].append(heartbeats(bench, n, arguments.seconds))
        for n in arguments.workers:
            found["workers"].append(workers(bench, n, max(n, arguments.asks)))
        idle = opened(bench, most)
        found["ask_tell"].append(ask_and_tell(bench, arguments.asks, stored, most))
        idle.close()
    found["plan"] = plan(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--asks", type=int, default=40, help="timed at each size")
    parser.add_argument("--sessions", type=int, nargs="+", default=[10, 100, 1000], metavar="N")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 40], metavar="N")
    parser.add_argument("--seconds", type=float, default=8.0, help="of heartbeats, at each number")
    add_out(parser, "queue")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="kdbench-queue-") as name:
        found = measured(arguments, Path(name))
    publish(arguments, table(found), found)


if __name__ == "__main__":
    main()
