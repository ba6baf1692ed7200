"""What a report takes: wall and CPU seconds of `kdbench report` and `show` by format.

    python -m benchmarks.report --study runs/kd_pareto                      about 2 minutes
    python -m benchmarks.report --study runs/kd_pareto --trials 8 --times 1 a smoke test

A study of many trials is made from the finished ones of a real study: their folders are copied,
weights left out, and every figure is moved by a factor drawn for it, so that no two trials are
alike and the front has many members. Each command runs as a process of its own, start included.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.publish import add_out, markdown, publish
from kdbench.files import write_json
from kdbench.records import BDRate, CodecEnergy, Complexity, EnergyReading, TrialResult
from kdbench.report.render import FORMATS
from kdbench.store import Store, StoredTrial

NAME = "many"
SPREAD = 0.25  # standard deviation of the logarithm of each factor
KEPT = ("log.jsonl", "energy_trained.json", "reconstruction.json", "reconstruction.png")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a finished study")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--times", type=int, default=3, help="runs of each")
    add_out(parser, "report")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kdbench-report-") as folder:
        root = Path(folder) / "runs"
        n_front = make_many(arguments.study, Store(root), arguments.trials)
        rows = [measured(root, Path(folder), kind, arguments.times) for kind in ("show", *FORMATS)]
    heads = list(rows[0])
    table = markdown(heads, [[str(row[head]) for head in heads] for row in rows])
    text = f"{arguments.trials} trials, {n_front} on the front\n\n{table}"
    publish(arguments, text, {"trials": arguments.trials, "front": n_front, "rows": rows})


def make_many(source: Path, store: Store, n_trials: int) -> int:
    """Writes the study; returns how many of its trials are on the front."""
    from kdbench.report.overview import overview

    real = Store(source.parent)
    stored = real.load_study(source.name)
    complete = [trial for trial in real.trials(source.name) if trial.result is not None]
    settings = {**stored.settings, "name": NAME}
    store.create_study(replace(stored, name=NAME, settings=settings))
    for path in (real.anchor_file(source.name), *(source / "crops").glob("*")):
        _copy(path, store.study_folder(NAME) / path.relative_to(source))
    rng = np.random.default_rng(0)
    for number in range(n_trials):
        _write(store, number, complete[number % len(complete)], rng)
    return len(overview(store, NAME).front)


def _write(store: Store, number: int, like: StoredTrial, rng: np.random.Generator) -> None:
    assert like.result is not None
    folder = store.begin_trial(NAME, number, replace(like.spec, seed=number))
    write_json(folder.result, varied(like.result, rng), durable=False)
    for name in KEPT:
        _copy(like.folder.path / name, folder.path / name)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def varied(result: TrialResult, rng: np.random.Generator) -> TrialResult:
    """Costs smaller by a factor and BD-rate larger by another, or the other way round."""
    size, luck, joules = (float(v) for v in np.exp(rng.normal(0, SPREAD, 3)))
    costs, rate = result.complexity, result.bd_rate
    parts = {name: getattr(costs, name) * size for name in ("g_a", "h_a", "h_s", "g_s")}
    moved = None
    if rate is not None:
        pct = (100 + rate.pct) * luck / size**0.3 - 100
        low, high = (None if end is None else end - rate.pct + pct for end in _ends(rate))
        moved = replace(rate, pct=pct, low_pct=low, high_pct=high)
    more: Complexity = replace(costs, params=round(costs.params * size), **parts)
    energy = None if result.energy is None else _scaled(result.energy, size * joules)
    return replace(result, complexity=more, bd_rate=moved, energy=energy)


def _ends(rate: BDRate) -> tuple[float | None, float | None]:
    return rate.low_pct, rate.high_pct


def _scaled(energy: CodecEnergy, by: float) -> CodecEnergy:
    def reading(found: EnergyReading) -> EnergyReading:
        return replace(found, gross_j_per_mpx=tuple(by * j for j in found.gross_j_per_mpx))

    return replace(energy, encode=reading(energy.encode), decode=reading(energy.decode))


def measured(root: Path, folder: Path, kind: str, times: int) -> dict[str, object]:
    """Best, median and worst wall and best CPU seconds of a command, and how much it gives."""
    command = [sys.executable, "-m", "kdbench", "report", "--study", NAME, "--root", str(root)]
    out = folder / f"out-{kind}"
    if kind == "show":
        command[3] = "show"
    else:
        command += ["--format", kind, "--out", str(out)]
    walls, cpus, printed = [], [], 0
    for _ in range(times):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run = subprocess.run(command, check=True, capture_output=True, env=os.environ)
        walls.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        printed = len(run.stdout)
    files = [out] if out.is_file() else sorted(out.glob("*"))
    size = sum(path.stat().st_size for path in files) or printed
    return {
        "format": kind,
        "wall s": round(min(walls), 2),
        "median": round(median(walls), 2),
        "slowest": round(max(walls), 2),
        "cpu s": round(min(cpus), 2),
        "files": len(files),
        "kB": round(size / 1000),
    }


if __name__ == "__main__":
    main()
