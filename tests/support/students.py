"""A stored study whose trial 0 has a real student, real photos and the curve it really has."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_bytes
from kdbench.config import load_study, settings
from kdbench.data import load_images
from kdbench.evaluate import evaluate_learned
from kdbench.files import write_json
from kdbench.records import Distillation, Hyper, Latent, Prior, Training, Transform, TrialSpec
from kdbench.store import Store
from tests.support.codecs import trained
from tests.support.desk import make_photos
from tests.support.results import OBJECTIVES, STUDY, make_study, result

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
STEPS = 60


def spec_of(prior: Prior = "scale", n_levels: int = len(RD_LAMBDAS)) -> TrialSpec:
    """A tiny student that learns from nobody."""
    side = Transform(width=8)
    return TrialSpec(
        encoder=side,
        decoder=side,
        hyper=Hyper(width=8, prior=prior),
        latent=Latent(channels=16),
        distillation=Distillation(teacher="teacher:default"),
        training=Training(
            steps=STEPS,
            batch=4,
            crop_px=64,
            rd_lambdas=RD_LAMBDAS[:n_levels],
            learning_rate=5e-3,
        ),
        seed=0,
    )


@cache
def student(prior: Prior = "scale", n_levels: int = len(RD_LAMBDAS)) -> Hyperprior:
    """Trained for a few seconds, once a test run."""
    plan = spec_of(prior, n_levels).architecture
    return trained(plan, STEPS, rd_lambdas=RD_LAMBDAS[:n_levels])  # type: ignore[arg-type]


def make_study_with_student(
    root: Path,
    *,
    prior: Prior = "scale",
    n_levels: int = len(RD_LAMBDAS),
    evaluated: bool = True,
) -> Store:
    """The study `tiny` under `root`/runs; photos under `root`/photos.

    Where it is not `evaluated` its curve is a made-up one.
    """
    make_photos(root / "photos")
    evaluation = f"data.evaluation={root / 'photos' / 'evaluation'}"
    config = load_study("smoke", [f"name={STUDY}", "anchor=teacher:default", evaluation])
    store = make_study(root / "runs", settings={**settings(config), "objectives": OBJECTIVES})
    files = store.trial(STUDY, 0)
    files.spec.unlink()
    store.trial(STUDY, 0).result.unlink()
    spec = spec_of(prior, n_levels)
    store.begin_trial(STUDY, 0, spec)
    data = codec_bytes(student(prior, n_levels), {"spec": spec})
    files.student.write_bytes(data)
    known = result(12.0, 16, 4.5)
    hashes = {**known.hashes, "weights": hashlib.sha256(data).hexdigest()}
    found = replace(known, bd_rate=known.bd_rate if n_levels > 1 else None, hashes=hashes)
    if evaluated:
        photos = load_images(root / "photos" / "evaluation", "evaluation")
        found = replace(found, rd=evaluate_learned(files.student, photos).curve)
    write_json(files.result, found)
    return store
