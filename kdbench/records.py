"""What travels between stages and onto disk. Units are part of every name.

`SCHEMA` history, newest first (fields made by `later` are there only where they say something):
    4  files end with a `checksum` of their own (`seals`)
    3  one model a rate, and none for the rate (`training.rate`); z of a width of its own
       (`hyper.channels`); a result without a BD-rate (`bd_rate` null), of a single rate
    2  hyperpriors that predict means (`hyper.prior`); front members' energy after training;
       what each term of the loss does to the gradient (`gradient_shares`)
    1  first light (November 2026)

`MEASUREMENT_PROTOCOL`, of evaluation and energy together, likewise; reports and studies refuse to
mix two:
    2  coding takes less time, hence fewer joules, for the same bytes (`codecs.coder`,
       `bitfile.lay_out`); decoding is timed in a process that has decoded before; MS-SSIM differs
       in its seventh digit
    1  first light
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

SCHEMA = 4
HASHED_SINCE = 3  # the first schema whose specs have the hashes of today
MEASUREMENT_PROTOCOL = 2

Source = Literal["counter", "sampled", "model", "replay"]
Activation = Literal["gdn", "relu"]
Convolution = Literal["full", "separable"]
Prior = Literal["scale", "mean_scale"]
ContextName = Literal["none", "checkerboard"]
Arithmetic = Literal["float", "integer"]
Operation = Literal["encode", "decode"]
MeterUnit = Literal["joules", "watts"]
ChannelWeights = Literal["equal", "by_bits"]
TermSchedule = Literal["constant", "decaying", "first_half"]
Schedule = TermSchedule | Literal["staged"]
LatentLoss = Literal["mse", "kl"]
Guides = Literal["matched", "every"]
Rate = Literal["variable", "per_lambda", "none"]


def canonical_json(value: Any) -> str:
    """`value` (dataclasses, mappings, lists, plain values) as compact JSON: sorted keys, no NaN."""
    return _CANONICAL.encode(plain(value))


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
)


def content_hash(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical_json(value)`; stable across runs."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """`value` with every dataclass as a dict and every tuple as a list, ready for JSON.

    Fields made by `later` are left out where they say nothing.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    layout = _layout(value.__class__)
    if layout is not None:
        made = {}
        for name, unsaid in layout:
            own = getattr(value, name)
            if unsaid is _SAID or own != unsaid:
                made[name] = own if own.__class__ in _LEAVES else plain(own)
        return made
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


_LEAVES = frozenset({str, int, float, bool, type(None)})
_SAID = object()  # no value equals it


