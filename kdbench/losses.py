"""Estimated losses of a codec on crops: no bitstream, so they cost a forward pass alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from kdbench.codecs.building import build
from kdbench.codecs.learned import LearnedCodec
from kdbench.distill import rate_distortion
from kdbench.metrics import find as find_metric
from kdbench.records import TrialSpec

Pixels = npt.NDArray[np.uint8]
CHUNK = 16


@torch.no_grad()
def estimated_loss(
    model: LearnedCodec, crops: Pixels, spec: TrialSpec, levels: Sequence[int] | None = None
) -> float:
    """R + rd_lambda 255^2 D [bit/px] on uint8 `crops` (n, 3, H, W), mean over `levels`.

    Of an auto-encoder, which nobody asked for few bits, the distortion alone.

    Args:
        model: Finalised; moved to the CPU.
        crops: What it codes.
        spec: Its rates.
        levels: None: all.
    """
    model.to("cpu").eval()
    rd_lambdas, metric = spec.training.rd_lambdas, find_metric(spec.training.distortion)
    x = torch.from_numpy(np.array(crops)).float() / 255
    total, asked = 0.0, range(len(rd_lambdas)) if levels is None else levels
    for level in asked:
        for chunk in torch.split(x, CHUNK):
            out = model(chunk, torch.full((len(chunk),), level))
            rd_lambda = torch.full((len(chunk),), rd_lambdas[level])
            found = rate_distortion(out, chunk, rd_lambda, metric)
            loss = found.distortion if spec.training.rate == "none" else found.loss
            total += float(loss) * len(chunk)
    return total / (len(x) * len(asked))


def rung_values(model: LearnedCodec, crops: Pixels, spec: TrialSpec) -> Mapping[str, float]:
    """What a codec in training shows at a rung: `validation_loss` of its middle level.

    One level in the middle orders codecs as a whole curve does (Kendall tau 0.995 over published
    curves; one at the end 0.89). `model` goes on training: a finalised copy is looked at.
    """
    with torch.random.fork_rng():  # the training's noise stays what it would be
        copy = build(model.architecture)
    copy.load_state_dict(model.state_dict())
    copy.finalise()
    middle = len(spec.training.rd_lambdas) // 2
    return {"validation_loss": estimated_loss(copy, crops, spec, [middle])}
