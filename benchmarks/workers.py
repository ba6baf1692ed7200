"""Trials per hour by number of workers, beside what the machine gives the same trials without us.

    python -m benchmarks.workers                                    about 20 minutes
    python -m benchmarks.workers --trials 1 --steps 5 --rounds 1    a smoke test

Searches with 1 and with 2 workers, each worker `--trials` trials of equal cost (uniform students of
width 32 whose losses weigh a little differently, trained and evaluated in full; no energy, no
ladder). Counted from the start of the first trial to the end of the last one, as the database
knows them, so neither the start of the command nor its end.

The same trials again in processes of their own: `trial.run_trial` one after another, without
study, database, budget, queue and progress, each process with a lease of its own; they share
nothing but the processor and the teacher's cached outputs. What two of them do more than one is
what this machine has to give; where searches gain as much, working together costs nothing.

The four take turns, and turn their order round from round to round.
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
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import optuna

from benchmarks.publish import add_out, markdown, publish
from kdbench.config import load_study
from kdbench.records import Bench, TrialSpec
from kdbench.search.ground import bench, survey
from kdbench.store import Store

WORKERS = (1, 2)
WIDTH = 32
SEARCH, ALONE = "search", "processes of their own"
Rates = dict[tuple[str, int], list[float]]


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


def search(store: Store, name: str, workers: int, n_trials: int, n_steps: int) -> float:
    """Trials per hour of `kdbench search`, `n_trials` a worker."""
    command = [sys.executable, "-m", "kdbench", "search", "--study", "smoke"]
    command += ["--root", str(store.root), "--workers", str(workers)]
    for each in settings(name, workers * n_trials, n_steps):
        command += ["--set", each]
    run = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if run.returncode != 0:
        sys.exit(run.returncode)  # it has said why
    known = optuna.load_study(study_name=name, storage=store.database_url(name))
    spans = [(t.datetime_start, t.datetime_complete) for t in known.trials]
    begun = min(began for began, _ in spans if began)
    ended = max(ended for _, ended in spans if ended)
    done = sum(trial.result is not None for trial in store.trials(name))
    return 3600 * done / (ended - begun).total_seconds()


def alone(specs: Sequence[TrialSpec], common: Bench, folder: Path, processes: int) -> float:
    """Trials per hour of processes that run all of `specs` each; they begin together."""
    spawning = multiprocessing.get_context("spawn")
    lines, crew = [], []
    for i in range(processes):
        ours, theirs = spawning.Pipe()
        home = folder / f"{processes}-{i}"
        home.mkdir(parents=True)
        crew.append(spawning.Process(target=_run, args=(theirs, specs, common, home)))
        lines.append(ours)
        crew[-1].start()
    for line in lines:
        line.recv()  # has loaded all it needs
    for line in lines:
        line.send("go")
    spans = [line.recv() for line in lines]
    for each in crew:
        each.join()
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    return 3600 * processes * len(specs) / seconds


def _run(line: Connection, specs: Sequence[TrialSpec], common: Bench, home: Path) -> None:
    """In a process of its own; `home` has its trials and its lease."""
    tempfile.tempdir = str(home)  # where the host's lease lies
    from kdbench.trial import run_trial

    line.send("ready")
    line.recv()
    began = time.monotonic()
    for i, spec in enumerate(specs):
        run_trial(spec, common, lambda _: True, home / str(i))
    line.send((began, time.monotonic()))


def measured(arguments: argparse.Namespace, store: Store) -> Rates:
    """Trials per hour of each of the four, a figure a round."""
    n_trials, n_steps = arguments.trials, arguments.steps
    search(store, "warm", 1, 1, min(n_steps, 5))  # fills the caches
    cfg = load_study("smoke", settings("alone", n_trials, n_steps))
    common = bench(cfg, survey(cfg, store), store)
    rates: Rates = {(how, n): [] for n in WORKERS for how in (SEARCH, ALONE)}
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
            print(f"round {i}: {how}, {n}: {rate:.0f} trials per hour", flush=True)
    return rates


def table(rates: Rates) -> str:
    """Medians over rounds, and how many times more several do than one: median, least and most."""
    rows = []
    for how in (SEARCH, ALONE):
        for n in WORKERS:
            times = [many / one for many, one in zip(rates[how, n], rates[how, 1], strict=True)]
            ends = f"{min(times):.2f} to {max(times):.2f}"
            gain = "" if n == 1 else f"{median(times):.2f} ({ends})"
            rows.append([how, str(n), f"{median(rates[how, n]):.0f}", gain])
    return markdown(["", "at once", "trials per hour", "times one's"], rows)


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
    figures = [{"how": how, "at_once": n, "trials_per_hour": r} for (how, n), r in rates.items()]
    publish(arguments, table(rates), {"rates": figures})


if __name__ == "__main__":
    main()
