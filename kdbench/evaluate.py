"""Rate-distortion curves from real bitstreams: fp32, batch 1, one thread.

A learned codec is encoded here and decoded in a process of its own (`decoder`) from nothing but
its file and the .kdb files; what that process gives is what is compared with the photos. It must
give the encoder's integer latents (checked inside each file). Of the first photos, `CHECKED_PX`
together, its image must be exactly the encoder's, too, and coded bits must be those that the model
estimates; else there is no curve. To check so of all photos would double the seconds of g_s.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean

from kdbench.codecs.base import ImageCodec
from kdbench.codecs.bitfile import (
    Expectation,
    Image,
    analyse_image,
    decode_image,
    encode_analysed,
    expectation,
    lay_out,
    payload_bits,
)
from kdbench.codecs.weights import load_codec
from kdbench.data import ImageSet
from kdbench.decoder import decoder, pixels_sha
from kdbench.device import keep_freed_memory, one_thread, synchronise
from kdbench.errors import CodecError
from kdbench.files import TEMPORARY, writing
from kdbench.metrics import BUILTIN, MS_SSIM_MIN_PX
from kdbench.metrics import find as find_metric
from kdbench.rd import joined, psnr_db
from kdbench.records import RDCurve, RDPoint
from kdbench.samples import Sample, cut
from kdbench.similarity import Similarity

CHECKED_PX = 500_000  # of the first photos, one at least
DECODED_BYTES = 256 << 20  # of images that wait to be compared
BITS_TOLERANCE = 0.01  # of the estimate, over all files that are checked
FLUSH_BITS = 128  # a file's two strings: each ends with a state of 64 bits, half of them spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A curve and what proves it.

    Attributes:
        bitstreams_sha: SHA-256 over all coded files, in the order they were coded.
        samples: A cut of the first photo at every level.
    """

    curve: RDCurve
    bitstreams_sha: str
    samples: tuple[Sample, ...] = ()


@dataclass
class _Tally:
    """Measurements of one codec, image by image; `metric` is one that another package brings."""

    metric: str | None = None
    bpp: dict[int, list[float]] = field(default_factory=dict)
    psnr: dict[int, list[float]] = field(default_factory=dict)
    ms_ssim: dict[int, list[float | None]] = field(default_factory=dict)
    figures: dict[int, list[float]] = field(default_factory=dict)
    sha: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    samples: list[Sample] = field(default_factory=list)
    _photo: Image | None = None
    _similarity: Similarity | None = None

    def add(self, level: int, data: bytes, image: Image, decoded: Image) -> None:
        height, width = image.shape[:2]
        self.bpp.setdefault(level, []).append(len(data) * 8 / (height * width))
        self.psnr.setdefault(level, []).append(psnr_db(image, decoded, peak=255))
        self.ms_ssim.setdefault(level, []).append(self._ms_ssim(image, decoded))
        if self.metric is not None:
            figure = _figure(self.metric, decoded, image)
            self.figures.setdefault(level, []).append(figure)
        self.sha.update(data)
        if len(self.bpp[level]) == 1:
            bpp, psnr = self.bpp[level][0], self.psnr[level][0]
            self.samples.append(Sample(level=level, bpp=bpp, psnr_db=psnr, pixels=cut(decoded)))

    def _ms_ssim(self, image: Image, decoded: Image) -> float | None:
        """None under 161 px a side; what belongs to the photo is kept until another one comes."""
        if image is not self._photo:
            is_large = min(image.shape[:2]) >= MS_SSIM_MIN_PX
            self._photo, self._similarity = image, Similarity(image) if is_large else None
        return None if self._similarity is None else self._similarity.to(decoded)

    def curve(self, images: ImageSet, **measured: float | None) -> RDCurve:
        order = sorted(self.bpp, key=lambda level: fmean(self.bpp[level]))
        points = [
            RDPoint(
                level=level,
                bpp=fmean(self.bpp[level]),
                psnr_db=fmean(self.psnr[level]),
                ms_ssim=_mean_or_none(self.ms_ssim[level]),
                figures={str(self.metric): fmean(f) for f in [self.figures.get(level)] if f},
            )
            for level in order
        ]
        return RDCurve(
            images=images.names,
            points=tuple(points),
            image_bpp=tuple(tuple(self.bpp[level]) for level in order),
            image_psnr_db=tuple(tuple(self.psnr[level]) for level in order),
            **measured,
        )


