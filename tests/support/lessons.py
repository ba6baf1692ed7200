"""Lessons of tiny students."""

from pathlib import Path
from typing import Any

from kdbench.data import CropList
from kdbench.lesson import Lesson
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

BATCH = 6


def spec_of(
    teacher: str,
    rd_lambdas: tuple[float, ...],
    *,
    channels: int = 16,
    prior: str = "scale",
    **weights: Any,
) -> TrialSpec:
    """A student of 8 channels under `teacher`."""
    return TrialSpec(
        encoder=Transform(width=8),
        decoder=Transform(width=8),
        hyper=Hyper(width=8, prior=prior),  # type: ignore[arg-type]
        latent=Latent(channels=channels),
        distillation=Distillation(teacher=teacher, **weights),
        training=Training(
            steps=4, batch=BATCH, crop_px=64, rd_lambdas=rd_lambdas, learning_rate=1e-3
        ),
        seed=0,
    )


def opened(
    given: TrialSpec,
    folder: Path,
    crops: CropList,
    cache_gib: float = 1.0,
    start: str | None = None,
) -> Lesson:
    """The lesson of `given` on the CPU, its cache in `folder`."""
    bench = Bench(
        data=Data(crops=crops.n, cache_gib=cache_gib),
        anchor="jpeg",
        energy=EnergyPlan(meter="none"),
        device="cpu",
        precision="fp32",
        threads=1,
        cache=str(folder / "cache"),
        start=start,
    )
    return Lesson.open(given, bench, crops, lambda _: None)
