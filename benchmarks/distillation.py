"""What distillation gives a small codec: students against their twins, several seeds each.

    python -m benchmarks.distillation run --root DIR [--only 300]    about two hours on one core
    python -m benchmarks.distillation report --root DIR              a few seconds

`run` trains each case with each seed through `run_trial`, as a study would, and keeps every result
in DIR; started again it goes on with what is missing. A case is a student, a number of steps, a
teacher, and weights of the distillation terms. Its twin has the same architecture, start, seed,
crops and steps, and all weights 0. Twins try three learning rates with the first seed, and keep the
one with the lowest loss on validation crops; the other cases take their twin's. `alone` has no
teacher at all and tunes its own rate: it tells what the start in the teacher's coordinates and the
inherited hyperprior give.

`report` compares curves on the built-in evaluation photos, from real bitstreams: the mean over
seeds of the BD-rate against the twin of the same seed, with a 95 % bootstrap interval over seeds
and photos together, and the spread over seeds of the BD-rate against the anchor, `teacher:default`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import bench_in
from kdbench.errors import KdbenchError
from kdbench.files import load, write_json
from kdbench.rd import bd_rate_over_seeds
from kdbench.records import (
    Distillation,
    Hyper,
    Latent,
    Training,
    Transform,
    TrialResult,
    TrialSpec,
)
from kdbench.teacher import load_teacher
from kdbench.trial import run_trial

ANCHOR = "teacher:default"
DEFAULT = "default"
SEEDS = (0, 1, 2)
N_CROPS = 512
RATES = (2.4e-3, 4.8e-3, 9.6e-3)
TWIN, ALONE, BEST = "twin", "alone", "latent 1, decaying"
TUNED = (TWIN, ALONE)
CASES: dict[str, dict[str, Any]] = {
    TWIN: {},
    ALONE: {},
    "latent 0.03": {"latent": 0.03},
    "latent 0.3": {"latent": 0.3},
    "latent 1": {"latent": 1.0},
    BEST: {"latent": 1.0, "schedule": "decaying"},
    "latent 3, decaying": {"latent": 3.0, "schedule": "decaying"},
    "latent 1, first half": {"latent": 1.0, "schedule": "first_half"},
    "latent 1, staged": {"latent": 1.0, "schedule": "staged"},
    "latent 1, by bits, decaying": {
        "latent": 1.0,
        "channel_weights": "by_bits",
        "schedule": "decaying",
    },
    "hyper-latent 0.1": {"hyper_latent": 0.1},
    "output 0.3": {"output": 0.3},
    "entropy 0.3, tau 0.5": {"entropy": 0.3, "temperature": 0.5},
    "entropy 0.3": {"entropy": 0.3},
    "entropy 0.3, tau 4": {"entropy": 0.3, "temperature": 4.0},
    "features 1": {"features": 1.0},
    "features 1, g_s.0": {"features": 1.0, "feature_layer": "g_s.0"},
    "all, decaying": {
        "latent": 1.0,
        "hyper_latent": 0.1,
        "output": 0.3,
        "entropy": 0.1,
        "temperature": 4.0,
        "features": 0.3,
        "schedule": "decaying",
    },
}
STUDENTS = {"16": (16, 16), "32": (32, 32), "48": (48, 48), "48 > 16": (48, 16)}
SHORTEST, SHORT, LONG = 75, 300, 1200
ONE_BY_ONE = tuple(case for case in CASES if case not in (TWIN, ALONE, BEST))
PLAN: tuple[tuple[str, int, str, tuple[str, ...]], ...] = (  # those first that say most
    ("16", SHORT, DEFAULT, (TWIN, ALONE, BEST)),
    ("32", SHORT, DEFAULT, (TWIN, ALONE, BEST)),
    ("16", LONG, DEFAULT, (TWIN, BEST, "latent 0.3", ALONE)),
    ("32", LONG, DEFAULT, (TWIN, BEST, "latent 0.3")),
    ("16", SHORT, DEFAULT, ONE_BY_ONE),
    ("16", SHORT, "small", (TWIN, BEST)),
    ("48 > 16", SHORT, DEFAULT, (TWIN, BEST)),
    ("48", SHORT, DEFAULT, (TWIN, BEST)),
    ("16", SHORTEST, DEFAULT, (TWIN, BEST, ALONE)),
    ("16", SHORT, "mean_scale", (TWIN, BEST)),
    ("32", SHORT, DEFAULT, ("latent 0.3", "latent 1", "all, decaying")),
    ("32", LONG, DEFAULT, (ALONE,)),
)


@dataclass(frozen=True)
class Run:
    """One training."""

    student: str
    steps: int
    case: str
    seed: int
    teacher: str = DEFAULT


def runs(steps: int | None) -> Iterator[Run]:
    """Every run, or those of so many steps, in the order of `PLAN`."""
    for student, length, teacher, cases in PLAN:
        if steps in (None, length):
            for seed in SEEDS:
                yield from (Run(student, length, case, seed, teacher) for case in cases)


def spec_of(run: Run, learning_rate: float, rd_lambdas: tuple[float, ...]) -> TrialSpec:
    encoder, decoder = STUDENTS[run.student]
    teacher = f"teacher:{run.teacher}"
    prior = load_teacher(teacher).model.architecture.hyper.prior
    return TrialSpec(
        encoder=Transform(width=encoder),
        decoder=Transform(width=decoder),
        hyper=Hyper(width=64, prior=prior),
        latent=Latent(channels=192),
        distillation=Distillation(
            teacher=None if run.case == ALONE else teacher, **CASES[run.case]
        ),
        training=Training(
            steps=run.steps,
            batch=8,
            crop_px=128,
            rd_lambdas=rd_lambdas,
            learning_rate=learning_rate,
        ),
        seed=run.seed,
    )


class Laboratory:
    """Runs what is missing; knows what was found."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rd_lambdas = load_teacher(ANCHOR).rd_lambdas
        self._bench = bench_in(root / "cache", N_CROPS)

    def found(self, run: Run) -> tuple[TrialResult, float] | None:
        """Result and learning rate of a run; None if it is still to be made."""
        rates = self._rates(run)
        results = [self._load(run, rate) for rate in rates]
        if not rates or any(result is None for result in results):
            return None
        known = [(r, rate) for r, rate in zip(results, rates, strict=True) if r is not None]
        return min(known, key=lambda pair: pair[0].losses["validation"])

    def make(self, run: Run) -> None:
        """Trains whatever `run` lacks."""
        for rate in self._rates(run):
            if self._load(run, rate) is None:
                folder = self._folder(run, rate)
                spec = spec_of(run, rate, self._rd_lambdas)
                result = run_trial(spec, self._bench, lambda rung: True, folder)
                write_json(folder / "result.json", result)
                seconds = result.seconds["training"]
                print(run, rate, f"{result.bd_rate.pct:+.1f} %, {seconds:.0f} s", flush=True)

    def _rates(self, run: Run) -> tuple[float, ...]:
        """Learning rates to try: all with the first seed of a tuned case, else the one it chose."""
        tuned = run.case if run.case in TUNED else TWIN
        first = replace(run, case=tuned, seed=SEEDS[0])
        if run == first:
            return RATES
        best = self.found(first)
        return () if best is None else (best[1],)

    def _folder(self, run: Run, rate: float) -> Path:
        other = "" if run.teacher == DEFAULT else f" {run.teacher}"
        return self._root / f"{run.student} {run.steps} {run.case} {run.seed} {rate:g}{other}"

    def _load(self, run: Run, rate: float) -> TrialResult | None:
        path = self._folder(run, rate) / "result.json"
        return load(path, TrialResult) if path.is_file() else None


