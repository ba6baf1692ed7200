"""Seconds of an evaluation, and its results, against CompressAI's `compressai.utils.eval_model`.

    python -m benchmarks.evaluation                    about 4 minutes on a free core
    python -m benchmarks.evaluation --images KODAK     photos of your own
    python -m benchmarks.evaluation --teachers --steps 20 --n-photos 1 --rounds 1     a smoke test

The same weights on the same photos, every level, one thread, taking turns:

    kdbench     `evaluate.evaluate_learned`: real bitstreams, decoded in another process, whose CPU
                seconds count; also hashes of all files, latents and pixels, and estimated bits
    eval_model  CompressAI's function of that name: its `ScaleHyperprior` codes and decodes real
                bitstreams in one process, one model a level

Each level of our codec is made a `ScaleHyperprior` by multiplying its gains into the last layer of
g_a and the first of g_s, with our tables; so only codecs of that architecture can be compared, of
uniform width. Products are rounded elsewhere, which may move a latent that lies at a tie. Our file
has a header of 21 bytes, which eval_model's figure has not: both bpp are of the coded strings.
Photos are cut to multiples of 64 px, since the two pad differently. kdbench keeps freed memory
(`device.keep_freed_memory`); eval_model runs in a process of its own, the allocator as it comes.

Students are uniform (M = 192), trained for a few steps under `teacher:default`: as fast as others.
The first round of ours starts the decoder; it is left out and told apart, as all trials of a worker
share one. Figures are medians over the rounds that follow.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from compressai.models import ScaleHyperprior
from compressai.utils.eval_model.__main__ import eval_model
from PIL import Image
from torch import nn

from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import bench_in, cpu_s_of, spec_of
from kdbench.codecs.fileform import HEADER
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import DOWNSAMPLING
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.data import ImageSet, load_images
from kdbench.decoder import decoder, stop
from kdbench.device import keep_freed_memory
from kdbench.evaluate import evaluate_learned
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.records import RDCurve, Transform
from kdbench.teacher import load_teacher, teacher_path
from kdbench.train import train

OURS, THEIRS = "kdbench", "eval_model"
N_CROPS = 64  # of a student's training


@dataclass(frozen=True, slots=True)
class Point:
    """One level's means over the photos; bpp of the coded strings."""

    bpp: float
    psnr_db: float
    ms_ssim: float


@dataclass(frozen=True, slots=True)
class Round:
    """One evaluation of all levels."""

    wall_s: float
    cpu_s: float
    points: tuple[Point, ...]


@torch.no_grad()
def as_compressai(codec: Hyperprior, level: int) -> nn.Module:
    """CompressAI's `ScaleHyperprior` that codes as `codec` does at `level`.

    Raises:
        ValueError: The codec has another architecture than that class.
    """
    plan = codec.architecture
    width, channels = plan.hyper.width, plan.latent.channels
    if plan.encoder != Transform(width=width) or plan.decoder != plan.encoder or codec.has_means:
        raise ValueError("CompressAI's ScaleHyperprior is of one width, kernels 5 and GDN")
    state = {k: v.clone() for k, v in codec.state_dict().items() if "log_" not in k}
    gain = codec.gain(level).flatten().expand(channels)
    inverse = codec.inverse_gain(level).flatten().expand(channels)
    state["g_a.6.weight"] *= gain[:, None, None, None]
    state["g_a.6.bias"] *= gain
    state["g_s.0.weight"] *= inverse[:, None, None, None]  # of a transposed convolution: in, out
    model: nn.Module = ScaleHyperprior(width, channels)
    model.load_state_dict(state)
    return model.eval()


class Theirs:
    """eval_model in a process of its own, as its user would run it, models loaded before."""

    def __init__(self, path: Path, photos: Sequence[Path]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=serve_eval_model, args=(theirs, path, photos), daemon=True
        )
        self._process.start()
        theirs.close()
        self._ours.recv()  # it is ready

    def round(self) -> Round:
        """One evaluation of all levels."""
        self._ours.send(True)
        found: Round = self._ours.recv()
        return found

    def stop(self) -> None:
        """Ends the process."""
        self._ours.close()
        self._process.join()


def serve_eval_model(pipe: Connection, path: Path, photos: Sequence[Path]) -> None:
    """The other side of `Theirs`."""
    torch.set_num_threads(1)
    codec, _ = load_codec(path)
    assert isinstance(codec, Hyperprior)
    models = [as_compressai(codec, level) for level in range(codec.architecture.n_levels)]
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(timed(lambda: theirs(models, photos)))


def theirs(models: Sequence[nn.Module], paths: Sequence[Path]) -> tuple[Point, ...]:
    """What eval_model finds, level by level."""
    found = [
        eval_model(
            model,
            Path(),
            Path(),
            paths,
            architecture="bmshj2018-hyperprior",
            half=False,
            per_image=False,
        )
        for model in models
    ]
    return tuple(Point(each["bpp"], each["psnr-rgb"], each["ms-ssim-rgb"]) for each in found)


def ours(curve: RDCurve, images: ImageSet) -> tuple[Point, ...]:
    """Our curve by level, without the headers."""
    header_bpp = fmean(8 * HEADER.size / (height * width) for height, width in images.shapes)
    by_level = sorted(curve.points, key=lambda point: point.level)
    return tuple(Point(p.bpp - header_bpp, p.psnr_db, p.ms_ssim or 0.0) for p in by_level)


def timed(evaluate: Callable[[], tuple[Point, ...]], pid: int | None = None) -> Round:
    """Wall seconds, and CPU seconds of this process and, if named, of another."""
    began, cpu_began = time.perf_counter(), time.process_time() + cpu_s_of(pid)
    points = evaluate()
    cpu_s = time.process_time() + cpu_s_of(pid) - cpu_began
    return Round(time.perf_counter() - began, cpu_s, points)


