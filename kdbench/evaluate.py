"""Rate-distortion curves from real bitstreams: fp32, batch 1, one thread.

A learned codec is encoded here and decoded in a fresh process from nothing but its file and the
.kdb files. The decoder must give the encoder's integer latents (checked inside each file) and its
8-bit image exactly, and coded and estimated bits must agree; else there is no curve.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from kdbench.codecs.base import ImageCodec
from kdbench.codecs.bitfile import (
    Image,
    analyse_image,
    decode_image,
    encode_analysed,
    expectation,
    payload_bits,
)
from kdbench.codecs.weights import load_codec
from kdbench.data import ImageSet
from kdbench.device import one_thread, resolve, synchronise
from kdbench.errors import CodecError
from kdbench.metrics import BUILTIN, MS_SSIM_MIN_PX
from kdbench.metrics import find as find_metric
from kdbench.rd import joined, psnr_db
from kdbench.records import RDCurve, RDPoint

BITS_TOLERANCE = 0.01  # of the estimate, over the whole set
FLUSH_BITS = 128  # a file's two strings: each ends with a state of 64 bits, half of them spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A curve and what proves it.

    Attributes:
        bitstreams_sha: SHA-256 over all coded files, in the order they were coded.
    """

    curve: RDCurve
    bitstreams_sha: str


@dataclass
class _Tally:
    """Measurements of one codec, image by image; `metric` is one that another package brings."""

    metric: str | None = None
    bpp: dict[int, list[float]] = field(default_factory=dict)
    psnr: dict[int, list[float]] = field(default_factory=dict)
    ms_ssim: dict[int, list[float | None]] = field(default_factory=dict)
    figures: dict[int, list[float]] = field(default_factory=dict)
    sha: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, level: int, data: bytes, image: Image, decoded: Image) -> None:
        height, width = image.shape[:2]
        self.bpp.setdefault(level, []).append(len(data) * 8 / (height * width))
        self.psnr.setdefault(level, []).append(psnr_db(image, decoded, peak=255))
        self.ms_ssim.setdefault(level, []).append(ms_ssim(image, decoded))
        if self.metric is not None:
            figure = _figure(self.metric, decoded, image)
            self.figures.setdefault(level, []).append(figure)
        self.sha.update(data)

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
        CodecError: The fresh decoder gives other latents or pixels, or real and estimated bits
            differ by more than 1 %.
    """
    model, _ = load_codec(path)
    model.to(device)
    levels = range(model.architecture.n_levels)
    tally = _Tally(metric=_with_figure(distortion, images))
    expected: dict[str, str] = {}
    coded_bits, estimated_bits, encode_s = 0, 0.0, []
    with one_thread(), tempfile.TemporaryDirectory(prefix="kdbench-evaluate-") as folder:
        for i in range(images.n):
            image = images.image(i)
            began = time.perf_counter()
            analysed = analyse_image(model, image)
            synchronise(device)
            analysis_s = time.perf_counter() - began
            for level in levels:
                began = time.perf_counter()
                data = encode_analysed(model, analysed, level)
                synchronise(device)
                coding_s = time.perf_counter() - began
                encode_s.append((analysis_s + coding_s) / image[..., 0].size * 1e6)
                expect = expectation(model, analysed, level)
                name = f"{level}-{i}.kdb"
                (Path(folder) / name).write_bytes(data)
                expected[name] = _pixels_sha(expect.reconstruction)
                coded_bits += payload_bits(data)
                estimated_bits += expect.estimated_bits
                tally.add(level, data, image, expect.reconstruction)
                on_progress(i * len(levels) + level + 1, len(levels) * images.n)
        decode_s = _decode_in_fresh_process(path, Path(folder), expected, device)
    _check_bits(coded_bits, estimated_bits, n_files=len(expected))
    curve = tally.curve(
        images,
        estimated_over_real_bits=estimated_bits / coded_bits,
        encode_s_per_mpx=fmean(encode_s),
        decode_s_per_mpx=decode_s / (images.pixels * len(levels)) * 1e6,
    )
    return Evaluation(curve=curve, bitstreams_sha=tally.sha.hexdigest())


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
    return Evaluation(curve=curve, bitstreams_sha=tally.sha.hexdigest())


def _encode(codec: ImageCodec, image: Image, level: int, name: str) -> bytes:
    """One file; an error names the photo: WebP ends at 16383 px a side."""
    try:
        return codec.encode(image, level)
    except CodecError as why:
        raise CodecError(f"{name}: {why.problem}", fix=why.fix) from None


def ms_ssim(image: Image, decoded: Image) -> float | None:
    """MS-SSIM of two 8-bit RGB images, 0 to 1; None under 161 px a side."""
    from pytorch_msssim import ms_ssim as multi_scale_ssim

    if min(image.shape[:2]) < MS_SSIM_MIN_PX:
        return None
    a, b = (
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
        for pixels in (image, decoded)
    )
    return float(multi_scale_ssim(a, b, data_range=255))


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


def _check_bits(coded_bits: int, estimated_bits: float, *, n_files: int) -> None:
    allowed = BITS_TOLERANCE * estimated_bits + FLUSH_BITS * n_files
    if abs(coded_bits - estimated_bits) > allowed:
        raise CodecError(
            f"the range coder wrote {coded_bits} bits where the model estimates "
            f"{estimated_bits:.0f}: more than 1 % apart",
            fix="the codec's tables do not belong to its weights: finalise and save it again",
        )


def _pixels_sha(pixels: Image) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


# --- the fresh process ---------------------------------------------------------------------------


def _decode_in_fresh_process(
    path: Path, folder: Path, expected: dict[str, str], device: str
) -> float:
    """Decodes every file of `folder` in a new interpreter; returns its decoding seconds."""
    command = [sys.executable, "-m", "kdbench.evaluate", str(path.resolve()), str(folder), device]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode != 0:
        said = [line for line in run.stderr.splitlines() if line.strip()]
        said = [line for line in said if not line.startswith("  fix: ")]
        reason = said[-1] if said else "no message"
        raise CodecError(
            f"decoding in a fresh process failed: {reason}",
            fix="the codec cannot be decoded elsewhere; report it with its trial folder",
        )
    report = json.loads(run.stdout.splitlines()[-1])
    wrong = [name for name, sha in expected.items() if report["sha"].get(name) != sha]
    if wrong:
        raise CodecError(
            f"{len(wrong)} of {len(expected)} files decode to other pixels in a fresh process "
            f"(first: {wrong[0]})",
            fix="the codec is not deterministic on this device; evaluate with --device cpu",
        )
    return float(report["seconds"])


def _decode_folder(path: Path, folder: Path, device: str) -> None:
    """Decodes every .kdb in `folder` and prints SHA-256 of the pixels and seconds as JSON."""
    torch.set_num_threads(1)
    model, _ = load_codec(path)
    model.to(resolve(device))
    shas, seconds = {}, 0.0
    for file in sorted(folder.glob("*.kdb")):
        data = file.read_bytes()
        began = time.perf_counter()
        pixels = decode_image(model, data)
        synchronise(device)
        seconds += time.perf_counter() - began
        shas[file.name] = _pixels_sha(pixels)
    print(json.dumps({"sha": shas, "seconds": seconds}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="decodes .kdb files; used by kdbench itself")
    parser.add_argument("codec", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    arguments = parser.parse_args()
    _decode_folder(arguments.codec, arguments.folder, arguments.device)