# --- report ----------------------------------------------------------------------------------


def compared(laboratory: Laboratory, first: Run) -> dict[str, Any] | None:
    """The case of `first` against its twin over the seeds that both have; None if there is none."""
    pairs = []
    for seed in SEEDS:
        own = laboratory.found(replace(first, seed=seed))
        twin = laboratory.found(replace(first, case=TWIN, seed=seed))
        if own is not None and twin is not None:
            pairs.append((own, twin))
    if not pairs:
        return None
    results = [own for (own, _), _ in pairs]
    against = bd_rate_over_seeds([r.rd for r in results], [t.rd for _, (t, _) in pairs])
    to_teacher = [result.bd_rate.pct for result in results]
    return {
        "student": first.student,
        "steps": first.steps,
        "teacher": first.teacher,
        "case": first.case,
        "n_seeds": len(pairs),
        "learning_rate": pairs[0][0][1],
        "against_twin_pct": against.pct,
        "low_pct": against.low_pct,
        "high_pct": against.high_pct,
        "against_anchor_pct": fmean(to_teacher),
        "spread_over_seeds_pct": stdev(to_teacher) if len(to_teacher) > 1 else None,
        "validation_loss": fmean(r.losses["validation"] for r in results),
        "training_s": fmean(r.seconds["training"] for r in results),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a case."""
    cells = []
    for row in rows:
        interval = "-"
        if row["low_pct"] is not None and row["case"] != TWIN:
            interval = f"{row['low_pct']:+.1f}, {row['high_pct']:+.1f}"
        spread = row["spread_over_seeds_pct"]
        cells.append(
            [
                row["student"],
                str(row["steps"]),
                row["teacher"],
                row["case"],
                str(row["n_seeds"]),
                f"{row['learning_rate']:g}",
                "" if row["case"] == TWIN else f"{row['against_twin_pct']:+.1f}",
                interval,
                f"{row['against_teacher_pct']:+.1f}",
                "-" if spread is None else f"{spread:.1f}",
                f"{row['validation_loss']:.4f}",
                f"{row['training_s']:.0f}",
            ]
        )
    heads = ["student", "steps", "teacher", "case", "seeds", "rate", "BD-rate % to twin", "95 %"]
    heads += ["to anchor", "spread", "validation loss", "train s"]
    return markdown(heads, cells, left=4)


def report(laboratory: Laboratory) -> list[dict[str, Any]]:
    """Every case that has a seed, twins first."""
    teachers = (DEFAULT, "mean_scale", "small")

    def order(run: Run) -> tuple[int, ...]:
        places = (teachers, run.teacher), (list(STUDENTS), run.student), (list(CASES), run.case)
        return (run.steps, *(names.index(name) for names, name in places))

    firsts = sorted({run for run in runs(None) if run.seed == SEEDS[0]}, key=order)
    found = [compared(laboratory, first) for first in firsts]
    return [row for row in found if row is not None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--root", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", type=int, choices=[SHORTEST, SHORT, LONG])
    add_out(parser, "distillation")
    arguments = parser.parse_args()
    laboratory = Laboratory(arguments.root)
    if arguments.what == "report":
        rows = report(laboratory)
        if not rows:
            sys.exit("nothing has been run yet")
        publish(arguments, table(rows), {"cases": rows})
        return
    for run in runs(arguments.only):
        try:
            laboratory.make(run)
        except KdbenchError as why:
            print(run, why, flush=True)


if __name__ == "__main__":
    main()