def compare(path: Path, images: ImageSet, n_rounds: int) -> dict[str, Any]:
    """Figures of one codec file.

    Returns:
        `wall_s`, `cpu_s` by who; `start_cpu_s`, what the first round of ours took more;
        `points` by who; `bpp_off`, `psnr_db_off`: the largest difference of a level.
    """
    codec, _ = load_codec(path)
    if not isinstance(codec, Hyperprior):
        raise ValueError("only a hyperprior of kdbench has CompressAI's classes")
    other = Theirs(path, [photo.path for photo in images.photos])
    rounds: dict[str, list[Round]] = {OURS: [], THEIRS: []}
    stop()
    for i in range(n_rounds + 1):
        pid = decoder().pid
        turns: list[tuple[str, Callable[[], Round]]] = [
            (OURS, partial(timed, lambda: ours(evaluate_learned(path, images).curve, images), pid)),
            (THEIRS, other.round),
        ]
        for who, turn in turns if i % 2 == 0 else reversed(turns):
            rounds[who].append(turn())
    other.stop()
    points = {who: found[0].points for who, found in rounds.items()}
    pairs = list(zip(points[OURS], points[THEIRS], strict=True))
    cpu_s = {who: median(each.cpu_s for each in found[1:]) for who, found in rounds.items()}
    return {
        "wall_s": {who: median(each.wall_s for each in found[1:]) for who, found in rounds.items()},
        "cpu_s": cpu_s,
        "start_cpu_s": rounds[OURS][0].cpu_s - cpu_s[OURS],
        "points": {
            who: [[p.bpp, p.psnr_db, p.ms_ssim] for p in found] for who, found in points.items()
        },
        "bpp_off": max(abs(a.bpp - b.bpp) for a, b in pairs),
        "psnr_db_off": max(abs(a.psnr_db - b.psnr_db) for a, b in pairs),
    }


def student(width: int, n_steps: int, folder: Path) -> Path:
    """The file of a uniform student after `n_steps` under `teacher:default`."""
    teacher = load_teacher("teacher:default")
    spec = spec_of(width, n_steps, "teacher:default", teacher.rd_lambdas)
    crop_px = spec.training.crop_px
    photos = study_photos("builtin", "builtin", "builtin", crop_px)
    crops = study_crops(photos["train"], N_CROPS, crop_px)
    lesson = Lesson.open(spec, bench_in(folder, crops.n), crops, lambda _: None)
    model = lesson.started()
    train(
        model,
        lesson.batch,
        spec.training,
        distiller=lesson.distiller,
        seed=spec.seed,
        device="cpu",
        precision="fp32",
    )
    path = folder / f"student-{width}.safetensors"
    path.write_bytes(codec_bytes(model, {}))
    return path


def cut(images: ImageSet, n: int | None, folder: Path) -> ImageSet:
    """The first `n` of `images` as PNGs whose sides are multiples of 64 px."""
    folder.mkdir()
    for i in range(min(n or images.n, images.n)):
        pixels = images.image(i)
        height, width = (side // DOWNSAMPLING * DOWNSAMPLING for side in pixels.shape[:2])
        Image.fromarray(pixels[:height, :width]).save(folder / f"{i:04}.png")
    return load_images(folder, "evaluation")


def table(found: Mapping[str, dict[str, Any]]) -> str:
    """Two rows a codec: seconds and results."""
    rows = []
    for name, at in found.items():
        for who in (OURS, THEIRS):
            bpp, psnr_db, ms_ssim = (fmean(p[i] for p in at["points"][who]) for i in range(3))
            rows.append(
                [
                    name,
                    who,
                    *(f"{at[clock][who]:.2f}" for clock in ("wall_s", "cpu_s")),
                    f"{at['cpu_s'][who] / at['cpu_s'][OURS]:.2f}",
                    f"{bpp:.5f}",
                    f"{psnr_db:.4f}",
                    f"{ms_ssim:.5f}",
                ]
            )
    heads = ["codec", "by", "s", "CPU s", "x in CPU time", "bpp", "PSNR dB", "MS-SSIM"]
    return markdown(heads, rows, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="*", default=["teacher:default"], metavar="NAME")
    parser.add_argument("--students", type=int, nargs="*", default=[16], metavar="N")
    parser.add_argument("--steps", type=int, default=60, help="that students are trained")
    parser.add_argument("--images", default="builtin", help="folder of photos (built-in ones)")
    parser.add_argument("--n-photos", type=int, help="take only the first ones")
    parser.add_argument("--rounds", type=int, default=3, help="after the first one")
    add_out(parser, "evaluation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="kdbench-evaluation-") as name:
        folder = Path(name)
        images = cut(
            load_images(arguments.images, "evaluation"), arguments.n_photos, folder / "photos"
        )
        codecs = {teacher: teacher_path(teacher) for teacher in arguments.teachers}
        for width in arguments.students:
            codecs[f"student N={width}"] = student(width, arguments.steps, folder)
        found = {codec: compare(path, images, arguments.rounds) for codec, path in codecs.items()}
    off = max(at["bpp_off"] for at in found.values())
    off_db = max(at["psnr_db_off"] for at in found.values())
    start_s = next(iter(found.values()))["start_cpu_s"]
    note = (
        f"{images.n} photos, {images.pixels / 1e6:.2f} Mpx; of one level bpp differ by {off:.1e} "
        f"at most, PSNR by {off_db:.1e} dB. Starting the decoder: {start_s:.1f} CPU s, once a "
        "process."
    )
    publish(arguments, f"{table(found)}\n\n{note}", {"codecs": found, "n_photos": images.n})


if __name__ == "__main__":
    main()
