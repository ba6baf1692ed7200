"""A small study on disk, made by hand: round figures, so that a test can know the answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.bench import CodecFigures
from kdbench.files import write_json
from kdbench.records import (
    BDRate,
    CodecEnergy,
    Complexity,
    Distillation,
    EnergyReading,
    GradientShares,
    Hyper,
    Latent,
    Operation,
    RDCurve,
    RDPoint,
    Rung,
    Source,
    Training,
    Transform,
    TrialResult,
    TrialSpec,
)
from kdbench.store import Failure, Store, StoredStudy

STUDY = "tiny"
OBJECTIVES = ["bd_rate_pct", "kmac_per_px", "energy_j_per_mpx"]
SETTINGS = {"name": STUDY, "objectives": OBJECTIVES, "anchor": "teacher:default"}
SPEC = TrialSpec(
    encoder=Transform(width=32),
    decoder=Transform(width=16, kernel=3, activation="relu"),
    hyper=Hyper(width=16),
    latent=Latent(channels=192),
    distillation=Distillation(teacher="teacher:default", latent=0.1),
    training=Training(
        steps=800, batch=8, crop_px=128, rd_lambdas=(0.0018, 0.0067, 0.025), learning_rate=1e-3
    ),
    seed=0,
    stands_on={"teacher": "ab12", "crops": "cd34", "code": "0.1.0"},
)


def curve(scale: float = 1.0) -> RDCurve:
    """Two images, three levels; bits times `scale`."""
    points = [(0, 0.1, 27.0, 0.91), (1, 0.25, 30.0, 0.95), (2, 0.6, 33.5, 0.98)]
    bpp = tuple((0.8 * b * scale, 1.2 * b * scale) for _, b, _, _ in points)
    return RDCurve(
        images=("a.png", "b.png"),
        points=tuple(
            RDPoint(level=level, bpp=b * scale, psnr_db=p, ms_ssim=m) for level, b, p, m in points
        ),
        image_bpp=bpp,
        image_psnr_db=tuple((p + 0.5, p - 0.5) for _, _, p, _ in points),
        estimated_over_real_bits=0.999,
        encode_s_per_mpx=0.5,
        decode_s_per_mpx=0.75,
    )


def reading(operation: Operation, joules: float, source: Source) -> EnergyReading:
    """Three windows around `joules` a megapixel."""
    return EnergyReading(
        operation=operation,
        source=source,
        meter="replay" if source == "replay" else "codecarbon",
        detail="cpu_load x 8 W (process)",
        gross_j_per_mpx=(0.9 * joules, joules, 1.1 * joules),
        net_j_per_mpx=None,
        idle_before_w=None,
        idle_after_w=None,
        window_s=1.0,
        images_per_window=4,
        s_per_mpx=0.5,
        flags=("noisy: 8 % interval",) if operation == "encode" else (),
    )


def energy(joules: float, source: Source = "model") -> CodecEnergy:
    """A third for encoding."""
    return CodecEnergy(
        encode=reading("encode", joules / 3, source),
        decode=reading("decode", joules * 2 / 3, source),
        device="d00d",
    )


def result(
    bd_rate_pct: float,
    width: int,
    joules: float | None,
    *,
    seconds: float = 38.4,
    output_share: float = 0.1,
) -> TrialResult:
    """A student of `width` channels: 0.1 kMAC/px and 10,000 parameters a channel."""
    share = width / 10
    return TrialResult(
        rd=curve(1 + bd_rate_pct / 100),
        bd_rate=BDRate(
            pct=bd_rate_pct, low_pct=bd_rate_pct - 6, high_pct=bd_rate_pct + 7.5, overlap_db=6.5
        ),
        complexity=Complexity(
            params=10_000 * width,
            g_a=0.4 * share,
            h_a=0.05 * share,
            h_s=0.1 * share,
            g_s=0.4 * share,
            entropy_model=0.05 * share,
            peak_memory_bytes=width << 20,
        ),
        energy=None if joules is None else energy(joules),
        seconds={"cost": 0.5, "training": seconds, "evaluation": 12.0, "waiting": 0.0},
        hashes={"weights": f"w{width}", "bitstreams": f"b{width}"},
        losses={"train": 1.25, "validation": 1.5},
        environment={"threads": "1", "torch": "2.14.1", "cpu": "AMD EPYC"},
        gradient_shares=(shares(0, output_share), shares(799, output_share / 2)),
    )


def shares(step: int, output: float) -> GradientShares:
    """A latent term that is alive in g_a, an output term with a share of `output` of g_s."""
    of = {
        "rate": {"g_a": 0.25, "h": 1.0, "g_s": 0.0},
        "distortion": {"g_a": 0.25, "h": 0.0, "g_s": 1 - output},
        "latent": {"g_a": 0.5, "h": 0.0, "g_s": 0.0},
        "output": {"g_a": 0.0, "h": 0.0, "g_s": output},
    }
    return GradientShares(step=step, shares=of)


TEACHER = CodecFigures(
    codec="teacher:default",
    sha="ab12",
    rd=curve(),
    complexity=Complexity(
        params=6_400_000,
        g_a=40,
        h_a=5,
        h_s=5,
        g_s=40,
        entropy_model=0.5,
        peak_memory_bytes=64 << 20,
    ),
    energy=energy(30.0),
)


def spec(number: int) -> TrialSpec:
    """The spec of trial `number`."""
    return replace(SPEC, encoder=Transform(width=16 + number), seed=number)


def make_study(
    root: Path, *, with_anchor: bool = True, settings: Mapping[str, Any] = SETTINGS
) -> Store:
    """Six trials: 0, 1, 3 complete (0 and 3 on the front), one infeasible, one failed, one runs."""
    store = Store(root)
    store.create_study(StoredStudy(name=STUDY, settings=settings, fixed={"anchor": "ab12"}))
    if with_anchor:
        write_json(store.anchor_file(STUDY), TEACHER)
    for number in range(6):
        store.begin_trial(STUDY, number, spec(number))
    store.save_result(STUDY, 0, result(77.1, 16, 4.5))
    store.save_result(STUDY, 1, result(90.0, 32, 7.0, seconds=61.0))  # beaten by trial 0
    refused = Failure(
        state="infeasible",
        problem="params is 3,400,000, above the limit of 3,000,000",
        fix="raise `constraints.params_max`",
        values={"params": 3.4e6, "kmac_per_px": 64.0},
    )
    store.save_failure(STUDY, 2, refused)
    store.save_result(STUDY, 3, result(12.25, 64, 12.0, seconds=104.7, output_share=2e-4))
    store.save_trained_energy(STUDY, 3, energy(12.3))
    broke = Failure(
        state="failed",
        problem="the loss became nan at step 312 of 800",
        fix="lower `training.learning_rate`; this trial failed, the study goes on",
    )
    store.save_failure(STUDY, 4, broke)
    return store


def add_stopped(store: Store) -> None:
    """Trial 6, which the ladder stopped at its second rung."""
    store.begin_trial(STUDY, 6, spec(6))
    values = {"params": 180_000.0, "kmac_per_px": 1.8, "energy_j_per_mpx": 6.0}
    rungs = tuple(
        Rung(stage="training", step=step, values={**values, "validation_loss": loss}, seconds=step)
        for step, loss in ((80, 2.0), (240, 1.75))
    )
    store.save_rungs(STUDY, 6, rungs)
    stopped = Failure(
        state="stopped",
        problem="stopped after 240 of 800 steps: of 5 trials that came so far others did better",
        fix="nothing to do, the search goes on",
        values=rungs[-1].values,
    )
    store.save_failure(STUDY, 6, stopped)
