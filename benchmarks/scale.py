"""What grows with a study: seconds of ask and tell, and of a rung, by stored trials.

    python -m benchmarks.scale                          about a quarter of an hour
    python -m benchmarks.scale --sizes 5 10 --asks 3    a smoke test

A real worker (`search.worker.work`) on SQLite runs trials that cost nothing, so that what is left
is asking, recognising duplicates, the budget, both rungs of the ladder and telling, with the files
that it writes. The study is `kd_pareto` with a ladder and two objectives; before, its database is
filled with random trials of its space, each of which has been at both rungs. A figure is of what
lies between the end of one trial and the start of the next one (tell and ask); rungs, inside a
trial, are told apart. The sampler of the study, TPE, against `random`, which looks at no other
trial: what that one takes is ours and the database's. Wall time waits for the disk at every commit,
CPU time does not.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from benchmarks.publish import add_out, markdown, publish
from benchmarks.step import now
from kdbench import config
from kdbench.config import StudyConfig, load_study
from kdbench.records import (
    BDRate,
    Bench,
    Complexity,
    Progress,
    RDCurve,
    Rung,
    TrialResult,
    TrialSpec,
)
from kdbench.search.attributes import RUNGS, SETTINGS, SPEC_HASH
from kdbench.search.budget import Budget, n_complete, set_budget
from kdbench.search.ground import Ground, survey
from kdbench.search.objectives import violations
from kdbench.search.storage import connect, quiet
from kdbench.search.study import begin
from kdbench.search.task import Gate, Report
from kdbench.search.worker import work
from kdbench.store import Store

SAMPLERS = ("tpe", "random")
PARTS = {"tell_ask": "tell and ask", "rung": "a rung"}
CLOCKS, PERCENTILES = ("wall", "cpu"), ("p50", "p95")
Clocks = tuple[float, float]  # wall and CPU [s]
STUDY = (
    "objectives=[bd_rate_pct, kmac_per_px]",
    "energy.meter=none",
    "sampler.enqueue=none",
    "ladder={rungs: [0.11, 0.33], eta: 3}",
    "trials=1000000",
)


@dataclass
class FreeTrials:
    """Trials that cost nothing; remembers when each began and ended, and its rungs' seconds."""

    began: list[Clocks] = field(default_factory=list)
    ended: list[Clocks] = field(default_factory=list)
    rungs: list[Clocks] = field(default_factory=list)

    def __call__(
        self, spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, report: Report
    ) -> TrialResult:
        """A result that is a function of the spec alone, whatever a rung answers."""
        self.began.append(now())
        report(Progress(stage="training"))
        pct, kmac = figures_of(spec)
        gate(Rung(stage="cost", step=0, values={"params": 1.0, "kmac_per_px": kmac}))
        for step in bench.rungs:
            asked = now()
            gate(Rung(stage="training", step=step, values={"validation_loss": pct}))
            self.rungs.append(_since(asked, now()))
        found = TrialResult(
            rd=RDCurve(images=(), points=(), image_bpp=(), image_psnr_db=()),
            bd_rate=BDRate(pct=pct, low_pct=None, high_pct=None, overlap_db=3.0),
            complexity=Complexity(params=1, g_a=kmac, h_a=0, h_s=0, g_s=0, entropy_model=0),
            energy=None,
            seconds={},
            hashes={},
            losses={},
            environment={},
        )
        self.ended.append(now())
        return found

    @property
    def between(self) -> list[Clocks]:
        """From the end of each trial to the start of the next [s]."""
        return [_since(e, b) for b, e in zip(self.began[1:], self.ended, strict=False)]


def _since(began: Clocks, ended: Clocks) -> Clocks:
    return ended[0] - began[0], ended[1] - began[1]


def figures_of(spec: TrialSpec) -> tuple[float, float]:
    """BD-rate [%] and kMAC/px of a free trial: the wider, the better and the dearer."""
    kmac = 0.1 * spec.encoder.width + 0.2 * spec.decoder.width
    noise = int(spec.hash[:8], 16) / 16**8
    return 100 / kmac + 10 * noise, kmac


