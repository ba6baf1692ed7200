"""What a codec costs, known before any training: MACs, parameters, memory, energy.

Weights do not matter for the first three and hardly for the last, so each figure is found once per
architecture (and device) and shared by all trials.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.complexity import measure_complexity
from kdbench.data import ImageSet
from kdbench.device import Lease, fingerprint, fingerprint_hash, synchronise
from kdbench.energy import EnergyMeter, measure, pick
from kdbench.records import (
    MEASUREMENT_PROTOCOL,
    Bench,
    CodecEnergy,
    Complexity,
    EnergyPlan,
    Operation,
    content_hash,
)
from kdbench.files import cached

LEASE_TIMEOUT_S = 600.0


def complexity_of(model: Hyperprior, cache: Path) -> Complexity:
    """MACs, parameters and peak memory of `model`'s architecture."""
    key = content_hash([model.architecture, MEASUREMENT_PROTOCOL])
    return cached(cache / f"complexity-{key}.json", Complexity, lambda: measure_complexity(model))


def energy_of(
    model: Hyperprior, images: ImageSet, bench: Bench, lease: Lease, *, fresh: bool = False
) -> CodecEnergy | None:
    """J per megapixel of `model`, encode and decode apart; None where the study has no meter.

    The middle level on the first photo, under the host's exclusive lease.

    Args:
        model: Finalised, on its device; weights may be the started ones.
        images: The evaluation photos.
        bench: Meter, windows, device, cache.
        lease: Not held by the caller.
        fresh: Measures even if the cache has a figure, and leaves the cache alone.
    """
    meter = pick(bench.energy, bench.device)
    if meter is None:
        return None
    device = fingerprint(bench.device, threads=bench.threads)

    def compute() -> CodecEnergy:
        with lease.exclusive(LEASE_TIMEOUT_S):
            return measure_codec(model, images.image(0), meter, bench.energy, device)

    if fresh:
        return compute()
    key = content_hash(
        [model.architecture, device, meter.name, meter.detail, bench.energy, images.sha]
        + [MEASUREMENT_PROTOCOL]
    )
    return cached(Path(bench.cache) / f"energy-{key}.json", CodecEnergy, compute)


def measure_codec(
    model: Hyperprior,
    image: np.ndarray,
    meter: EnergyMeter,
    plan: EnergyPlan,
    device: Mapping[str, str],
) -> CodecEnergy:
    """Encode and decode of one photo at the middle level; the caller holds the lease."""
    level = model.architecture.n_levels // 2
    n_pixels = image[..., 0].size
    data = encode_image(model, image, level)
    where = str(next(model.parameters()).device)

    def run(operation: Operation, work: Callable[[], object]) -> int:
        work()
        synchronise(where)
        return n_pixels

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        readings = {
            operation: measure(
                operation, lambda o=operation, w=work: run(o, w), meter=meter, plan=plan
            )
            for operation, work in (
                ("encode", lambda: encode_image(model, image, level)),
                ("decode", lambda: decode_image(model, data)),
            )
        }
    finally:
        torch.set_num_threads(threads)
    return CodecEnergy(
        encode=readings["encode"],
        decode=readings["decode"],
        device=fingerprint_hash(device),
    )
