"""What the timing benchmarks have in common: students, bench, and how a step is summed up."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

from kdbench.records import (
    Bench,
    Data,
    Distillation,
    EnergyPlan,
    Hyper,
    Latent,
    Training,
    Transform,
    TrialSpec,
)
from kdbench.train import Batch

BLOCK = 10  # steps
Batches = Callable[[int], Batch]


def typical_ms(seconds: Sequence[float], block: int = BLOCK) -> float:
    """Median of the means of whole blocks, the first one left out [ms]."""
    blocks = [seconds[i : i + block] for i in range(block, len(seconds) - block + 1, block)]
    return 1000 * median(fmean(each) for each in blocks)


def cpu_s_of(pid: int | None) -> float:
    """CPU seconds that a process has used: fields 14 and 15 of its `stat`; 0 of None."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spec_of(width: int, steps: int, teacher: str, rd_lambdas: tuple[float, ...]) -> TrialSpec:
    """A uniform student; weights in the middle of the default space."""
    return TrialSpec(
        encoder=Transform(width=width),
        decoder=Transform(width=width),
        hyper=Hyper(width=width),
        latent=Latent(channels=192),
        distillation=Distillation(
            teacher=teacher, latent=0.1, hyper_latent=0.25, output=0.5, entropy=0.25
        ),
        training=Training(
            steps=steps, batch=8, crop_px=128, rd_lambdas=rd_lambdas, learning_rate=1e-3
        ),
        seed=0,
    )


def bench_in(folder: Path, n_crops: int) -> Bench:
    """The bench of a trial on one thread of the CPU, its cache in `folder`."""
    return Bench(
        data=Data(crops=n_crops),
        anchor="teacher:default",
        energy=EnergyPlan(meter="none"),
        device="cpu",
        precision="auto",
        threads=1,
        cache=str(folder),
    )
