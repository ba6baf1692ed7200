"""One codec on one set of photos: curve, complexity, energy. For `bench` and a study's anchor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.cards import training_of
from kdbench.errors import CodecError, KdbenchError
from kdbench.files import load, write_json
from kdbench.rd import bd_rate
from kdbench.records import SCHEMA, BDRate, CodecEnergy, Complexity, RDCurve
from kdbench.store import Store

if TYPE_CHECKING:  # torch is loaded by who measures, not by who reads what was measured
    from kdbench.codecs.base import ImageCodec
    from kdbench.codecs.hyperprior import Hyperprior
    from kdbench.data import ImageSet
    from kdbench.records import Bench, EnergyReading, Operation

LEASE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFigures:
    """What one codec does and costs.

    Attributes:
        codec: Its name: `teacher:default`, `trial:kd_pareto/3`, `jpeg`, ...
        sha: SHA-256 of its file; its name where it has none.
        complexity: None for classical codecs, whose operations nobody counts.
        energy: None if it was not measured.
        rd_lambdas: What each level was trained for; empty where nobody knows.
    """

    codec: str
    sha: str
    rd: RDCurve
    complexity: Complexity | None
    energy: CodecEnergy | None
    rd_lambdas: tuple[float, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """BD-rate against an anchor, or why there is none."""

    anchor: str
    bd_rate: BDRate | None
    why_not: str | None


def bench_codec(
    name: str,
    images: "ImageSet",
    bench: "Bench",
    store: Store,
    *,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> CodecFigures:
    """The figures of the codec called `name` on `images`.

    Args:
        name: `teacher:NAME`, `file:PATH`, `trial:STUDY/N`, `zoo:MODEL/QUALITY` or a classical one.
        images: The photos.
        bench: Its device, energy plan (`meter: none` measures no energy) and cache are used.
        store: Where trials are found.
        on_progress: Told the images done and their number.

    Raises:
        CodecError: No such codec, a damaged one, one whose bitstreams do not decode, or one of
            several files that differ in architecture.
        MeterError: The energy plan asks for a meter that is not here.
    """
    from kdbench.anchor import anchor_curve, codec_files
    from kdbench.codecs.weights import load_codec
    from kdbench.cost import complexity_of, energy_of
    from kdbench.lease import host_lease

    cache = Path(bench.cache)
    found = anchor_curve(
        name, images, device=bench.device, cache=cache, store=store, on_progress=on_progress
    )
    loaded = [load_codec(path) for path in codec_files(name, cache=cache, store=store)]
    complexity, energy = None, None
    if not loaded:
        energy = _classical_energy(name, images, bench)
    else:
        _require_one_architecture(name, [model for model, _ in loaded])
        model, _ = loaded[len(loaded) // 2]
        complexity = complexity_of(model, cache)
        energy = energy_of(model.to(bench.device), images, bench, host_lease())
    return CodecFigures(
        codec=name,
        sha=found.sha,
        rd=found.curve,
        complexity=complexity,
        energy=energy,
        rd_lambdas=tuple(v for _, card in loaded for v in training_of(card).get("rd_lambdas", ())),
    )


def _require_one_architecture(name: str, models: "Sequence[Hyperprior]") -> None:
    if any(model.architecture != models[0].architecture for model in models):
        raise CodecError(
            f"the models of {name} are of different widths and have no one size, compute or energy",
            fix="measure them apart, zoo:MODEL/QUALITY",
        )


def against(
    anchor: str,
    figures: CodecFigures,
    images: "ImageSet",
    bench: "Bench",
    *,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Comparison:
    """BD-rate of `figures` against the codec called `anchor` on the same photos.

    An anchor that is not here, or too little common quality, is an answer and not an error.
    """
    from kdbench.anchor import anchor_curve

    try:
        curve = anchor_curve(
            anchor, images, device=bench.device, cache=Path(bench.cache), on_progress=on_progress
        ).curve
    except CodecError as why:
        return Comparison(anchor=anchor, bd_rate=None, why_not=why.problem)
    return compared(figures, anchor, curve)


def compared(figures: CodecFigures, anchor: str, curve: RDCurve) -> Comparison:
    """The same where the anchor's curve is known; a single rate is no curve and has no BD-rate."""
    try:
        return Comparison(anchor=anchor, bd_rate=bd_rate(figures.rd, curve), why_not=None)
    except KdbenchError as why:
        return Comparison(anchor=anchor, bd_rate=None, why_not=why.problem)


def load_anchor(store: Store, study: str) -> CodecFigures | None:
    """The figures of a study's anchor; None if they were never taken."""
    path = store.anchor_file(study)
    return load(path, CodecFigures) if path.is_file() else None


def keep_anchor(
    store: Store,
    study: str,
    bench: "Bench",
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> CodecFigures:
    """The figures of a study's anchor, taken once: a later default teacher changes nothing."""
    from kdbench.data import load_images

    kept = load_anchor(store, study)
    if kept is None:
        images = load_images(bench.data.evaluation, "evaluation")
        kept = bench_codec(bench.anchor, images, bench, store, on_progress=on_progress)
        write_json(store.anchor_file(study), kept)
    if not store.has_anchor_crops(study):
        _keep_crops(store, study, bench)
    return kept


def _keep_crops(store: Store, study: str, bench: "Bench") -> None:
    """The first photo as the anchor gives it back, for reports to show beside the students'."""
    from kdbench.anchor import samples_by_name
    from kdbench.data import load_images
    from kdbench.samples import keep_anchor_samples

    images = load_images(bench.data.evaluation, "evaluation")
    photo = images.image(0)
    samples = samples_by_name(
        bench.anchor, photo, device=bench.device, cache=Path(bench.cache), store=store
    )
    keep_anchor_samples(store, study, photo, samples, images.names[0])


def _classical_energy(name: str, images: "ImageSet", bench: "Bench") -> CodecEnergy | None:
    """Encode and decode of the first photo at the middle level, on the CPU, whatever the device."""
    from kdbench.codecs.classical import classical
    from kdbench.device import fingerprint, fingerprint_hash
    from kdbench.energy import measure, pick
    from kdbench.lease import host_lease

    meter = pick(bench.energy, "cpu")
    if meter is None:
        return None
    codec: ImageCodec = classical(name)
    image, level = images.image(0), codec.levels[len(codec.levels) // 2]
    data = codec.encode(image, level)

    def read(operation: "Operation", work: Callable[[], object]) -> "EnergyReading":
        def run() -> int:
            work()
            return int(image[..., 0].size)

        return measure(operation, run, meter=meter, plan=bench.energy)

    with host_lease().exclusive(LEASE_TIMEOUT_S):
        return CodecEnergy(
            encode=read("encode", lambda: codec.encode(image, level)),
            decode=read("decode", lambda: codec.decode(data)),
            device=fingerprint_hash(fingerprint("cpu", threads=1)),
        )
