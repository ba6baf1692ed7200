"""What distillation gives a small codec: students against their twins, several seeds each.

    python -m benchmarks.distillation run --root DIR [--only 300]    about two hours on one core
    python -m benchmarks.distillation report --root DIR              a few seconds

`run` trains each case with each seed through `run_trial`, as a study would, and keeps every result
in DIR; started again it goes on with what is missing. A case is a student, a number of steps, a
teacher, and weights of the distillation terms. Its twin has the same architecture, start, seed,
crops and steps, and all weights 0. Twins try three or four learning rates with the first seed and
keep the best by loss on validation crops; the other cases take their twin's. `alone` has no teacher
at all and tunes its own rate: it tells what the start in the teacher's coordinates and the
inherited hyperprior give.

`report` compares curves on the built-in evaluation photos, from real bitstreams: the mean over
seeds of the BD-rate against the twin of the same seed, with a 95 % bootstrap interval over seeds
and photos together; the same against `alone`; and the spread over seeds of the BD-rate against the
anchor, `teacher:default`. It writes reports/distillation/figures.{json,md,svg}.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.publish import ROOT, markdown, publish
from benchmarks.setting import bench_in
from kdbench.errors import KdbenchError, QualityGapError
from kdbench.files import load
from kdbench.rd import bd_rate_over_seeds
from kdbench.records import (
    BDRate,
    Distillation,
    Hyper,
    Latent,
    Training,
    Transform,
    TrialResult,
    TrialSpec,
    plain,
)
from kdbench.store import TrialFolder, keep_result
from kdbench.teacher import load_teacher
from kdbench.trial import run_trial

REPORT = ROOT / "reports" / "distillation" / "figures.json"
ANCHOR = "teacher:default"
DEFAULT = "default"
SEEDS = (0, 1, 2)
WHY_NOT = "why_not.txt"  # of a training that cannot be compared
N_CROPS = 512
RATES = (2.4e-3, 4.8e-3, 9.6e-3)
RATES_WIDE = (1.2e-3, *RATES)  # of encoders of 32 and more, whose best was the lowest of `RATES`
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
SHORT, LONG = 300, 1200  # after 150 a student shares too little quality with the anchor
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
    ("16", SHORT, "mean_scale", (TWIN, BEST)),
    ("32", SHORT, DEFAULT, ("latent 0.3", "latent 1", "all, decaying")),
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
        known = [(r, rate) for r, rate in zip(results, rates, strict=True) if r is not None]
        if not known or not all(self._is_tried(run, rate) for rate in rates):
            return None
        return min(known, key=lambda pair: pair[0].losses["validation"])

    def make(self, run: Run) -> None:
        """Trains whatever `run` lacks."""
        for rate in self._rates(run):
            if not self._is_tried(run, rate):
                folder = self._folder(run, rate)
                spec = spec_of(run, rate, self._rd_lambdas)
                try:
                    result = run_trial(spec, self._bench, lambda rung: True, folder)
                except QualityGapError as why:  # so bad that no curve compares: not the best rate
                    (folder / WHY_NOT).write_text(why.problem)
                    print(run, rate, why.problem, flush=True)
                    continue
                keep_result(TrialFolder(folder), result)
                loss, seconds = result.losses["validation"], result.seconds["training"]
                print(run, rate, f"{loss:.4f}, {seconds:.0f} s", flush=True)

    def _rates(self, run: Run) -> tuple[float, ...]:
        """Learning rates to try: all with the first seed of a tuned case, else the one it chose."""
        tuned = run.case if run.case in TUNED else TWIN
        first = replace(run, case=tuned, seed=SEEDS[0])
        if run == first:
            return RATES if run.student == "16" else RATES_WIDE
        best = self.found(first)
        return () if best is None else (best[1],)

    def _folder(self, run: Run, rate: float) -> Path:
        other = "" if run.teacher == DEFAULT else f" {run.teacher}"
        return self._root / f"{run.student} {run.steps} {run.case} {run.seed} {rate:g}{other}"

    def _is_tried(self, run: Run, rate: float) -> bool:
        folder = self._folder(run, rate)
        return (folder / "result.json").is_file() or (folder / WHY_NOT).is_file()

    def _load(self, run: Run, rate: float) -> TrialResult | None:
        path = self._folder(run, rate) / "result.json"
        return load(path, TrialResult) if path.is_file() else None


# --- report ----------------------------------------------------------------------------------


def against(laboratory: Laboratory, run: Run, control: Run) -> tuple[BDRate, int] | None:
    """BD-rate of a case to its control over the seeds that both have, and how many those are."""
    pairs = []
    for seed in SEEDS:
        own = laboratory.found(replace(run, seed=seed))
        other = laboratory.found(replace(control, seed=seed))
        if own is not None and other is not None:
            pairs.append((own[0].rd, other[0].rd))
    if not pairs:
        return None
    return bd_rate_over_seeds([own for own, _ in pairs], [other for _, other in pairs]), len(pairs)


def compared(laboratory: Laboratory, first: Run) -> dict[str, Any] | None:
    """The case of `first` against its twin and against a student alone; None without a twin."""
    to_twin = against(laboratory, first, replace(first, case=TWIN))
    if to_twin is None:
        return None
    to_alone = against(laboratory, first, replace(first, case=ALONE, teacher=DEFAULT))
    found = [laboratory.found(replace(first, seed=seed)) for seed in SEEDS]
    results, rates = zip(*[pair for pair in found if pair is not None], strict=True)
    to_anchor = [score.pct for result in results if (score := result.bd_rate) is not None]
    return {
        "student": first.student,
        "steps": first.steps,
        "teacher": first.teacher,
        "case": first.case,
        "n_seeds": to_twin[1],
        "learning_rate": rates[0],
        "to_twin": plain(to_twin[0]),
        "to_alone": None if to_alone is None else plain(to_alone[0]),
        "to_anchor_pct": fmean(to_anchor),
        "spread_over_seeds_pct": stdev(to_anchor) if len(to_anchor) > 1 else None,
        "validation_loss": fmean(r.losses["validation"] for r in results),
        "training_s": fmean(r.seconds["training"] for r in results),
    }


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["low_pct"] is None:
        return f"{found['pct']:+.1f}"
    return f"{found['pct']:+.1f} [{found['low_pct']:+.1f}, {found['high_pct']:+.1f}]"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a case."""
    cells = []
    for row in rows:
        spread = row["spread_over_seeds_pct"]
        cells.append(
            [
                row["student"],
                str(row["steps"]),
                row["teacher"],
                row["case"],
                str(row["n_seeds"]),
                f"{row['learning_rate']:g}",
                "" if row["case"] == TWIN else _cell(row["to_twin"]),
                "" if row["case"] == ALONE else _cell(row["to_alone"]),
                f"{row['to_anchor_pct']:+.1f}",
                "-" if spread is None else f"{spread:.1f}",
                f"{row['validation_loss']:.4f}",
                f"{row['training_s']:.0f}",
            ]
        )
    heads = ["student", "steps", "teacher", "case", "seeds", "rate", "to twin %", "to alone %"]
    heads += ["to anchor %", "spread", "validation loss", "train s"]
    return markdown(heads, cells, left=4)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain over the twin against training length, and of each term at `SHORT`, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.hashsalt": "kdbench", "font.size": 9, "axes.grid": True}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    shown = [row for row in rows if row["teacher"] == DEFAULT and row["case"] not in TUNED]
    for student, colour in (("16", "#0072b2"), ("32", "#d55e00")):
        for case, line in ((BEST, "-"), ("latent 0.3", "--")):
            own = [row for row in shown if (row["student"], row["case"]) == (student, case)]
            if own:
                x = [row["steps"] for row in own]
                bars = dict(
                    fmt=f"o{line}", color=colour, capsize=3, label=f"width {student}, {case}"
                )
                left.errorbar(x, *_with_bars(own), **bars)
    left.set_xscale("log")
    left.set_xticks([SHORT, LONG], labels=[str(SHORT), str(LONG)], minor=False)
    left.set_xticks([], minor=True)
    left.set_xlabel("training steps")
    left.set_ylabel("BD-rate to the twin %, 95 % over seeds and photos")
    left.legend()
    terms = [row for row in shown if (row["student"], row["steps"]) == ("16", SHORT)][::-1]
    names = [f"{row['case']} ({row['n_seeds']})" for row in terms]
    values, errors = _with_bars(terms)
    right.barh(names, values, xerr=errors, color="#56b4e9", capsize=3)
    right.set_xlabel(f"BD-rate to the twin %, width 16, {SHORT} steps (seeds)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(0, color="black", linewidth=0.8)
    right.axvline(0, color="black", linewidth=0.8)
    figure.savefig(path, metadata={"Date": None})


def _with_bars(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """BD-rates to the twin, and how far their intervals reach below and above."""
    found = [row["to_twin"] for row in rows]
    low = [
        each["pct"] - (each["pct"] if each["low_pct"] is None else each["low_pct"])
        for each in found
    ]
    high = [
        (each["pct"] if each["high_pct"] is None else each["high_pct"]) - each["pct"]
        for each in found
    ]
    return [each["pct"] for each in found], [low, high]


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
    parser.add_argument("--only", type=int, choices=[SHORT, LONG])
    parser.add_argument(
        "--out", type=Path, default=REPORT, help="figures; table and drawing lie beside them"
    )
    arguments = parser.parse_args()
    laboratory = Laboratory(arguments.root)
    if arguments.what == "report":
        rows = report(laboratory)
        if not rows:
            sys.exit("nothing has been run yet")
        publish(arguments, table(rows), {"cases": rows})
        draw(rows, arguments.out.with_suffix(".svg"))
        return
    for run in runs(arguments.only):
        try:
            laboratory.make(run)
        except KdbenchError as why:
            print(run, why, flush=True)


if __name__ == "__main__":
    main()
