"""The contract of learned codecs, as a suite that any codec family can be put through.

`kdbench check --codec NAME` builds the family's `example`, starts it on built-in photos, trains it
for some steps, and tries one clause after the other; `CLAUSES` says what each demands. Our own
hyperprior goes through the same suite, as `hyperprior`. Half a minute for a small codec.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from kdbench import decoder, families
from kdbench.codecs.bitfile import (
    Image,
    analyse_image,
    decode_image,
    encode_analysed,
    expectation,
    to_tensor,
)
from kdbench.codecs.building import build, start_family
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.start import klt_start, scale_start
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.complexity import measure_complexity
from kdbench.data import draw_crops, load_images
from kdbench.distill import rate_distortion
from kdbench.errors import CodecError, KdbenchError, TrainingError
from kdbench.evaluate import evaluate_learned
from kdbench.plugins import FAILURES
from kdbench.records import (
    AnyArchitecture,
    Architecture,
    FamilyArchitecture,
    Hyper,
    Latent,
    Training,
    Transform,
)
from kdbench.train import Batch, levels_of_step, step_rng, train
from kdbench.train import to_tensor as to_batch

OWN = "hyperprior"  # its name here; no entry point
RD_LAMBDAS = (0.0018, 0.0067, 0.025)
CROP_PX, N_CROPS, BATCH, STEPS = 64, 64, 6, 60
LEARNING_RATE = 1e-3
SIZES = ((70, 131), (64, 64), (1, 1), (129, 65))  # of photos, height and width [px]
ROUNDING = 0.5 + 1e-3  # farthest that rounding moves a latent
UNSEEN = 0.3  # a level of few bits may not be better than one of many by more [dB]


class Verdict(NamedTuple):
    """What one clause found; `problem` and `fix` are None where the codec keeps it."""

    clause: str
    problem: str | None
    fix: str | None


class ViolationError(CodecError):
    """A clause that is not kept."""


@dataclass(frozen=True)
class Subject:
    """A codec under test."""

    name: str
    make: Callable[[int], AnyArchitecture]  # of a number of levels
    start: Callable[[Any, Tensor, Sequence[float]], object]

    @cached_property
    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Training crops (n, 3, H, W)."""
        drawn = draw_crops(load_images("builtin", "train"), N_CROPS, CROP_PX, 0)
        return np.ascontiguousarray([drawn.crop(i) for i in range(drawn.n)])

    @cached_property
    def crops(self) -> Tensor:
        """The same in [0, 1]."""
        return torch.from_numpy(self.pixels).float() / 255

    @cached_property
    def photos(self) -> list[Image]:
        """Cuts of a photo, of odd sizes."""
        photo = load_images("builtin", "evaluation").image(0)
        return [np.ascontiguousarray(photo[:height, :width]) for height, width in SIZES]

    def fresh(self, rd_lambdas: Sequence[float] = RD_LAMBDAS) -> LearnedCodec:
        """A codec that has started, always with the same seed."""
        torch.manual_seed(0)
        model = build(self.make(len(rd_lambdas)))
        model.eval()
        self.start(model, self.crops, rd_lambdas)
        return model

    @cached_property
    def started(self) -> LearnedCodec:
        """A codec that has started; nothing may change it."""
        return self.fresh()

    @cached_property
    def trained(self) -> LearnedCodec:
        """One after a short training, finalised."""
        model = self.fresh()
        levels = len(RD_LAMBDAS)

        def batch(step: int) -> Batch:
            rng = step_rng(0, step)
            x = self.pixels[rng.choice(N_CROPS, BATCH, replace=False)]
            return Batch(to_batch(x, "cpu"), levels_of_step(rng, BATCH, levels), None)

        plan = Training(
            steps=STEPS,
            batch=BATCH,
            crop_px=CROP_PX,
            rd_lambdas=RD_LAMBDAS,
            learning_rate=LEARNING_RATE,
        )
        train(model, batch, plan, distiller=None, seed=0, device="cpu", precision="fp32")
        return model


def subject(name: str) -> Subject:
    """The example of a family, or of our own.

    Raises:
        CodecError: No such family.
    """
    if name == OWN:
        return Subject(OWN, _own, _start_own)
    family = families.find(name)
    codec = family.codec(name, family.example)
    return Subject(name, lambda n: FamilyArchitecture(codec=codec, n_levels=n), start_family)


def _own(n_levels: int) -> Architecture:
    side = Transform(width=16)
    return Architecture(
        encoder=side,
        decoder=side,
        hyper=Hyper(width=16),
        latent=Latent(channels=32),
        n_levels=n_levels,
    )


