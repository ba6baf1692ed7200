"""The hinge: one resolved spec in, one result out. No Optuna, no study files, no plots.

cost      MACs, parameters, memory; then energy on the started student; the gate may end it here
train     distilled from the cached teacher, or alone
evaluate  real bitstreams, BD-rate against the anchor on the same photos
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean

import torch

from kdbench.anchor import anchor_curve
from kdbench.codecs.building import build
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.weights import codec_bytes, file_sha
from kdbench.cost import Elsewhere, complexity_of, energy_of
from kdbench.data import ImageSet, validation_crops
from kdbench.device import deterministic, environment, fingerprint, supports_bf16
from kdbench.errors import QualityGapError, notice
from kdbench.evaluate import evaluate_files
from kdbench.files import append_log, write_atomic
from kdbench.guides import joined_sha
from kdbench.lease import Lease, host_lease
from kdbench.lesson import Lesson, study_crops, study_photos
from kdbench.losses import Pixels, estimated_loss, rung_values
from kdbench.rateless import without_rate
from kdbench.rd import bd_rate, require_interval
from kdbench.records import (
    BDRate,
    Bench,
    CodecEnergy,
    Complexity,
    Progress,
    RDCurve,
    Rung,
    TrialResult,
    TrialSpec,
)
from kdbench.samples import keep_sample
from kdbench.store import TrialFolder
from kdbench.train import TrainingLog, damage, train

Gate = Callable[[Rung], bool]
N_LOSS_CROPS = 64  # of training, for the overfitting figure
N_HELD_OUT = 16  # crops of each validation photo


class TrialStopped(Exception):  # noqa: N818  # not an error: the gate's answer
    """The gate said no at `rung`."""

    def __init__(self, rung: Rung) -> None:
        super().__init__(f"stopped at {rung.stage}, step {rung.step}")
        self.rung = rung


class Stopwatch:
    """Wall seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds what the block takes to `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def run_trial(
    spec: TrialSpec,
    bench: Bench,
    gate: Gate,
    folder: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    elsewhere: Elsewhere | None = None,
) -> TrialResult:
    """Trains and measures the student of `spec`.

    Args:
        spec: What to train.
        bench: What the study's trials share.
        gate: Asked after each rung whether to go on.
        folder: Gets `student.safetensors` (or one file a rate), `log.jsonl`, and until there is a
            result a checkpoint of each model, from which another attempt goes on; whoever keeps the
            result removes them (`store.keep_result`).
        on_progress: Told what the trial does.
        elsewhere: Measures the energy in this machine's place.

    Raises:
        TrialStopped: The gate said no.
        KdbenchError: What went wrong and its fix; `QualityGapError` if the student's curve does
            not overlap the anchor's enough for an interval, `TrainingError` if the loss became NaN.
    """
    watch, lease, cache = Stopwatch(), host_lease(), Path(bench.cache)
    began = time.monotonic()
    files = TrialFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _deterministic(bench.threads):
        photos = study_photos(
            bench.data.train, bench.data.validation, bench.data.evaluation, spec.training.crop_px
        )
        on_progress(Progress(stage="cost"))
        with watch.part("cost"):
            complexity = complexity_of(build(spec.architecture), cache)
        _ask(gate, Rung(stage="cost", step=0, values=cost_values(complexity, None)))
        on_progress(Progress(stage="cache"))
        with watch.part("cache"):
            crops = study_crops(photos["train"], bench.data.crops, spec.training.crop_px)
            lesson = Lesson.open(spec, bench, crops, on_progress, lease.shared)
        lessons = lesson.each_rate()
        with watch.part("start"), lease.shared():
            models = [each.started() for each in lessons]
        on_progress(Progress(stage="energy"))
        with watch.part("energy"):
            middle = _finalised(models[len(models) // 2], bench)
            energy = energy_of(middle, photos["evaluation"], bench, lease)
            answer = None if elsewhere is None else elsewhere.ask(middle)
            if answer is not None and elsewhere is not None and elsewhere.before_training:
                energy = answer()
        if energy is not None:
            _ask(gate, Rung(stage="cost", step=0, values=cost_values(complexity, energy)))
        held_out = validation_crops(photos["validation"], spec.training.crop_px, N_HELD_OUT)
        with watch.part("training"), lease.shared():
            logs = [
                _trained(
                    each,
                    model,
                    bench,
                    files.student_of(i, len(models)),
                    on_progress=on_progress,
                    lease=lease,
                    at_rung=_asker(gate, model, each, held_out, began),
                )
                for i, (each, model) in enumerate(zip(lessons, models, strict=True))
            ]
        _write_logs(files, logs)
        on_progress(Progress(stage="evaluation"))

        def coded(step: int, n: int) -> None:
            on_progress(Progress(stage="evaluation", step=step, n_steps=n))
            lease.yield_if_wanted(bench.device)

        with watch.part("evaluation"), lease.shared():
            evaluation = evaluate_files(
                files.students,
                photos["evaluation"],
                device=bench.device,
                distortion=spec.training.distortion,
                on_progress=coded,
            )
            keep_sample(files, evaluation.samples, photos["evaluation"].names[0])
            losses = {
                "train": _mean_loss(models, lessons, crops.crops(cache)[:N_LOSS_CROPS]),
                "validation": _mean_loss(models, lessons, held_out),
            }
        if answer is not None and energy is None:
            on_progress(Progress(stage="target"))
            with watch.part("energy"):  # after the training, whose checkpoint stays until then
                energy = answer()
        with watch.part("score"), _last_question(files):
            score = _score(evaluation.curve, spec, photos["evaluation"], bench)
        return TrialResult(
            rd=evaluation.curve,
            bd_rate=score,
            complexity=complexity,
            energy=energy,
            seconds=watch.seconds | {"waiting": lease.waited_s},
            hashes={
                "weights": _weights_sha(files.students),
                "bitstreams": evaluation.bitstreams_sha,
            },
            losses=losses,
            environment=environment() | fingerprint(bench.device, threads=bench.threads),
            gradient_shares=tuple(found for log in logs for found in log.gradient_shares),
        )


def _trained(
    lesson: Lesson,
    model: LearnedCodec,
    bench: Bench,
    path: Path,
    *,
    on_progress: Callable[[Progress], None],
    lease: Lease,
    at_rung: Callable[[int], None],
) -> TrainingLog:
    """Trains one model of a trial into `path`; its checkpoint stays until the trial ends."""
    spec = lesson.spec
    checkpoint = path.with_name(path.stem.replace("student", "training") + ".checkpoint")
    if checkpoint.exists() and (why := damage(checkpoint)) is not None:
        notice(f"{why.problem}; the training starts again from its first step")
        checkpoint.unlink()
    with without_rate(model) if spec.training.rate == "none" else nullcontext():
        log = train(
            model,
            lesson.batch,
            spec.training,
            distiller=lesson.distiller,
            seed=spec.seed,
            device=bench.device,
            precision=precision_of(bench),
            checkpoint=checkpoint,
            on_progress=on_progress,
            between_steps=lambda: lease.yield_if_wanted(bench.device),
            rungs=bench.rungs,
            at_rung=at_rung,
        )
    write_atomic(path, codec_bytes(model, {"spec": spec}))
    return log


@contextmanager
def _last_question(files: TrialFolder) -> Iterator[None]:
    """Removes the checkpoints where its answer is a gap in quality, which stays."""
    try:
        yield
    except QualityGapError:
        files.forget_checkpoints()
        raise


def _score(curve: RDCurve, spec: TrialSpec, images: ImageSet, bench: Bench) -> BDRate | None:
    """BD-rate against the anchor; None of a single point, which is no curve."""
    if len(spec.training.rd_lambdas) == 1:
        return None
    anchor = anchor_curve(bench.anchor, images, device=bench.device, cache=Path(bench.cache))
    score = bd_rate(curve, anchor.curve)
    require_interval(score, images.n)
    return score


def _weights_sha(paths: Sequence[Path]) -> str:
    return joined_sha([file_sha(path) for path in paths])


def cost_values(complexity: Complexity, energy: CodecEnergy | None) -> dict[str, float]:
    """Every cost known before training, by the name that objectives and constraints use."""
    values: dict[str, float] = {
        "params": complexity.params,
        "kmac_per_px": complexity.kmac_per_px,
        "encoder_kmac_per_px": complexity.encoder_kmac_per_px,
        "decoder_kmac_per_px": complexity.decoder_kmac_per_px,
    }
    if energy is not None:
        values["energy_j_per_mpx"] = energy.j_per_mpx
        values["encode_j_per_mpx"] = energy.encode.mean_j_per_mpx
        values["decode_j_per_mpx"] = energy.decode.mean_j_per_mpx
    return values


def precision_of(bench: Bench) -> str:
    """`fp32` or `bf16`: what `auto` means on this device."""
    if bench.precision != "auto":
        return bench.precision
    return "bf16" if supports_bf16(bench.device) else "fp32"


def _mean_loss(models: Sequence[LearnedCodec], lessons: Sequence[Lesson], crops: Pixels) -> float:
    pairs = zip(models, lessons, strict=True)
    return fmean(estimated_loss(model, crops, lesson.spec) for model, lesson in pairs)


def _asker(
    gate: Gate, model: LearnedCodec, lesson: Lesson, held_out: Pixels, began: float
) -> Callable[[int], None]:
    """Asks the gate after so many steps of `model`."""

    def ask(step: int) -> None:
        values = rung_values(model, held_out, lesson.spec)
        seconds = time.monotonic() - began
        _ask(gate, Rung(stage="training", step=step, values=values, seconds=seconds))

    return ask


def _ask(gate: Gate, rung: Rung) -> None:
    if not gate(rung):
        raise TrialStopped(rung)


def _write_logs(files: TrialFolder, logs: Sequence[TrainingLog]) -> None:
    """All rows in one file; where there are several models each row says whose it is."""
    files.log.unlink(missing_ok=True)
    for i, log in enumerate(logs):
        whose = {"model": i} if len(logs) > 1 else {}
        looked = {
            float(found.step): {"gradient_shares": found.shares} for found in log.gradient_shares
        }
        for row in log.rows:
            append_log(files.log, {**whose, **row, **looked.get(row["step"], {})})


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    """Deterministic kernels and the bench's thread count inside; the caller's settings after."""
    n = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with deterministic():
            yield
    finally:
        torch.set_num_threads(n)


def _finalised(model: LearnedCodec, bench: Bench) -> LearnedCodec:
    """A copy that codes; the student itself goes on to train unfinalised."""
    copy = build(model.architecture)
    copy.load_state_dict(model.state_dict())
    copy.finalise()
    moved: LearnedCodec = copy.to(bench.device)
    return moved
