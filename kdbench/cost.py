"""What a codec costs, known before any training: MACs, parameters, memory, energy.

Weights do not matter for the first three and hardly for the last, so each figure is found once per
architecture (and device) and shared by all trials.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kdbench import plugins
from kdbench.codecs.bitfile import Image, decode_image, encode_image, lay_out
from kdbench.codecs.learned import LearnedCodec
from kdbench.data import ImageSet
from kdbench.device import fingerprint, fingerprint_hash, one_thread, synchronise
from kdbench.energy import EnergyMeter, measure, pick
from kdbench.lease import Lease
from kdbench.once import cached
from kdbench.records import (
    MEASUREMENT_PROTOCOL,
    Bench,
    CodecEnergy,
    Complexity,
    EnergyPlan,
    FamilyArchitecture,
    content_hash,
)

LEASE_TIMEOUT_S = 600.0
Answer = Callable[[], CodecEnergy]  # waits for it


class Elsewhere(Protocol):
    """Another device, whose energy counts in the place of this one's (`search.asking`).

    Attributes:
        before_training: Whether a trial needs the figure before it trains.
    """

    @property
    def before_training(self) -> bool: ...

    def ask(self, model: LearnedCodec) -> Answer:
        """Has a finalised student measured there; what it gives waits for the figure."""
        ...


def complexity_of(model: LearnedCodec, cache: Path) -> Complexity:
    """MACs, parameters and peak memory of `model`'s architecture."""
    from kdbench.complexity import measure_complexity

    key = content_hash([*_identity(model), MEASUREMENT_PROTOCOL])
    return cached(cache / f"complexity-{key}.json", Complexity, lambda: measure_complexity(model))


def energy_of(
    model: LearnedCodec, images: ImageSet, bench: Bench, lease: Lease, *, fresh: bool = False
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
    stands_on = [device, meter.name, meter.detail, bench.energy, images.sha]
    key = content_hash([*_identity(model), *stands_on, MEASUREMENT_PROTOCOL])
    return cached(Path(bench.cache) / f"energy-{key}.json", CodecEnergy, compute)


def architecture_key(model: LearnedCodec) -> str:
    """Names what decides a model's cost."""
    return content_hash(_identity(model))


def _identity(model: LearnedCodec) -> list[Any]:
    """What decides a model's cost: its architecture, of another package's family its code, too."""
    architecture = model.architecture
    if not isinstance(architecture, FamilyArchitecture):
        return [architecture]
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return [architecture, plugins.identity(architecture.codec.family, plugins.CODECS), shapes]


def measure_codec(
    model: LearnedCodec,
    image: Image,
    meter: EnergyMeter,
    plan: EnergyPlan,
    device: Mapping[str, str],
) -> CodecEnergy:
    """Encode and decode of one photo at the middle level; the caller holds the lease."""
    lay_out(model)
    level = model.architecture.n_levels // 2
    data = encode_image(model, image, level)
    where = str(next(model.parameters()).device)

    def encode() -> int:
        encode_image(model, image, level)
        return done()

    def decode() -> int:
        decode_image(model, data)
        return done()

    def done() -> int:
        synchronise(where)
        return image[..., 0].size

    with one_thread():
        return CodecEnergy(
            encode=measure("encode", encode, meter=meter, plan=plan),
            decode=measure("decode", decode, meter=meter, plan=plan),
            device=fingerprint_hash(device),
        )
