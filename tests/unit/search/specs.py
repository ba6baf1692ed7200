"""Specs for tests that need one and do not care which."""

from kdbench.records import Distillation, Hyper, Latent, Training, Transform, TrialSpec


def spec(width: int = 16) -> TrialSpec:
    return TrialSpec(
        encoder=Transform(width=width),
        decoder=Transform(width=width),
        hyper=Hyper(width=16),
        latent=Latent(channels=64),
        distillation=Distillation(),
        training=Training(
            steps=10, batch=2, crop_px=64, rd_lambdas=(0.001, 0.1), learning_rate=1e-3
        ),
        seed=0,
    )
