"""One tiny trial in a process of its own, to be killed: a checkpoint after every step.

    python -m tests.support.one_trial ROOT FOLDER     photos, teacher and cache in ROOT

Says on stdout what it does; ends with a line of its hashes.
"""

import dataclasses
import json
import sys
from pathlib import Path

from PIL import Image

from kdbench import train, trial
from kdbench.codecs.weights import codec_bytes
from kdbench.data import load_images
from kdbench.lease import Lease
from kdbench.records import (
    Bench,
    Data,
    Distillation,
    EnergyPlan,
    Hyper,
    Latent,
    Progress,
    Training,
    Transform,
    TrialSpec,
)
from kdbench.store import TrialFolder, keep_result
from tests.support.codecs import architecture, trained

RD_LAMBDAS = (0.0002, 0.0015, 0.009)
STEPS = 24
RUNGS = (6, 12, 18)


def prepare(root: Path) -> None:
    """Photos of the three roles, and a teacher."""
    photos = load_images("builtin", "train")
    for column, (role, n) in enumerate((("train", 3), ("validation", 1), ("evaluation", 2))):
        (root / role).mkdir(parents=True)
        for i in range(n):
            part = photos.image(i)[64 * i : 64 * i + 192, 160 * column : 160 * (column + 1)]
            Image.fromarray(part).save(root / role / f"{i}.png")
    plan = architecture(24, hyper=8, latent=64, n_levels=3)
    made = trained(plan, 10, rd_lambdas=RD_LAMBDAS, learning_rate=1e-4)
    card = {"training": {"rd_lambdas": list(RD_LAMBDAS)}}
    (root / "teacher.safetensors").write_bytes(codec_bytes(made, card))


def spec_in(root: Path) -> TrialSpec:
    """A narrow student of that teacher."""
    return TrialSpec(
        encoder=Transform(width=24),
        decoder=Transform(width=20, kernel=3, activation="relu"),
        hyper=Hyper(width=8),
        latent=Latent(channels=64),
        distillation=Distillation(
            teacher=f"file:{root / 'teacher.safetensors'}", latent=0.1, output=0.5, entropy=0.1
        ),
        training=Training(
            steps=STEPS, batch=4, crop_px=64, rd_lambdas=RD_LAMBDAS, learning_rate=1e-4
        ),
        seed=0,
    )


def bench_in(root: Path) -> Bench:
    """On one thread of the CPU, without a meter."""
    roles = {role: str(root / role) for role in ("train", "validation", "evaluation")}
    return Bench(
        data=Data(**roles, crops=24, cache_gib=0.1),
        anchor=f"file:{root / 'teacher.safetensors'}",
        energy=EnergyPlan(meter="none"),
        device="cpu",
        precision="fp32",
        threads=1,
        cache=str(root / "cache"),
        rungs=RUNGS,
    )


def main() -> None:
    root, folder = map(Path, sys.argv[1:])

    def tell(progress: Progress) -> None:
        print(json.dumps(dataclasses.asdict(progress)), flush=True)

    train.CHECKPOINT_S = -1.0
    vars(trial)["host_lease"] = lambda: Lease(root / "lease")
    result = trial.run_trial(spec_in(root), bench_in(root), lambda rung: True, folder, tell)
    keep_result(TrialFolder(folder), result)
    print(json.dumps({"hashes": dict(result.hashes), "losses": dict(result.losses)}), flush=True)


if __name__ == "__main__":
    main()
