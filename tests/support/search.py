"""A study whose trials cost nothing: a stub in place of `trial.run_trial`."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench.config import StudyConfig, load_study
from kdbench.errors import TrainingError
from kdbench.records import (
    BDRate,
    Bench,
    CodecEnergy,
    Complexity,
    EnergyReading,
    Operation,
    Progress,
    RDCurve,
    RDPoint,
    Rung,
    TrialResult,
    TrialSpec,
)
from kdbench.search.ground import Ground

STUDY = """
space:
  name: tiny
  encoder: {width: [16, 24, 32, 48, 64], kernel: [3, 5], activation: [gdn, relu]}
  decoder: {width: [16, 24, 32, 48, 64], kernel: 5, activation: gdn}
  hyper: {width: 16}
  latent: {channels: 64}
  training: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
objectives: [bd_rate_pct, kmac_per_px]
trials: 4
training: {steps: 10, batch: 2, crop_px: 64, rd_lambdas: [0.001, 0.003, 0.01, 0.03, 0.1]}
energy: {meter: none}
"""
GROUND = Ground(
    device="cpu",
    teachers={},
    teacher_coordinates={},
    crops="c0ffee",
    anchor="jpeg",
    meter=None,
    fingerprint={"cpu": "abacus"},
)


class Stopped(Exception):  # noqa: N818
    """What a trial raises when its gate says no."""


def study(folder: Path, *overrides: str, name: str = "demo") -> StudyConfig:
    """The study above with `--set` overrides."""
    path = folder / f"{name}.yaml"
    path.write_text(STUDY)
    return load_study(path, overrides)


def costs(spec: TrialSpec) -> dict[str, float]:
    """What a student of the stub costs: the wider, the more."""
    kmac = spec.encoder.width + 2.0 * spec.decoder.width
    return {"params": 1000.0 * kmac, "kmac_per_px": kmac, "decoder_kmac_per_px": kmac / 2}


def result(spec: TrialSpec, *, energy_j_per_mpx: float | None = None) -> TrialResult:
    """What the stub finds: the wider, the better; a function of the spec alone."""
    kmac = costs(spec)["kmac_per_px"]
    pct = 1000.0 / kmac + abs(spec.training.learning_rate - 1e-3) * 1e3
    energy = None
    if energy_j_per_mpx is not None:
        encode, decode = (reading(op, energy_j_per_mpx / 2) for op in ("encode", "decode"))
        energy = CodecEnergy(encode=encode, decode=decode, device="abacus")
    return TrialResult(
        rd=RDCurve(
            images=("a.png",),
            points=(RDPoint(level=0, bpp=0.1, psnr_db=28.0),),
            image_bpp=((0.1,),),
            image_psnr_db=((28.0,),),
        ),
        bd_rate=BDRate(pct=pct, low_pct=None, high_pct=None, overlap_db=3.0),
        complexity=Complexity(
            params=int(1000 * kmac), g_a=kmac / 2, h_a=0, h_s=0, g_s=kmac / 2, entropy_model=0
        ),
        energy=energy,
        seconds={"training": 0.0},
        hashes={"weights": spec.hash, "bitstreams": spec.hash},
        losses={"train": 1.0, "validation": 1.0},
        environment={},
    )


def reading(operation: Operation, j_per_mpx: float) -> EnergyReading:
    """A figure of the replay meter."""
    return EnergyReading(
        operation=operation,
        source="replay",
        meter="replay",
        detail="recorded",
        gross_j_per_mpx=(j_per_mpx,),
        net_j_per_mpx=None,
        idle_before_w=None,
        idle_after_w=None,
        window_s=1.0,
        images_per_window=1,
        s_per_mpx=0.1,
    )


def shown(spec: TrialSpec, step: int) -> Rung:
    """What a student of the stub shows on its way: in the order of what it will find."""
    pct = result(spec).bd_rate_pct
    assert pct is not None
    return Rung(stage="training", step=step, values={"validation_loss": pct / step}, seconds=step)


Gate = Callable[[Rung], bool]
Report = Callable[[Progress], None]


def run(
    spec: TrialSpec,
    bench: Bench,
    gate: Gate,
    folder: Path,
    on_progress: Report,
    *,
    seconds: float = 0.0,
    until: Path | None = None,
    diverges: Sequence[int] = (),
) -> TrialResult:
    """The stub: asks the gate, steps for `seconds`, fails for encoder widths in `diverges`.

    With `until` it steps on until that file is there.
    """
    if not gate(Rung(stage="cost", step=0, values=costs(spec))):
        raise Stopped
    for rung in bench.rungs:
        if not gate(shown(spec, rung)):
            raise Stopped
    end = time.monotonic() + seconds
    step = 0
    while time.monotonic() < end or not (until is None or until.exists()):
        step += 1
        on_progress(Progress(stage="training", step=step, n_steps=100, loss=1.0))
        time.sleep(0.01)
    if spec.encoder.width in diverges:
        raise TrainingError("the loss is NaN at step 3", fix="lower the learning rate")
    return result(spec)
