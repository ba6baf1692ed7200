"""Trials per hour by number of workers, beside what the machine gives the same trials without us.

    python -m benchmarks.workers                                    about 20 minutes
    python -m benchmarks.workers --trials 1 --steps 5 --rounds 1    a smoke test

Searches with 1 and with 2 workers, each worker `--trials` trials of equal cost (uniform students of
width 32 whose losses weigh a little differently, trained and evaluated in full; no energy, no
ladder). Of each worker from the start of its first trial to the end of its last one, as the
database knows them, so without what a study takes once: the start of the command, the anchor, which
the first worker measures before its first trial, and the end.

The same trials again in processes of their own: `trial.run_trial` one after another, without
study, database, budget, queue and progress, each process with a lease of its own; they share
nothing but the processor and the teacher's cached outputs. What two of them do more than one is
what this machine has to give; where searches gain as much, working together costs nothing.

Shared machines change their speed from minute to minute, so beside the trials stand the cores that
were busy meanwhile, of the whole machine, which must be quiet otherwise: what of a second core is
not used is what waiting for one another takes. The four take turns, and turn their order round from
round to round.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np
import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from benchmarks.publish import add_out, markdown, publish
from kdbench.config import load_study
from kdbench.records import Bench, TrialSpec
from kdbench.search.attributes import BY
from kdbench.search.ground import bench, survey
from kdbench.store import Store

WORKERS = (1, 2)
LOOK_S = 0.2
WIDTH = 32
SEARCH, ALONE = "search", "processes of their own"
Found = dict[tuple[str, int], list["Rate"]]


@dataclass(frozen=True)
class Rate:
    """What a round of one kind gave."""

    trials_per_hour: float
    cores_busy: float

    @classmethod
    def of(cls, spans: Sequence[tuple[int, float, float]], cores: "Cores") -> "Rate":
        """Of each worker's trials, from the first one's start to the last one's end [time of day].

        Cores are those while all were at work.
        """
        began, ended = max(began for _, began, _ in spans), min(ended for *_, ended in spans)
        return cls(
            trials_per_hour=sum(3600 * n / (ended - began) for n, began, ended in spans),
            cores_busy=cores.busy(began, ended),
        )


class Cores:
    """Knows how many cores were busy between two moments since it began to look."""

    def __init__(self) -> None:
        self._looks = [_look()]
        self._done = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_S):
            self._looks.append(_look())

    def busy(self, began: float, ended: float) -> float:
        """The mean between two times of day [s], both past; ends the looking."""
        self._done.set()
        self._thread.join()
        self._looks.append(_look())
        times, seconds = zip(*self._looks, strict=True)
        first, last = np.interp([began, ended], times, seconds)
        return float(last - first) / (ended - began)


def _look() -> tuple[float, float]:
    """Time of day, and CPU seconds of all processes of the machine so far."""
    spent = psutil.cpu_times()
    return time.time(), spent.user + spent.nice + spent.system


def settings(name: str, n_trials: int, n_steps: int) -> tuple[str, ...]:
    """A study of the space `smoke`."""
    points = [
        {
            "encoder.width": WIDTH,
            "decoder.width": WIDTH,
            "distillation.latent": 0.02 + 0.001 * i,
            "distillation.temperature": 1.0,
        }
        for i in range(n_trials)
    ]
    return (
        f"name={name}",
        f"sampler={json.dumps({'name': 'listed', 'points': points})}",
        f"trials={n_trials}",
        f"training.steps={n_steps}",
        "energy.meter=none",
        "objectives=[bd_rate_pct, kmac_per_px]",
    )


def search(store: Store, name: str, workers: int, n_trials: int, n_steps: int) -> Rate:
    """What `kdbench search` does with `n_trials` a worker."""
    cores = Cores()
    command = [sys.executable, "-m", "kdbench", "search", "--study", "smoke"]
    command += ["--root", str(store.root), "--workers", str(workers)]
    for each in settings(name, workers * n_trials, n_steps):
        command += ["--set", each]
    run = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if run.returncode != 0:
        sys.exit(run.returncode)  # it has said why
    known = optuna.load_study(study_name=name, storage=store.database_url(name))
    done = [trial for trial in known.trials if trial.state == TrialState.COMPLETE]
    by_worker: dict[int, list[FrozenTrial]] = {}
    for trial in done:
        by_worker.setdefault(trial.user_attrs[BY]["worker"], []).append(trial)
    spans = [
        (
            len(trials),
            min(t.datetime_start for t in trials if t.datetime_start).timestamp(),
            max(t.datetime_complete for t in trials if t.datetime_complete).timestamp(),
        )
        for trials in by_worker.values()
    ]
    assert len(spans) == workers, "a worker had no trial"
    return Rate.of(spans, cores)


def alone(specs: Sequence[TrialSpec], common: Bench, folder: Path, processes: int) -> Rate:
    """What processes do that run all of `specs` each; they begin together."""
    cores, spawning = Cores(), multiprocessing.get_context("spawn")
    lines, crew = [], []
    for i in range(processes):
        ours, theirs = spawning.Pipe()
        home = folder / f"{processes}-{i}"
        home.mkdir(parents=True)
        crew.append(spawning.Process(target=_run, args=(theirs, specs, common, home)))
        lines.append(ours)
        crew[-1].start()
        theirs.close()  # else nobody would notice that it died
    for line in lines:
        line.recv()  # has loaded all it needs
    for line in lines:
        line.send("go")
    spans = [(len(specs), *line.recv()) for line in lines]
    for each in crew:
        each.join()
    return Rate.of(spans, cores)


def _run(line: Connection, specs: Sequence[TrialSpec], common: Bench, home: Path) -> None:
    """In a process of its own; `home` has its trials and its lease."""
    tempfile.tempdir = str(home)  # where the host's lease lies
    from kdbench.trial import run_trial

    line.send("ready")
    line.recv()
    began = time.time()
    for i, spec in enumerate(specs):
        run_trial(spec, common, lambda _: True, home / str(i))
    line.send((began, time.time()))


def measured(arguments: argparse.Namespace, store: Store) -> Found:
    """What each of the four did, a figure a round."""
    n_trials, n_steps = arguments.trials, arguments.steps
    search(store, "warm", 1, 1, min(n_steps, 5))  # fills the caches
    cfg = load_study("smoke", settings("alone", n_trials, n_steps))
    common = bench(cfg, survey(cfg, store), store)
    rates: Found = {(how, n): [] for n in WORKERS for how in (SEARCH, ALONE)}
    specs: list[TrialSpec] = []
    for i in range(arguments.rounds):
        for how, n in rates if i % 2 == 0 else reversed(rates):
            name = f"w{n}-{i}"
            if how == SEARCH:
                rate = search(store, name, n, n_trials, n_steps)
                specs = specs or [trial.spec for trial in store.trials(name)]
            else:
                rate = alone(specs, common, store.root / "alone" / str(i), n)
            rates[how, n].append(rate)
            print(f"round {i}: {how}, {n}: {rate}", flush=True)
    return rates


def table(found: Found) -> str:
    """Medians over rounds."""
    rows = []
    for (how, n), rates in found.items():
        times = [
            a.trials_per_hour / b.trials_per_hour for a, b in zip(rates, found[how, 1], strict=True)
        ]
        figures = (
            f"{median(rate.trials_per_hour for rate in rates):.0f}",
            "" if n == 1 else f"{median(times):.2f}",
            f"{median(rate.cores_busy for rate in rates):.2f}",
        )
        rows.append([how, str(n), *figures])
    return markdown(["", "at once", "trials per hour", "times one's", "cores busy"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3, help="of each worker")
    parser.add_argument("--steps", type=int, default=250, help="of each trial")
    parser.add_argument("--rounds", type=int, default=3)
    add_out(parser, "workers")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="kdbench-workers-") as name:
        rates = measured(arguments, Store(Path(name) / "runs"))
    figures = [
        {"how": how, "at_once": n, **asdict(rate)}
        for (how, n), own in rates.items()
        for rate in own
    ]
    publish(arguments, table(rates), {"rates": figures})


if __name__ == "__main__":
    main()