@cache
def _layout(kind: Any) -> tuple[tuple[str, Any], ...] | None:
    """Names of the fields of a dataclass, each with the value that is left out; None of others."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple((f.name, _unsaid(f)) for f in dataclasses.fields(kind))


_LATER = "later"


def later(default: Any) -> Any:
    """A field that came after records were stored: left out of JSON while it has its default.

    So what was stored without it keeps its hash, and codec files their bytes.
    """
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={_LATER: True})
    return field(default=default, metadata={_LATER: True})


def _unsaid(f: "dataclasses.Field[Any]") -> Any:
    if _LATER not in f.metadata:
        return _SAID
    made = f.default_factory
    return f.default if made is dataclasses.MISSING else made()


# --- what a codec is -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One side of the auto-encoder: strided layers (see `codecs.transforms`).

    Attributes:
        width: Channels between the layers (N).
        kernel: Side of every kernel [px], 3 or 5; of two layers, twice what it is in strides.
        activation: Between the layers; `gdn` is the inverse GDN on the decoder's side.
        layers: 4, or of a decoder 2.
        stride: Of the first of two layers: 2, 4 or 8; the second does the rest of 16.
        convolution: Whether a layer is one convolution, or a 1x1 and a depthwise one.
        taper: What the width of each of a decoder's four layers is divided by for the next one.
    """

    width: int
    kernel: int = 5
    activation: Activation = "gdn"
    layers: Literal[2, 4] = later(4)
    stride: Literal[2, 4, 8] = later(8)
    convolution: Convolution = later("full")
    taper: Literal[1, 2] = later(1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels between the layers, of a decoder from the latent on."""
        return tuple(max(1, self.width // self.taper**i) for i in range(self.layers - 1))


LAYERS = tuple(f"{part}.{i}" for part in ("g_a", "g_s") for i in range(7))  # of a hyperprior codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyper:
    """The hyperprior.

    Attributes:
        width: Channels of h_a, h_s and of the hyper-latent z.
        prior: What h_s predicts of each latent: its scale (Balle et al. 2018), or its mean, too
            (Minnen et al. 2018).
        channels: Of z, where it is not as wide as h_a and h_s.
        arithmetic: Of h_s and the context; `integer` gives the same on every machine (see
            `codecs.integer`).
        context: Whether half of the latent is coded by what its neighbours are (`codecs.context`).
    """

    width: int
    prior: Prior = "scale"
    channels: int | None = later(None)
    arithmetic: Arithmetic = later("float")
    context: ContextName = later("none")

    @property
    def z_channels(self) -> int:
        """Of the hyper-latent."""
        return self.width if self.channels is None else self.channels

    @property
    def comparable_prior(self) -> Prior | None:
        """The prior; None with a context, whose Gaussians are no other codec's."""
        return self.prior if self.context == "none" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """The latent y."""

    channels: int


class Coordinates(NamedTuple):
    """What two codecs must share for their entropy models to be compared channel by channel.

    Attributes:
        prior: None where there are no Gaussians that another codec could share: a factorised
            prior, a context, or one model a rate, each with latents of its own.
        has_hyper: Whether it has a hyper-latent.
    """

    channels: int
    prior: Prior | None
    has_hyper: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What decides MACs, parameters, energy: everything of a codec but its weights."""

    encoder: Transform
    decoder: Transform
    hyper: Hyper
    latent: Latent
    n_levels: int  # quality levels of one set of weights; 1 = plain bmshj2018-hyperprior, no gains

    @property
    def hash(self) -> str:
        """Names this architecture in caches."""
        return content_hash(self)

    @property
    def coordinates(self) -> Coordinates:
        """Of its latent."""
        return Coordinates(self.latent.channels, self.hyper.comparable_prior)

    @property
    def offer(self) -> "Offer":
        """What it has to teach."""
        return Offer(
            channels=self.latent.channels,
            hyper_width=self.hyper.z_channels,
            prior=self.hyper.comparable_prior,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a codec has for the distillation terms, as teacher or as student; None: it has not.

    Attributes:
        channels: Of its latent, which is a sixteenth of the photo a side.
        hyper_width: Channels of its hyper-latent, a sixty-fourth of the photo a side.
        prior: What it predicts of each latent, where that can be compared with another codec's.
    """

    channels: int
    hyper_width: int | None
    prior: Prior | None

    @property
    def coordinates(self) -> Coordinates:
        """Of its latent."""
        return Coordinates(self.channels, self.prior, self.hyper_width is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCodec:
    """A codec of a family that another package brings (see `families`).

    Attributes:
        family: The name of its entry point.
        axes: The family's own choices, by name.
        offer: What such a codec has for the distillation terms, as the family said.
    """

    family: str
    axes: Mapping[str, int | float | str]
    offer: Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyArchitecture:
    """What `Architecture` is to the hyperprior, of any other family."""

    codec: FamilyCodec
    n_levels: int

    @property
    def hash(self) -> str:
        """Names this architecture in caches."""
        return content_hash(self)

    @property
    def coordinates(self) -> Coordinates:
        """Of its latent."""
        return self.offer.coordinates

    @property
    def offer(self) -> Offer:
        """What it has for the distillation terms."""
        return self.codec.offer


AnyArchitecture = Architecture | FamilyArchitecture


# --- what a trial is told --------------------------------------------------------------------


WEIGHTS = (
    "latent",
    "hyper_latent",
    "output",
    "entropy",
    "features",
)  # of `Distillation`, one a term


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Weights of the distillation terms, in bits per pixel of loss (see `distill`).

    Attributes:
        teacher: `teacher:NAME`, `file:PATH`, `zoo:MODEL/QUALITY`, `plugin:NAME`, `hybrid:...` (see
            `hybrid`), or None: train alone, every weight 0.
        channel_weights: How much each latent channel counts in the latent term: all alike, or in
            proportion to the bits the teacher spends on it.
        temperature: tau of the entropy term; scales both Gaussians.
        feature_layer: Of the feature term, by its name in both codecs, say `g_a.5`.
        paper_compat: The terms as arXiv 2509.10366 scales them, not in bits: MSE between rounded
            latents and on [0, 1], with `rd` as weight of R + rd_lambda 255^2 D.
        rd: That weight; 1 without `paper_compat`.
        latent_loss: What the latent term compares: values, or their distributions in each channel.
        guides: Which levels a teacher of one rate guides: that of its own rd_lambda, or every one.
        schedule: What multiplies all weights over the training: 1, a cosine from 1 to 0, or 1 up to
            its middle and 0 from there; `staged` is 1, and R + rd_lambda 255^2 D joins the terms
            after a third of the steps.
        latent_schedule: That of the latent term alone, in the place of `schedule`; so for each.
    """

    teacher: str | None = None
    latent: float = 0.0
    hyper_latent: float = 0.0
    output: float = 0.0
    entropy: float = 0.0
    features: float = later(0.0)
    feature_layer: str = later("g_a.5")
    temperature: float = 1.0
    channel_weights: ChannelWeights = "equal"
    schedule: Schedule = "constant"
    latent_schedule: TermSchedule | None = later(None)
    hyper_latent_schedule: TermSchedule | None = later(None)
    output_schedule: TermSchedule | None = later(None)
    entropy_schedule: TermSchedule | None = later(None)
    features_schedule: TermSchedule | None = later(None)
    paper_compat: bool = False
    rd: float = 1.0
    latent_loss: LatentLoss = later("mse")
    guides: Guides = later("matched")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term that has one."""
        every = {name: float(getattr(self, name)) for name in WEIGHTS}
        return {name: weight for name, weight in every.items() if weight > 0}

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Schedule of each term that has a weight."""
        return {name: getattr(self, f"{name}_schedule") or self.schedule for name in self.weights}

    @property
    def asked_layer(self) -> str | None:
        """The feature term's layer, if it has a weight."""
        return self.feature_layer if self.features > 0 else None

    @property
    def is_off(self) -> bool:
        """No term has a weight; a teacher, if there is one, gives the start alone."""
        return not self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How one student is trained; levels are ordered by ascending `rd_lambdas`.

    Attributes:
        rate: `variable`: one model has all levels. `per_lambda`: one model a level, as the paper
            has it. `none`: likewise, and no bits in the loss (an auto-encoder; see `rateless`).
        distortion: D of the loss: `mse`, or another metric (see `metrics`).
    """

    steps: int
    batch: int
    crop_px: int
    rd_lambdas: tuple[float, ...]
    learning_rate: float
    rate: Rate = later("variable")
    distortion: str = later("mse")

    @property
    def n_levels(self) -> int:
        """Of one model."""
        return len(self.rd_lambdas) if self.rate == "variable" else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One fully resolved trial: everything `run_trial` needs and nothing it can change.

    Attributes:
        encoder, decoder, hyper, latent: Of a hyperprior, all four; None of another family, so who
            may meet one asks `architecture`.
        codec: Of another family.
        stands_on: Content hashes of what the numbers depend on: `teacher` (file), `crops`
            (list and photos), `code` (kdbench version), `codec` (package of the family), `start`
            (file of the codec that students are slices of, where a study names one).
    """

    encoder: Transform = later(None)
    decoder: Transform = later(None)
    hyper: Hyper = later(None)
    latent: Latent = later(None)
    distillation: Distillation
    training: Training
    seed: int
    stands_on: Mapping[str, str] = field(default_factory=dict)
    codec: FamilyCodec | None = later(None)

    def __post_init__(self) -> None:
        parts = [self.encoder, self.decoder, self.hyper, self.latent]
        given = [part for part in parts if part is not None]
        if len(given) != (4 if self.codec is None else 0):
            raise ValueError("a spec has encoder, decoder, hyper and latent, or codec alone")

    @property
    def architecture(self) -> AnyArchitecture:
        """The part that cost and energy depend on."""
        if self.codec is not None:
            return FamilyArchitecture(codec=self.codec, n_levels=self.training.n_levels)
        return Architecture(
            encoder=self.encoder,
            decoder=self.decoder,
            hyper=self.hyper,
            latent=self.latent,
            n_levels=self.training.n_levels,
        )

    @property
    def hash(self) -> str:
        """Names the trial; two specs of one hash train the same weights on the same machine."""
        return content_hash(self)


# --- what a trial finds ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RDPoint:
    """One quality level, averaged over an image set.

    Attributes:
        level: Index of the level (learned codecs) or quality setting (classical ones).
        bpp: Whole file x 8 / real pixels, per image, then averaged [bit/px].
        psnr_db: RGB PSNR of the 8-bit reconstruction, per image, then averaged [dB].
        ms_ssim: Mean over images, 0 to 1; None where an image is under 161 px a side.
        figures: Of the metric that another package brought and the codec was trained for, by its
            name: mean over images.
    """

    level: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None = None
    figures: Mapping[str, float] = later({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RDCurve:
    """Every level of one codec on one image set.

    Attributes:
        images: File names, in the order of the inner tuples below.
        points: Averages, by ascending bpp.
        image_bpp: One tuple a point, one value an image [bit/px].
        image_psnr_db: Likewise [dB].
        estimated_over_real_bits: Estimated bits over coded ones, of the files that an evaluation
            checks (`evaluate.CHECKED_PX`); None for classical codecs.
        encode_s_per_mpx: Mean seconds a megapixel, synchronised, coder included.
        decode_s_per_mpx: Likewise, in the decoder's process.
    """

    images: tuple[str, ...]
    points: tuple[RDPoint, ...]
    image_bpp: tuple[tuple[float, ...], ...]
    image_psnr_db: tuple[tuple[float, ...], ...]
    estimated_over_real_bits: float | None = None
    encode_s_per_mpx: float | None = None
    decode_s_per_mpx: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BDRate:
    """Mean extra bits at equal PSNR; negative saves bits.

    Attributes:
        low_pct, high_pct: 95 % paired bootstrap interval over images, and over seeds where several
            were trained; None with one image, or where over 2.5 % of the resamples cannot be
            compared.
        overlap_db: Length of the PSNR interval both curves cover [dB].
    """

    pct: float
    low_pct: float | None
    high_pct: float | None
    overlap_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """A photo as one codec gave it back; a cut of its middle is kept as a PNG file.

    Attributes:
        image: Name of the photo.
        level: Of the codec.
        bpp, psnr_db: Of the whole photo [bit/px], [dB].
    """

    image: str
    level: int
    bpp: float
    psnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinFigures:
    """What distillation gave one trial: BD-rate of the student against its twin.

    Attributes:
        n_seeds: That both finished.
        learning_rate: The twin's, tuned for itself; None where it could not be trained: `why_not`.
        equal_steps: Interval over seeds and photos; None where they do not compare: `why_not`.
        equal_seconds: Against a twin that trained for the student's seconds; None where the student
            took no more, or where nothing compares.
        wall_s: Of all the trainings; None likewise.
    """

    n_seeds: int
    learning_rate: float | None = None
    equal_steps: BDRate | None = None
    equal_seconds: BDRate | None = None
    why_not: str | None = None
    wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """Multiply-accumulates per real pixel of one full forward at 768x512 [kMAC/px].

    Attributes:
        params: Learned values of the codec.
        peak_memory_bytes: Largest live activations plus weights of one decode at 768x512; None if
            it was not measured.
    """

    params: int
    g_a: float
    h_a: float
    h_s: float
    g_s: float
    entropy_model: float
    peak_memory_bytes: int | None = None

    @property
    def kmac_per_px(self) -> float:
        """All five parts, h_s once: the paper's figure."""
        return self.g_a + self.h_a + self.h_s + self.g_s + self.entropy_model

    @property
    def encoder_kmac_per_px(self) -> float:
        """g_a + h_a + h_s."""
        return self.g_a + self.h_a + self.h_s

    @property
    def decoder_kmac_per_px(self) -> float:
        """h_s + g_s."""
        return self.h_s + self.g_s


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """Energy of one operation from repeated windows of the same work.

    Attributes:
        source: `counter` or `sampled` if measured, `model` if estimated, `replay` in tests.
        meter: Which meter, e.g. `nvml`, `powercap`, `codecarbon`.
        detail: What the meter really used, e.g. `cpu_load x 8 W (process)`.
        gross_j_per_mpx: One value a window [J per megapixel], idle draw included.
        idle_before_w, idle_after_w: Idle draw around the windows [W]; None where the meter
            cannot see idle.
        window_s: Shortest window [s].
        images_per_window: Images coded in each window.
        flags: What a reader must know, e.g. `idle drifted 12 %`, `noisy: 8 % interval`.
    """

    operation: Operation
    source: Source
    meter: str
    detail: str
    gross_j_per_mpx: tuple[float, ...]
    net_j_per_mpx: tuple[float, ...] | None
    idle_before_w: float | None
    idle_after_w: float | None
    window_s: float
    images_per_window: int
    s_per_mpx: float
    flags: tuple[str, ...] = ()
    protocol: int = MEASUREMENT_PROTOCOL

    @property
    def mean_j_per_mpx(self) -> float:
        """Mean over the windows, gross [J per megapixel]."""
        return fmean(self.gross_j_per_mpx)

    @property
    def spread_j_per_mpx(self) -> float | None:
        """Sample standard deviation [J per megapixel]; None where one window cannot tell."""
        return stdev(self.gross_j_per_mpx) if len(self.gross_j_per_mpx) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecEnergy:
    """Encode and decode of one codec on one device, entropy coding included.

    Attributes:
        device: Fingerprint of the device.
        target: Its name, where it is not the machine that trained.
        peak_memory_bytes: Most that coding one photo took there beside the codec itself; None
            where nobody looked.
    """

    encode: EnergyReading
    decode: EnergyReading
    device: str
    target: str | None = later(None)
    peak_memory_bytes: int | None = later(None)

    @property
    def source(self) -> Source:
        """Provenance of both readings; one meter gives both."""
        return self.decode.source

    @property
    def origin(self) -> str:
        """Its source, and whose energy it is where that is another device's."""
        return self.source if self.target is None else f"{self.source}, {self.target}"

    @property
    def j_per_mpx(self) -> float:
        """Encode plus decode, gross [J per megapixel]."""
        return self.encode.mean_j_per_mpx + self.decode.mean_j_per_mpx


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientShares:
    """How much of the gradient each term of the loss causes, at one step (see `gradients`).

    Attributes:
        shares: 0 to 1, by term (`rate`, `distortion` and the distillation terms that were on) and
            part (`g_a`, `h`, `g_s`); those of a part sum to 1.
    """

    step: int
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One finished trial.

    Attributes:
        bd_rate: None of a student of a single rate, whose one point is no curve.
        seconds: Wall seconds by part: `cost`, `cache`, `start`, `energy`, `training`,
            `evaluation`, `score`; `waiting` (for the lease) lies inside the others.
        hashes: SHA-256 of `weights` and `bitstreams`: the same on the same machine.
        losses: `train` and `validation` R + rd_lambda 255^2 D at the end, estimated, mean over
            levels: how far the student overfits.
        environment: What bit-identity depends on: threads, torch, oneDNN, CPU features, device.
        gradient_shares: At the first and the last training step; empty where nobody looked.
    """

    rd: RDCurve
    bd_rate: BDRate | None
    complexity: Complexity
    energy: CodecEnergy | None
    seconds: Mapping[str, float]
    hashes: Mapping[str, str]
    losses: Mapping[str, float]
    environment: Mapping[str, str]
    gradient_shares: tuple[GradientShares, ...] = ()
    protocol: int = MEASUREMENT_PROTOCOL
    schema: int = SCHEMA

    @property
    def bd_rate_pct(self) -> float | None:
        """Without its interval."""
        return None if self.bd_rate is None else self.bd_rate.pct


# --- what stays the same in a study ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Which photos; each value is `builtin` or a folder.

    Attributes:
        crops: Training crops drawn once per study (flips count as crops of their own); the
            teacher's outputs on them are cached.
        cache_gib: Upper bound of that cache [GiB].
    """

    train: str = "builtin"
    validation: str = "builtin"
    evaluation: str = "builtin"
    crops: int = 768
    cache_gib: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPlan:
    """How energy is measured in a study.

    Attributes:
        meter: `auto` (best one that works here), or a meter's name, or `none`, or
            `command:watts PROGRAM` (`command:joules`), a program that prints them.
        window_s: Shortest window [s].
        windows: Windows per operation.
        require: `measured` refuses a study that has only a model; `any` takes what there is and
            says so beside every figure.
    """

    meter: str = "auto"
    window_s: float = 1.0
    windows: int = 5
    require: Literal["measured", "any"] = "any"

    @property
    def command(self) -> tuple[MeterUnit, tuple[str, ...]] | None:
        """What a program that is the meter prints, and its words; None of other meters.

        Raises:
            ValueError: `meter` begins as such a command and is none.
        """
        kind, colon, rest = self.meter.partition(":")
        if kind != "command" or not colon:
            return None
        unit, _, program = rest.strip().partition(" ")
        words = tuple(shlex.split(program))
        units: dict[str, MeterUnit] = {"joules": "joules", "watts": "watts"}
        if unit not in units or not words:
            raise ValueError("neither `command:watts PROGRAM` nor `command:joules PROGRAM`")
        return units[unit], words


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every trial of a study has in common.

    Attributes:
        anchor: Codec whose curve BD-rate is measured against, e.g. `teacher:default`.
        device: `cpu` or `cuda` (`cuda:1`).
        precision: Of the transforms in training: `fp32`, `bf16`, or `auto` (bf16 where the device
            multiplies it in hardware). The end of a training and evaluations are fp32 always.
        cache: Folder for what trials share: teacher outputs, anchor curves, measured energies.
        rungs: Training steps after which a trial asks whether to go on.
        start: Codec that students start as slices of where they can, `teacher:NAME` or `file:PATH`;
            None: their teacher.
    """

    data: Data
    anchor: str
    energy: EnergyPlan
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int
    cache: str
    rungs: tuple[int, ...] = later(())
    start: str | None = later(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A place where a trial asks whether to go on.

    Attributes:
        stage: `cost` before any training (values: `params`, `kmac_per_px`,
            `decoder_kmac_per_px`, `energy_j_per_mpx`, ...); `training` after some of it (value:
            `validation_loss` of the middle level, see `losses`).
        step: Training steps done so far.
        seconds: Wall seconds of the trial until then.
    """

    stage: Literal["cost", "training"]
    step: int
    values: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a running trial says of itself, for the live display."""

    stage: str
    step: int = 0
    n_steps: int = 0
    loss: float | None = None
