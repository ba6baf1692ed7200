"""The first ten losses of a fixed tiny student: what a change that should change nothing keeps.

Made by `python -m tests.golden.test_first_steps` (prints them); say in the commit why they moved.
"""

import numpy as np
import pytest
import torch

from kdbench.distill import Distiller, Targets
from kdbench.records import Distillation, Training
from kdbench.train import Batch, levels_of_step, step_rng, to_tensor, train
from tests.support.codecs import RD_LAMBDAS, architecture, crops, finished, started

STEPS = 10
TOLERANCE = 0.01  # other CPUs round otherwise: 0.35 % from AVX512 to SSE4.1, 2026-11-23
ALONE = [10.63217, 7.532, 1.76154, 0.74399, 0.7327, 2.45649, 3.06275, 2.27299, 1.10138, 1.45543]
DISTILLED = [
    13.3209,
    9.74008,
    2.61616,
    0.84577,
    1.07737,
    4.11577,
    4.79524,
    2.95295,
    1.34173,
    2.08478,
]


def first_losses(*, distilled: bool) -> list[float]:
    """Losses of ten steps, with or without a teacher."""
    student = started(architecture(8, 12, hyper=8, latent=24))
    teacher = finished(architecture(12, hyper=8, latent=24), seed=1)
    plan = Distillation(
        teacher="teacher:tiny",
        latent=0.1,
        hyper_latent=0.1,
        output=0.5,
        entropy=0.1,
        temperature=2.0,
    )
    pixels = crops(32)

    @torch.no_grad()
    def batch(step: int) -> Batch:
        rng = step_rng(0, step)
        x = to_tensor(pixels[rng.choice(len(pixels), 4, replace=False)], "cpu")
        levels = levels_of_step(rng, 4, 2)
        if not distilled:
            return Batch(x, levels, None)
        out = teacher(x, levels)
        return Batch(x, levels, Targets.of(out))

    log = train(
        student,
        batch,
        Training(steps=STEPS, batch=4, crop_px=64, rd_lambdas=RD_LAMBDAS, learning_rate=1e-3),
        distiller=Distiller(plan, student.architecture, teacher.architecture.offer)
        if distilled
        else None,
        seed=0,
        device="cpu",
        precision="fp32",
        log_every=1,
    )
    return [row["loss"] for row in log.rows]


@pytest.mark.parametrize(("distilled", "expected"), [(False, ALONE), (True, DISTILLED)])
def test_the_first_ten_losses_are_the_committed_ones(
    distilled: bool, expected: list[float]
) -> None:
    np.testing.assert_allclose(first_losses(distilled=distilled), expected, rtol=TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ALONE =", [round(loss, 5) for loss in first_losses(distilled=False)])
    print("DISTILLED =", [round(loss, 5) for loss in first_losses(distilled=True)])