def _start_own(model: Hyperprior, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    klt_start(model, crops, rd_lambdas)
    scale_start(model, crops)


def try_codec(
    name: str, on_verdict: Callable[[Verdict], object] = lambda verdict: None
) -> list[Verdict]:
    """What each clause says of the family called `name`; the later ones need the first.

    Raises:
        CodecError: No such family.
    """
    tried = subject(name)
    verdicts: list[Verdict] = []
    for clause in CLAUSES:
        verdict = try_clause(clause, tried)
        verdicts.append(verdict)
        on_verdict(verdict)
        if verdict.problem is not None and clause in NEEDED:
            break
    return verdicts


def try_clause(clause: str, tried: Subject) -> Verdict:
    """What one of `CLAUSES` says of a codec."""
    try:
        CLAUSES[clause][0](tried)
    except KdbenchError as why:
        return Verdict(clause, why.problem, why.fix)
    except FAILURES as why:
        reason = (str(why).splitlines() or ["no reason given"])[0]
        fix = f"the clause says: {CLAUSES[clause][1]}"
        return Verdict(clause, f"fails with {type(why).__name__}: {reason}", fix)
    return Verdict(clause, None, None)


def _require(holds: bool, problem: str, fix: str) -> None:
    if not holds:
        raise ViolationError(problem, fix=fix)


# --- clauses -----------------------------------------------------------------------------------


def _builds(tried: Subject) -> None:
    for n in (1, len(RD_LAMBDAS)):
        model = build(tried.make(n))
        _require(
            all(hasattr(model, name) for name in ("g_a", "g_s")),
            "has no g_a or no g_s",
            "call analysis and synthesis so, and make them modules",
        )


def _starts(tried: Subject) -> None:
    one, other = tried.fresh().state_dict(), tried.fresh().state_dict()
    odd = [name for name, value in one.items() if not bool(value.isfinite().all())]
    _require(not odd, f"{odd[:1]} is no number after the start", "start it at finite values")
    differ = [name for name, value in one.items() if not torch.equal(value, other[name])]
    _require(
        not differ,
        f"two starts from one seed differ in {', '.join(differ[:3])}",
        "draw random numbers from torch's global generator alone, and keep nothing between starts",
    )


def _outputs(tried: Subject) -> None:
    model, x = tried.started, tried.crops[:2]
    offer = model.architecture.offer
    with torch.no_grad():
        out: dict[str, Any] = model(x, 1)
    side, n = CROP_PX, len(x)
    shapes = {"x_hat": (n, 3, side, side), "y": (n, offer.channels, side // 16, side // 16)}
    if offer.hyper_width is not None:
        shapes["z"] = (n, offer.hyper_width, side // 64, side // 64)
    if offer.prior is not None:
        shapes["scales"] = shapes["y"]
    if offer.prior == "mean_scale":
        shapes["means"] = shapes["y"]
    for name, shape in shapes.items():
        found = out.get(name)
        got = tuple(found.shape) if isinstance(found, Tensor) else "not there"
        _require(
            got == shape,
            f"{name} of {n} crops of {side} px is {got}; it must be {shape}",
            "return it from forward_latent, or let the family's `offer` say what there is",
        )
        assert isinstance(found, Tensor)
        _require(
            found.dtype == torch.float32 and bool(found.isfinite().all()),
            f"{name} is {found.dtype} with values that need not be finite",
            "return finite fp32 values: `.float()` after the transforms",
        )
    for name, p in out["likelihoods"].items():
        _require(
            bool(((p > 0) & (p <= 1 + 1e-6)).all()),
            f"likelihoods of {name} lie from {float(p.min()):g} to {float(p.max()):g}",
            "return probabilities above 0 and up to 1, as CompressAI's entropy models do",
        )


def _latents(tried: Subject) -> None:
    with torch.no_grad():
        out: dict[str, Any] = tried.started(tried.crops[:4], 1)
    for name in ("y", "z"):
        if name not in out:
            continue
        hat = out.get(f"{name}_hat")
        _require(
            isinstance(hat, Tensor) and hat.shape == out[name].shape,
            f"{name}_hat is not there, or not of the shape of {name}",
            f"return {name} after rounding as {name}_hat",
        )
        moved = float((hat - out[name]).abs().max())
        _require(
            moved <= ROUNDING,
            f"{name}_hat lies {moved:.2f} steps from {name}",
            f"return as {name} what is rounded, in quantisation steps: after the gain",
        )
        _require(
            moved > 0.0,
            f"{name} is rounded already",
            f"return {name} before rounding: distillation needs it so",
        )


def _levels(tried: Subject) -> None:
    model, x = tried.started, tried.crops[:3]
    with torch.no_grad():
        mixed: dict[str, Any] = model(x, torch.tensor([2, 0, 1]))
        for i, level in enumerate((2, 0, 1)):
            alone: dict[str, Any] = model(x[i : i + 1], level)
            _require(
                torch.allclose(mixed["x_hat"][i], alone["x_hat"][0], atol=1e-4),
                f"a sample at level {level} of a batch of other levels is not what it is alone",
                "let `level` be a tensor of one level a sample, and the samples independent",
            )
        bits = [float(rate_distortion(model(x, at), x, torch.zeros(())).bpp) for at in range(3)]
    _require(
        bits[0] < bits[-1],
        f"levels of rd_lambda {RD_LAMBDAS[0]} and {RD_LAMBDAS[-1]} start with {bits[0]:.3f} and "
        f"{bits[-1]:.3f} bits per pixel",
        "start the gains by the rd_lambdas: level 0 has the fewest bits",
    )


def _checks_levels(tried: Subject) -> None:
    model = tried.trained
    with torch.no_grad():
        latent = model.g_a(tried.crops[:1])
        coded: dict[str, Any] = model.compress_latent(latent, 0)
        calls: dict[str, Callable[[int], object]] = {
            "forward": lambda level: model(tried.crops[:1], level),
            "compress_latent": lambda level: model.compress_latent(latent, level),
            "decompress": lambda level: model.decompress(coded["strings"], coded["shape"], level),
        }
        for name, call in calls.items():
            for level in (-1, len(RD_LAMBDAS)):
                try:
                    call(level)
                except CodecError:
                    continue
                except FAILURES:
                    pass
                raise ViolationError(
                    f"{name} takes level {level} of a codec of {len(RD_LAMBDAS)} levels, or fails "
                    "without a word",
                    fix="look up levels with `gain`, `inverse_gain` or `checked_levels`",
                )


def _gradients(tried: Subject) -> None:
    model = tried.fresh()
    model.train()
    levels = torch.arange(BATCH) % len(RD_LAMBDAS)
    x = tried.crops[:BATCH]
    named = [(n, p) for n, p in model.named_parameters() if not n.endswith("quantiles")]
    rd = rate_distortion(model(x, levels), x, torch.tensor(RD_LAMBDAS)[levels])
    analysis = [item for item in named if item[0].startswith("g_a.")]
    for what, loss, wanted in (
        ("loss", rd.loss, named),
        ("distortion", rd.distortion, analysis),  # through rounding
    ):
        parameters = [p for _, p in wanted]
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        odd = [
            name
            for (name, _), slope in zip(wanted, slopes, strict=True)
            if slope is None
            or not bool(slope.isfinite().all())
            or (what == "distortion" and not bool(slope.any()))
        ]
        _require(
            not odd,
            f"no gradient of the {what} reaches {', '.join(odd[:3])}"
            + (f" and {len(odd) - 3} more" if len(odd) > 3 else ""),
            "round with the gradient of the identity (`codecs.hyperprior.quantised`), use every "
            "parameter, and register none that is not learned",
        )
    model.eval()


def _trains(tried: Subject) -> None:
    rd_lambdas, n = torch.tensor(RD_LAMBDAS), len(RD_LAMBDAS)
    x = tried.crops[:n]
    try:
        after = tried.trained
    except TrainingError as why:
        raise ViolationError(
            why.problem, fix="look at what the start leaves, and at the likelihoods"
        ) from why
    _require(
        not after.training,
        "is not in eval mode after finalise",
        "call `self.eval()` in `finalise`, or do not override it",
    )
    with torch.no_grad():
        before, now = (
            float(rate_distortion(model(x, torch.arange(n)), x, rd_lambdas).loss)
            for model in (tried.started, after)
        )
    _require(
        now < before,
        f"{STEPS} steps of training move the loss from {before:.3f} to {now:.3f}",
        "look at the start, at gradients through rounding, and at the sign of the rate",
    )


def _finalises(tried: Subject) -> None:
    model = tried.trained
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.finalise()
    moved = [n for n, value in model.state_dict().items() if not torch.equal(value, first[n])]
    _require(
        not moved,
        f"finalising it again changes {', '.join(moved[:3])}",
        "build tables from weights alone, with `update(force=True)`",
    )


def _deterministic(tried: Subject) -> None:
    model, x = tried.trained, tried.crops[:2]
    with torch.no_grad():
        one, other = ({**model(x, 1)}, {**model(x, 1)})
        same = all(torch.equal(one[k], other[k]) for k in one if isinstance(one[k], Tensor))
        _require(same, "two forward passes in eval mode differ", "draw no noise in eval mode")
        latent = model.g_a(x)
        strings = [model.compress_latent(latent, 1)["strings"] for _ in range(2)]
        _require(
            strings[0] == strings[1], "coding an image twice gives other bytes", "draw no noise"
        )


def _saves(tried: Subject) -> None:
    model, x = tried.trained, tried.crops[:2]
    with tempfile.TemporaryDirectory(prefix="kdbench-check-") as folder:
        path = Path(folder) / "codec.safetensors"
        path.write_bytes(codec_bytes(model, {}))
        again, _ = load_codec(path)
    kept, found = model.state_dict(), again.state_dict()
    odd = [name for name in kept if name not in found or not torch.equal(kept[name], found[name])]
    _require(
        not odd and kept.keys() == found.keys(),
        f"a saved and loaded codec differs in {', '.join(odd[:3])}",
        "keep all that is learned, and the tables, in parameters and buffers of fixed names",
    )
    with torch.no_grad():
        a, b = model(x, 1), again(x, 1)
        _require(
            torch.equal(a["x_hat"], b["x_hat"]),
            "a saved and loaded codec gives other pixels",
            "keep all state in parameters and buffers, none in plain attributes",
        )


def _round_trip(tried: Subject) -> None:
    model = tried.trained
    for photo in tried.photos:
        height, width = photo.shape[:2]
        where = f"a photo of {width}x{height} px"
        analysed = analyse_image(model, photo)
        for level in range(len(RD_LAMBDAS)):
            data = encode_analysed(model, analysed, level)
            try:
                decoded = decode_image(model, data)
            except CodecError as why:
                raise ViolationError(
                    f"{where} at level {level}: {why.problem}",
                    fix="give decoder and encoder the same inputs in the same order: what is "
                    "predicted from decoded latents alone",
                ) from why
            expected = expectation(model, analysed, level).reconstruction
            _require(
                np.array_equal(decoded, expected),
                f"{where} at level {level} decodes to other pixels than forward gives",
                "quantise in eval mode as in coding, and decode what is predicted alike",
            )


def _fresh_process(tried: Subject) -> None:
    with tempfile.TemporaryDirectory(prefix="kdbench-check-") as folder:
        path, photos = Path(folder) / "codec.safetensors", Path(folder) / "photos"
        path.write_bytes(codec_bytes(tried.trained, {}))
        photos.mkdir()
        for i, photo in enumerate(tried.photos):
            PillowImage.fromarray(photo).save(photos / f"{i}.png")
        decoder.stop()  # one that has seen this family before would not be fresh
        found = evaluate_learned(path, load_images(photos, "evaluation")).curve
    low, high = found.points[0], found.points[-1]
    _require(
        low.level < high.level and low.psnr_db < high.psnr_db + UNSEEN,
        f"level {low.level} has {low.psnr_db:.2f} dB at {low.bpp:.3f} bpp, level {high.level} "
        f"{high.psnr_db:.2f} dB at {high.bpp:.3f} bpp",
        "let levels of a larger rd_lambda have more bits and more quality",
    )


def _countable(tried: Subject) -> None:
    found = measure_complexity(tried.started)
    _require(found.g_a > 0 and found.g_s > 0, "g_a or g_s costs nothing", "see `Family.parts`")
    if tried.started.architecture.offer.hyper_width is not None:
        _require(
            found.h_a > 0 and found.h_s > 0,
            "has a hyper-latent, and h_a or h_s costs nothing",
            "name the parts of all children in the family's `parts`",
        )
    padded = to_tensor(tried.photos[2])
    with torch.no_grad():
        y = tried.started.g_a(padded)
    M = tried.started.architecture.offer.channels
    _require(
        tuple(y.shape) == (1, M, 4, 4),
        f"g_a gives {tuple(y.shape)} of a {CROP_PX} px image; it must be (1, {M}, 4, 4)",
        "halve four times in g_a",
    )


CLAUSES: dict[str, tuple[Callable[[Subject], None], str]] = {
    "builds": (_builds, "the example is built with one level and with several"),
    "starts": (_starts, "a start is finite, and the same from the same seed"),
    "outputs": (_outputs, "forward returns what the family offers, in its shapes, fp32"),
    "latents": (_latents, "latents are returned before rounding, in quantisation steps"),
    "levels": (_levels, "each sample has a level of its own, and levels ascend by bits"),
    "countable": (_countable, "every multiply-accumulate is counted and belongs to a part"),
    "gradients": (_gradients, "gradients reach every parameter, also through rounding"),
    "trains": (_trains, "a short training lowers the loss and finalises"),
    "checks levels": (_checks_levels, "a level that it was not built for is an error"),
    "finalises": (_finalises, "finalising twice is finalising once"),
    "deterministic": (_deterministic, "the same image gives the same numbers and bytes"),
    "saves": (_saves, "a codec file gives the codec back"),
    "round trip": (_round_trip, "photos of every size decode to what forward gives, bit by bit"),
    "fresh process": (_fresh_process, "so in a fresh process, with the bits that were estimated"),
}
NEEDED = ("builds", "starts", "trains")  # without these there is nothing to try the others on