def evaluate_files(
    paths: Sequence[Path],
    images: ImageSet,
    *,
    device: str = "cpu",
    distortion: str = "mse",
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Evaluation:
    """The curve of a codec of one file, or of one a rate (`rd.joined`); as `evaluate_learned`."""

    def of(i: int, path: Path) -> Evaluation:
        return evaluate_learned(
            path,
            images,
            device=device,
            distortion=distortion,
            on_progress=lambda done, n: on_progress(i * n + done, len(paths) * n),
        )

    found = [of(i, path) for i, path in enumerate(paths)]
    if len(found) == 1:
        return found[0]
    shas = "\n".join(one.bitstreams_sha for one in found)
    return Evaluation(
        curve=joined([one.curve for one in found]),
        bitstreams_sha=hashlib.sha256(shas.encode()).hexdigest(),
        samples=tuple(
            replace(sample, level=level)
            for level, sample in enumerate(sample for one in found for sample in one.samples)
        ),
    )


def evaluate_learned(
    path: Path,
    images: ImageSet,
    *,
    device: str = "cpu",
    distortion: str = "mse",
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Evaluation:
    """The curve of the codec file `path` over `images`, all levels.

    Args:
        path: Of the codec.
        images: Photos of any size.
        device: Where it codes.
        distortion: What it was trained for; a metric's own figure, if it has one, joins PSNR and
            MS-SSIM.
        on_progress: Called after each coded file, the device idle: who holds a lease may let others
            in.

    Raises:
        CodecError: The decoder gives other latents or pixels, or real and estimated bits
            differ by more than 1 %.
    """
    process = decoder()
    keep_freed_memory()
    model = lay_out(load_codec(path)[0]).to(device)
    n_levels, n_checked = model.architecture.n_levels, _n_checked(images)
    tally, check = _Tally(metric=_with_figure(distortion, images)), _Check()
    encode_s: list[float] = []
    decode_s: list[float] = []
    n_coded = 0
    with one_thread():
        for group in _groups(images, n_levels):
            files: list[tuple[str, int, bytes, Image]] = []
            with tempfile.TemporaryDirectory(prefix="kdbench-evaluate-") as folder:
                for i in group:
                    image = images.image(i)
                    began = time.perf_counter()
                    analysed = analyse_image(model, image)
                    synchronise(device)
                    analysis_s = time.perf_counter() - began
                    for level in range(n_levels):
                        began = time.perf_counter()
                        data = encode_analysed(model, analysed, level)
                        synchronise(device)
                        coding_s = time.perf_counter() - began
                        encode_s.append((analysis_s + coding_s) / image[..., 0].size * 1e6)
                        name = f"{level}-{i}.kdb"
                        with writing(Path(folder) / name, elsewhere=TEMPORARY):
                            (Path(folder) / name).write_bytes(data)
                        files.append((name, level, data, image))
                        if i < n_checked:
                            check.expect(name, data, expectation(model, analysed, level))
                        n_coded += 1
                        on_progress(n_coded, n_levels * images.n)
                decoded = process.decode(path, Path(folder), device)
                check.compare(decoded.sha)
                for name, level, data, image in files:
                    if name in decoded.seconds:
                        decode_s.append(decoded.seconds[name] / image[..., 0].size * 1e6)
                    tally.add(level, data, image, decoded.pixels(name, image.shape))
    check.require()
    curve = tally.curve(
        images,
        estimated_over_real_bits=check.estimated_bits / check.coded_bits,
        encode_s_per_mpx=fmean(encode_s),
        decode_s_per_mpx=fmean(decode_s),
    )
    return Evaluation(
        curve=curve, bitstreams_sha=tally.sha.hexdigest(), samples=tuple(tally.samples)
    )


def evaluate_classical(
    codec: ImageCodec,
    images: ImageSet,
    *,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Evaluation:
    """The curve of a classical codec over `images`, all its levels; every byte of a file counts."""
    tally, encode_s, decode_s = _Tally(), [], []
    for step, level in enumerate(codec.levels):
        for i in range(images.n):
            image = images.image(i)
            mpx = image[..., 0].size / 1e6
            began = time.perf_counter()
            data = _encode(codec, image, level, images.names[i])
            encoded_at = time.perf_counter()
            decoded = codec.decode(data)
            encode_s.append((encoded_at - began) / mpx)
            decode_s.append((time.perf_counter() - encoded_at) / mpx)
            tally.add(level, data, image, decoded)
            on_progress(step * images.n + i + 1, len(codec.levels) * images.n)
    curve = tally.curve(images, encode_s_per_mpx=fmean(encode_s), decode_s_per_mpx=fmean(decode_s))
    return Evaluation(
        curve=curve, bitstreams_sha=tally.sha.hexdigest(), samples=tuple(tally.samples)
    )


def learned_samples(path: Path, image: Image, device: str = "cpu") -> tuple[Sample, ...]:
    """One photo through every level of the codec file `path`, decoded from its bytes here."""
    model = lay_out(load_codec(path)[0]).to(device)
    tally = _Tally()
    with one_thread():
        analysed = analyse_image(model, image)
        for level in range(model.architecture.n_levels):
            data = encode_analysed(model, analysed, level)
            tally.add(level, data, image, decode_image(model, data))
    return tuple(tally.samples)


def classical_samples(codec: ImageCodec, image: Image) -> tuple[Sample, ...]:
    """One photo through every level of a classical codec."""
    tally = _Tally()
    for level in codec.levels:
        data = codec.encode(image, level)
        tally.add(level, data, image, codec.decode(data))
    return tuple(tally.samples)


def _encode(codec: ImageCodec, image: Image, level: int, name: str) -> bytes:
    """One file; an error names the photo: WebP ends at 16383 px a side."""
    try:
        return codec.encode(image, level)
    except CodecError as why:
        raise CodecError(f"{name}: {why.problem}", fix=why.fix) from None


def _with_figure(distortion: str, images: ImageSet) -> str | None:
    """`distortion` where it has a figure that nobody computes anyway, and for every photo."""
    if distortion in BUILTIN:
        return None
    metric = find_metric(distortion)
    sides = [min(images.image(i).shape[:2]) for i in range(images.n)]
    return distortion if metric.figure is not None and min(sides) >= metric.min_px else None


def _figure(name: str, decoded: Image, image: Image) -> float:
    figure = find_metric(name).figure
    assert figure is not None
    found = float(figure(decoded, image))
    if not math.isfinite(found):
        raise CodecError(
            f"the figure of metric {name} is {found}",
            fix="repair or update the package that brings the metric",
        )
    return found


def _n_checked(images: ImageSet) -> int:
    """Photos whose images are compared, too: the first of `CHECKED_PX` together, one at least."""
    sizes = list(accumulate(height * width for height, width in images.shapes))
    return max(1, sum(1 for size in sizes if size <= CHECKED_PX))


def _groups(images: ImageSet, n_levels: int) -> list[list[int]]:
    """Photos in their order, as many together as decode to `DECODED_BYTES`, one at least."""
    groups: list[list[int]] = []
    room = 0
    for i, (height, width) in enumerate(images.shapes):
        needed = 3 * height * width * n_levels
        if not groups or needed > room:
            groups.append([])
            room = DECODED_BYTES
        groups[-1].append(i)
        room -= needed
    return groups


@dataclass
class _Check:
    """What encoder and model expect of some files, against what the decoder made of them."""

    expected: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    coded_bits: int = 0
    estimated_bits: float = 0.0

    def expect(self, name: str, data: bytes, expect: Expectation) -> None:
        self.expected[name] = pixels_sha(expect.reconstruction)
        self.coded_bits += payload_bits(data)
        self.estimated_bits += expect.estimated_bits

    def compare(self, decoded: Mapping[str, str]) -> None:
        self.wrong += [name for name, sha in decoded.items() if self.expected.get(name, sha) != sha]

    def require(self) -> None:
        """Raises CodecError where the decoder's pixels or the bits are not what is expected."""
        if self.wrong:
            raise CodecError(
                f"{len(self.wrong)} of {len(self.expected)} files decode to other pixels in a "
                f"process of their own (first: {self.wrong[0]})",
                fix="the codec is not deterministic on this device; evaluate with --device cpu",
            )
        _check_bits(self.coded_bits, self.estimated_bits, n_files=len(self.expected))


def _check_bits(coded_bits: int, estimated_bits: float, *, n_files: int) -> None:
    allowed = BITS_TOLERANCE * estimated_bits + FLUSH_BITS * n_files
    if abs(coded_bits - estimated_bits) > allowed:
        raise CodecError(
            f"the range coder wrote {coded_bits} bits where the model estimates "
            f"{estimated_bits:.0f}: more than 1 % apart",
            fix="the codec's tables do not belong to its weights: finalise and save it again",
        )


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
