"""Students whose transforms train in bf16 (but for the end) against fp32: what is lost and won.

    python -m benchmarks.precision                     about an hour on a free core
    python -m benchmarks.precision --widths 16 --steps 100 --seeds 2 --crops 32       a smoke test

Uniform students of the default study's plan: seed, crops, batches and start are one pair's, the
precision differs. Both code the built-in evaluation photos into real files; BD-rate [%] of bf16's
curve against fp32's, positive: bf16 needs more bits. Trainings that round differently part as those
of two seeds do, so a pair says little: the table has the mean over pairs and its 95 % interval (t).
The two of a pair train one after the other, whichever begins in turn; CPU seconds are the trial's.
The teacher's cache is filled before. Pairs are kept in `--root`, and the same command goes on from
there.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import bench_in, spec_of
from kdbench.data import CropList
from kdbench.device import keep_freed_memory, supports_bf16
from kdbench.files import write_atomic
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.rd import bd_rate
from kdbench.records import Distillation, TrialResult, TrialSpec
from kdbench.trial import run_trial

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One student, trained in both precisions.

    Attributes:
        bd_rate_pct: Of bf16 against fp32.
        loss_pct: Likewise, of the validation loss.
        cpu_s: Of each training, fp32's first.
    """

    width: int
    seed: int
    bd_rate_pct: float
    loss_pct: float
    cpu_s: tuple[float, float]


def trained(spec: TrialSpec, precision: str, root: Path, n_crops: int) -> tuple[TrialResult, float]:
    """The student of `spec`, and the CPU seconds of its trial."""
    kept: Any = {"anchor": "jpeg", "precision": precision}
    bench = replace(bench_in(root / "cache", n_crops), **kept)
    Lesson.open(spec, bench, crops_of(spec, n_crops), lambda _: None)
    began = time.process_time()
    result = run_trial(
        spec, bench, lambda _: True, root / f"{spec.encoder.width}-{spec.seed}-{precision}"
    )
    return result, time.process_time() - began


def crops_of(spec: TrialSpec, n_crops: int) -> CropList:
    """What all train on."""
    side = spec.training.crop_px
    return study_crops(study_photos("builtin", "builtin", "builtin", side)["train"], n_crops, side)


def pair(spec: TrialSpec, root: Path, n_crops: int) -> Pair:
    """Both trainings; even seeds begin with fp32, odd ones with bf16."""
    kept = root / f"pair-{spec.encoder.width}-{spec.seed}.json"
    if kept.exists():
        return Pair(**json.loads(kept.read_text()))
    order = PRECISIONS if spec.seed % 2 == 0 else PRECISIONS[::-1]
    found = {precision: trained(spec, precision, root, n_crops) for precision in order}
    (fp32, fp32_s), (bf16, bf16_s) = (found[precision] for precision in PRECISIONS)
    made = Pair(
        width=spec.encoder.width,
        seed=spec.seed,
        bd_rate_pct=bd_rate(bf16.rd, fp32.rd).pct,
        loss_pct=100 * (bf16.losses["validation"] / fp32.losses["validation"] - 1),
        cpu_s=(fp32_s, bf16_s),
    )
    write_atomic(kept, json.dumps(asdict(made)).encode())
    print(made, flush=True)
    return made


def interval(values: Sequence[float]) -> str:
    """Mean [95 % interval by Student's t]; of one value no interval."""
    mean, n = fmean(values), len(values)
    if n < 2:
        return f"{mean:+.2f}"
    half = t.ppf(0.975, n - 1) * stdev(values) / math.sqrt(n)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def table(pairs: Sequence[Pair]) -> str:
    """One row a width, and one of all."""
    widths = sorted({each.width for each in pairs})
    groups = [(str(width), [each for each in pairs if each.width == width]) for width in widths]
    rows = [
        [
            name,
            f"{len(found)}",
            interval([each.bd_rate_pct for each in found]),
            interval([each.loss_pct for each in found]),
            *(f"{fmean(each.cpu_s[i] for each in found):.0f}" for i in (0, 1)),
            f"{fmean(each.cpu_s[0] / each.cpu_s[1] for each in found):.2f}",
        ]
        for name, found in [*groups, ("all", list(pairs))]
    ]
    heads = ["N", "pairs", "BD-rate % of bf16 to fp32", "validation loss %"]
    return markdown([*heads, "fp32 CPU s", "bf16 CPU s", "fp32 / bf16"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=6, help="how many")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--crops", type=int, default=768, help="training crops, built-in photos")
    parser.add_argument("--teacher", default="teacher:default")
    parser.add_argument("--root", type=Path, default=Path("runs/precision"))
    add_out(parser, "precision")
    arguments = parser.parse_args()
    if not supports_bf16("cpu"):
        parser.error("this processor has no bf16 products: `auto` means fp32 here")
    keep_freed_memory()
    pairs = []
    for seed in range(arguments.seeds):
        for width in arguments.widths:
            spec = spec_of(width, arguments.steps, arguments.teacher, RD_LAMBDAS)
            spec = replace(
                spec,
                hyper=replace(spec.hyper, width=64),
                distillation=Distillation(
                    teacher=arguments.teacher, latent=0.3, schedule="decaying"
                ),
                training=replace(spec.training, learning_rate=1.5e-3),
                seed=seed,
            )
            pairs.append(pair(spec, arguments.root, arguments.crops))
        publish(arguments, table(pairs), {"pairs": [asdict(each) for each in pairs]})


if __name__ == "__main__":
    main()