def random_trials(cfg: StudyConfig, ground: Ground, n: int, seed: int) -> Iterator[FrozenTrial]:
    """Complete trials of the space that have been at both rungs."""
    assert cfg.ladder is not None
    steps = cfg.ladder.steps(cfg.training.steps)
    constraints = violations(cfg.constraints.limits, {})
    for i in range(n):
        if i % 100 == 0:  # an old study in memory is slow
            asking = optuna.create_study(sampler=RandomSampler(seed=seed + i))
        trial = asking.ask()
        spec = cfg.space.sample(
            trial,
            plan=cfg.training,
            seed=seed + i,  # no two specs are the same
            teacher_coordinates=ground.teacher_coordinates,
            stands_on={},
        )
        pct, kmac = figures_of(spec)
        shown = {"validation_loss": pct, "kmac_per_px": kmac}
        yield optuna.create_trial(
            state=TrialState.COMPLETE,
            values=[pct, kmac],
            params=trial.params,
            distributions=trial.distributions,
            constraints=constraints,
            user_attrs={SPEC_HASH: spec.hash, RUNGS: {str(step): shown for step in steps}},
        )


def fill(url: str, study: str, trials: Iterator[FrozenTrial]) -> None:
    """Adds trials to a database, without waiting for the disk at each."""
    storage = RDBStorage(url)
    event.listen(storage.engine, "connect", _unsafe)
    storage.engine.dispose()
    known = optuna.load_study(study_name=study, storage=storage)
    for trial in trials:
        known.add_trial(trial)
    storage.engine.dispose()


def _unsafe(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def asked(store: Store, cfg: StudyConfig, sampler: str, n_asks: int) -> FreeTrials:
    """What `n_asks` + 1 trials of one worker took, in a copy of the study with that sampler."""
    copy = Store(store.root.with_name(f"{store.root.name}-{sampler}"))
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(store.root, copy.root)
    url = copy.database_url(cfg.name)
    known = optuna.load_study(study_name=cfg.name, storage=connect(url, create=False))
    other = load_study("kd_pareto", (*STUDY, f"sampler.name={sampler}"))
    known.set_user_attr(SETTINGS, config.settings(other))
    set_budget(known, Budget(trials=n_complete(known) + n_asks + 1))
    free = FreeTrials()
    work(cfg.name, copy, index=0, run=free)
    return free


def ask_and_tell(sizes: Sequence[int], n_asks: int, folder: Path) -> list[dict[str, Any]]:
    """p50 and p95 [ms] by stored trials and sampler."""
    store, cfg = Store(folder / "runs"), load_study("kd_pareto", STUDY)
    ground = survey(cfg, store)
    url = store.database_url(cfg.name)
    with quiet():
        begin(cfg, store, url, lambda: ground)
        found, stored = [], 0
        for size in sizes:
            fill(url, cfg.name, random_trials(cfg, ground, size - stored, seed=stored))
            stored = size
            for sampler in SAMPLERS:
                free = asked(store, cfg, sampler, n_asks)
                row: dict[str, Any] = {"trials": size, "sampler": sampler}
                for name, seconds in (("tell_ask", free.between), ("rung", free.rungs)):
                    at = np.percentile(1000 * np.array(seconds), [50, 95], axis=0)
                    for (p, clock), ms in np.ndenumerate(at):
                        row[f"{name}_{CLOCKS[clock]}_{PERCENTILES[p]}_ms"] = float(ms)
                found.append(row)
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds by stored trials."""
    columns = [(name, clock, p) for name in PARTS for clock in CLOCKS for p in PERCENTILES]
    cells = [
        [
            row["sampler"],
            str(row["trials"]),
            *(f"{row[f'{name}_{clock}_{p}_ms']:.0f}" for name, clock, p in columns),
        ]
        for row in sorted(rows, key=lambda row: (row["sampler"], row["trials"]))
    ]
    heads = [f"{PARTS[name]}, {clock} {p} ms" for name, clock, p in columns]
    heads = ["sampler", "stored", *heads]
    return markdown(heads, cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 10_000], metavar="N")
    parser.add_argument("--asks", type=int, default=20, help="timed at each size")
    add_out(parser, "scale")
    arguments = parser.parse_args()
    if sorted(set(arguments.sizes)) != arguments.sizes or arguments.sizes[0] < 1:
        parser.error("--sizes must ascend from 1 or more")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="kdbench-scale-") as name:
        rows = ask_and_tell(arguments.sizes, arguments.asks, Path(name))
    publish(arguments, table(rows), {"ask_tell": rows})


if __name__ == "__main__":
    main()
