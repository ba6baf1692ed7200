"""What may vary in a study: search_spaces/*.yaml -> SearchSpace, which samples a TrialSpec."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from kdbench import families, hybrid, plugins, recipes, zoo
from kdbench.errors import CodecError, ConfigError
from kdbench.names import nearest_first
from kdbench.parameters import (
    NO_TEACHER,
    ActivationName,
    ChannelWeightsName,
    Choice,
    ContextName,
    ConvolutionName,
    FixedBoolean,
    FloatRange,
    GuidesName,
    Kernel,
    LatentLossName,
    LayerName,
    Layers,
    OwnWidth,
    Parameter,
    Positive,
    PriorName,
    ScheduleName,
    Stride,
    Suggests,
    Taper,
    Teacher,
    TermScheduleName,
    Weight,
    Width,
    in_file,
)
from kdbench.records import (
    LAYERS,
    Coordinates,
    Distillation,
    FamilyCodec,
    Hyper,
    Latent,
    Rate,
    Training,
    Transform,
    TrialSpec,
)
from kdbench.yamlfile import Key, Recipe, read, show

N_DIAGONAL = 5  # more would spend a default study before its sampler has a say
_NONE = Choice(values=(NO_TEACHER,))
_SCALE: PriorName = Choice(values=("scale",))
_NO_CONTEXT: ContextName = Choice(values=("none",))
_FULL: ConvolutionName = Choice(values=("full",))
_FOUR: Layers = Choice(values=(4,))
_UNIFORM: Taper = Choice(values=(1,))
_EIGHT: Stride = Choice(values=(8,))
_EQUAL: ChannelWeightsName = Choice(values=("equal",))
_CONSTANT: ScheduleName = Choice(values=("constant",))
_SAME: TermScheduleName = Choice(values=(None,))
_LAYER: LayerName = Choice(values=(Distillation().feature_layer,))
_MSE: LatentLossName = Choice(values=("mse",))
_MATCHED: GuidesName = Choice(values=("matched",))
_NO: FixedBoolean = Choice(values=(False,))
OFF, _ONE = Choice(values=(0.0,)), Choice(values=(1.0,))
HYPERPRIOR = ("encoder", "decoder", "hyper", "latent")  # sections of our own family
N_COMBINATIONS = (
    100_000  # of a family's axes that are looked at for what they could be distilled by
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpace:
    """Encoder or decoder."""

    width: Width
    kernel: Kernel
    activation: ActivationName
    convolution: ConvolutionName = _FULL

    def sample(self, side: str, trial: Suggests) -> Transform:
        """One transform; parameters are called `side.width` and so on."""
        return Transform(
            width=self.width.sample(f"{side}.width", trial),
            kernel=self.kernel.sample(f"{side}.kernel", trial),
            activation=self.activation.sample(f"{side}.activation", trial),
            convolution=self.convolution.sample(f"{side}.convolution", trial),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpace(TransformSpace):
    """A decoder, which may have two layers, or four that taper."""

    layers: Layers = _FOUR
    stride: Stride = _EIGHT
    taper: Taper = _UNIFORM

    def sample(self, side: str, trial: Suggests) -> Transform:
        """One decoder; the stride is asked for of two layers alone, the taper of four."""
        plain = TransformSpace.sample(self, side, trial)
        layers = self.layers.sample(f"{side}.layers", trial)
        if layers == plain.layers:
            return replace(plain, taper=self.taper.sample(f"{side}.taper", trial))
        stride = self.stride.sample(f"{side}.stride", trial)
        return replace(plain, layers=layers, stride=stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperSpace:
    """The hyperprior."""

    width: Width
    prior: PriorName = _SCALE
    channels: OwnWidth = None
    context: ContextName = _NO_CONTEXT

    def sample(self, trial: Suggests) -> Hyper:
        """One hyperprior; z is as wide as its layers unless `channels` says otherwise."""
        own = self.channels
        return Hyper(
            width=self.width.sample("hyper.width", trial),
            prior=self.prior.sample("hyper.prior", trial),
            context=self.context.sample("hyper.context", trial),
            channels=None if own is None else own.sample("hyper.channels", trial),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpace:
    """The latent y."""

    channels: Width


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpace:
    """A codec family of another package, and its axes."""

    family: str
    axes: Mapping[str, Parameter]

    def sample(self, trial: Suggests) -> FamilyCodec:
        """One codec; parameters are called `codec.AXIS`."""
        values = {name: axis.sample(f"codec.{name}", trial) for name, axis in self.axes.items()}
        return families.find(self.family).codec(self.family, values)

    @property
    def coordinates(self) -> set[Coordinates] | None:
        """Of every codec there may be; None where those are too many to look at.

        Of a range of numbers the ends are looked at.
        """
        offer = families.find(self.family).offer
        ends = [
            (axis.low, axis.high) if isinstance(axis, FloatRange) else axis.values
            for axis in self.axes.values()
        ]
        found = set()
        for n, values in enumerate(islice(product(*ends), N_COMBINATIONS + 1)):
            if n == N_COMBINATIONS:
                return None
            found.add(offer(dict(zip(self.axes, values, strict=True))).coordinates)
        return found

    def diagonal(self) -> Iterator[dict[str, Any]]:
        """The lowest values of all axes, the middle ones, the highest; of names the middle one."""
        for end in (min, None, max):
            yield {
                name: axis.middle if end is None or _is_named(axis) else _end(axis, end)
                for name, axis in self.axes.items()
            }


def _is_named(axis: Parameter) -> bool:
    return isinstance(axis, Choice) and isinstance(axis.values[0], str)


def _end(axis: Parameter, end: Any) -> Any:
    return end((axis.low, axis.high) if isinstance(axis, FloatRange) else axis.values)


def _read_codec(raw: Any) -> CodecSpace:
    """Raises ValidationError: every broken rule, at its key."""
    if not isinstance(raw, dict):
        raise _broken("must be a mapping: family, and the family's axes")
    name = raw.get("family")
    if not isinstance(name, str):
        broken = _broken("must be the name of a codec family")
        missing = "missing" if "family" not in raw else broken
        raise _all_of([InitErrorDetails(type=missing, loc=("family",), input=name)])
    try:
        family = families.find(name)
    except CodecError as why:
        broken = _broken(f"{why.problem}; {why.fix}")
        raise _all_of([InitErrorDetails(type=broken, loc=("family",), input=name)]) from None
    problems, axes = [], {}
    for key in [key for key in raw if key not in family.axes and key != "family"]:
        rule = f"{name} has no such axis; it has {', '.join(nearest_first(key, [*family.axes]))}"
        problems.append(InitErrorDetails(type=_broken(rule), loc=(key,), input=raw[key]))
    for key, axis in family.axes.items():
        if key not in raw:
            problems.append(InitErrorDetails(type="missing", loc=(key,), input=raw))
            continue
        try:
            axes[key] = axis(raw[key])
        except PydanticCustomError as broken:
            problems.append(InitErrorDetails(type=broken, loc=(key,), input=raw[key]))
    if problems:
        raise _all_of(problems)
    return CodecSpace(family=name, axes=axes)


def _broken(rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _all_of(problems: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("codec", problems)


def _write_codec(codec: CodecSpace) -> dict[str, Any]:
    return {"family": codec.family} | {name: in_file(axis) for name, axis in codec.axes.items()}


CodecSection = Annotated[
    CodecSpace | None, PlainValidator(_read_codec), PlainSerializer(_write_codec)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSpace:
    """Teacher and weights of the distillation terms; without the section students train alone."""

    teacher: Teacher = _NONE
    latent: Weight = OFF
    hyper_latent: Weight = OFF
    output: Weight = OFF
    entropy: Weight = OFF
    features: Weight = OFF
    feature_layer: LayerName = _LAYER
    temperature: Positive = _ONE
    channel_weights: ChannelWeightsName = _EQUAL
    schedule: ScheduleName = _CONSTANT
    latent_schedule: TermScheduleName = _SAME
    hyper_latent_schedule: TermScheduleName = _SAME
    output_schedule: TermScheduleName = _SAME
    entropy_schedule: TermScheduleName = _SAME
    features_schedule: TermScheduleName = _SAME
    paper_compat: FixedBoolean = _NO
    rd: Weight = _ONE
    latent_loss: LatentLossName = _MSE
    guides: GuidesName = _MATCHED

    def sample(
        self, trial: Suggests, own: Coordinates, teacher_coordinates: Mapping[str, Coordinates]
    ) -> Distillation:
        """What matters is asked for, the rest stays off.

        Weights only with a teacher, the hyper-latent term only where both have a hyper-latent,
        the entropy term only where student and teacher share the latent's coordinates, the
        temperature only with an entropy term, the weights of the latent channels and what their
        loss compares only with a latent term, the layer only with a feature term, a schedule only
        with a term. The paper's loss has a weight of its rate-distortion term, no entropy term and
        no features.
        """

        def ask(name: str) -> Any:
            return getattr(self, name).sample(f"distillation.{name}", trial)

        teacher: str = ask("teacher")
        if teacher == NO_TEACHER:
            return Distillation()
        if teacher not in teacher_coordinates:
            near = nearest_first(teacher, list(teacher_coordinates))
            raise ConfigError(
                f"distillation.teacher: there is no teacher {show(teacher)}",
                fix=f"known here, nearest first: {', '.join(near) or 'none'}",
            )
        theirs = teacher_coordinates[teacher]
        weights = {"latent": ask("latent")}
        both_have_hyper = own.has_hyper and theirs.has_hyper
        weights["hyper_latent"] = ask("hyper_latent") if both_have_hyper else 0.0
        weights["output"] = ask("output")
        (paper_compat,) = self.paper_compat.values
        compares = own == theirs and own.prior is not None
        entropy = ask("entropy") if compares and not paper_compat else 0.0
        features = 0.0 if paper_compat else ask("features")
        temperature = ask("temperature") if entropy > 0 else 1.0
        weights |= {"entropy": entropy, "features": features}
        on = [name for name, weight in weights.items() if weight > 0]
        return Distillation(
            teacher=teacher,
            **weights,
            **{f"{name}_schedule": ask(f"{name}_schedule") for name in on},
            feature_layer=ask("feature_layer") if features > 0 else Distillation().feature_layer,
            temperature=temperature,
            channel_weights=ask("channel_weights") if weights["latent"] > 0 else "equal",
            schedule=ask("schedule") if on else "constant",
            paper_compat=paper_compat,
            rd=ask("rd") if paper_compat else 1.0,
            latent_loss=ask("latent_loss") if weights["latent"] > 0 else "mse",
            guides=ask("guides"),
        )

    def contradictions(self, layers: Sequence[str] | None) -> list[tuple[str, str]]:
        """What is right alone and wrong together: key below `distillation`, broken rule.

        `layers` are a student's; None where they are known once one is built.
        """
        unknown = [layer for layer in self.feature_layer.values if layer not in (layers or LAYERS)]
        if unknown and layers is not None:
            rule = f"a student has no layer {unknown[0]}; it has {', '.join(LAYERS)}"
            return [("feature_layer", rule)]
        if not self.paper_compat.values[0]:
            rule = "must be 1 without paper_compat: true; only the paper's loss weights R and D"
            return [("rd", rule)] if self.rd != _ONE else []
        rule = "must be {} with paper_compat: true; the paper's loss has no such term"
        return [
            (name, rule.format(plain))
            for name, wanted, plain in (
                ("entropy", OFF, 0),
                ("features", OFF, 0),
                ("channel_weights", _EQUAL, "equal"),
            )
            if getattr(self, name) != wanted
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpace:
    """What may vary in training."""

    learning_rate: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a study fixes about training; the space adds the rest.

    Attributes:
        crop_px: Side of a training crop [px], a multiple of 64.
        rd_lambdas: One quality level each, ascending; five at least, for BD-rate needs a curve,
            or a single one where each rate has a model of its own.
        rate: See `records.Training`.
        precision: See `records.Bench`.
        distortion: See `records.Training`.
    """

    steps: int
    batch: int
    crop_px: int
    rd_lambdas: tuple[float, ...]
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    rate: Rate = "variable"
    distortion: str = "mse"

    @property
    def n_levels(self) -> int:
        """Of one model."""
        return len(self.rd_lambdas) if self.rate == "variable" else 1


_OF_A_FAMILY: Any = None  # a section of other spaces; `incomplete` knows of which


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Every student and every way to train it that a study may try.

    Attributes:
        encoder, decoder, hyper, latent: Of hyperpriors; None of another family.
        codec: Of another family; None of hyperpriors.
    """

    name: str
    encoder: TransformSpace = _OF_A_FAMILY
    decoder: DecoderSpace = _OF_A_FAMILY
    hyper: HyperSpace = _OF_A_FAMILY
    latent: LatentSpace = _OF_A_FAMILY
    codec: CodecSection = None
    distillation: DistillationSpace = DistillationSpace()
    training: TrainingSpace

    @property
    def absent(self) -> set[str]:
        """Sections that a space of its family does not have."""
        return {"codec"} if self.codec is None else set(HYPERPRIOR)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter, the fixed ones too, by the name a trial knows it by."""
        found: dict[str, Parameter] = {}
        for part in fields(self):
            if part.name == "codec" and self.codec is not None:
                found |= {f"codec.{name}": axis for name, axis in self.codec.axes.items()}
            elif part.name not in self.absent | {"name"}:
                section = getattr(self, part.name)
                own = {f.name: getattr(section, f.name) for f in fields(section)}
                found |= {f"{part.name}.{k}": v for k, v in own.items() if v is not None}
        return found

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The layers that a trial may compare features at."""
        asked = self.distillation.features != OFF
        return self.distillation.feature_layer.values if asked else ()

    @property
    def n_parameters(self) -> int:
        """How many parameters are free."""
        return sum(not parameter.fixed for parameter in self.parameters.values())

    def sample(
        self,
        trial: Suggests,
        *,
        plan: TrainingPlan,
        seed: int,
        teacher_coordinates: Mapping[str, Coordinates],
        stands_on: Mapping[str, str],
    ) -> TrialSpec:
        """One resolved trial.

        Args:
            trial: Answers the questions: a sampler, or recorded values.
            plan: What is fixed.
            seed: Of the trial.
            teacher_coordinates: Of the latent of every teacher, by its name in the space.
            stands_on: See `TrialSpec`.
        """
        student, coordinates = self._sample_student(trial)
        distillation = self.distillation.sample(trial, coordinates, teacher_coordinates)
        training = Training(
            steps=plan.steps,
            batch=plan.batch,
            crop_px=plan.crop_px,
            rd_lambdas=plan.rd_lambdas,
            learning_rate=self.training.learning_rate.sample("training.learning_rate", trial),
            rate=plan.rate,
            distortion=plan.distortion,
        )
        return TrialSpec(
            **student,
            distillation=distillation,
            training=training,
            seed=seed,
            stands_on=stands_on,
        )

    def _sample_student(self, trial: Suggests) -> tuple[dict[str, Any], Coordinates]:
        """The fields of a spec that say what is built, and the coordinates of its latent."""
        if self.codec is not None:
            codec = self.codec.sample(trial)
            return {"codec": codec}, codec.offer.coordinates
        encoder = self.encoder.sample("encoder", trial)
        decoder = self.decoder.sample("decoder", trial)
        hyper = self.hyper.sample(trial)
        latent = Latent(channels=self.latent.channels.sample("latent.channels", trial))
        parts = {"encoder": encoder, "decoder": decoder, "hyper": hyper, "latent": latent}
        return parts, Coordinates(latent.channels, hyper.comparable_prior)

    def unusable(self, teacher_coordinates: Mapping[str, Coordinates]) -> list[tuple[str, str]]:
        """What no trial of this space could use: dotted key and broken rule.

        Args:
            teacher_coordinates: Of the teachers here; those of the zoo are known by their names.
        """
        teachers = [name for name in self.distillation.teacher.values if name != NO_TEACHER]
        contradictions = self.distillation.contradictions(LAYERS if self.codec is None else None)
        problems = [(f"distillation.{key}", rule) for key, rule in contradictions]
        found = dict(teacher_coordinates)
        for name in dict.fromkeys(part for each in teachers for part in hybrid.duties(each)):
            if name.startswith((zoo.KIND, plugins.KIND)) and name not in found:
                try:
                    if name.startswith(zoo.KIND):
                        found[name] = zoo.coordinates(name)
                    else:
                        plugins.find(name)  # its coordinates are known once it is loaded
                except CodecError as why:
                    problems.append(("distillation.teacher", f"{why.problem}; {why.fix}"))
            elif name.startswith("teacher:") and name not in found:
                near = ", ".join(nearest_first(name, list(teacher_coordinates)))
                rule = f"there is no {name}; known, nearest first: {near}"
                problems.append(("distillation.teacher", rule))
        for name in teachers:
            if name.startswith(hybrid.KIND) and hybrid.duties(name).keys() <= found.keys():
                found[name] = hybrid.coordinates(name, found)
        problems += self._layers_in_vain()
        problems += self._without_a_part(teachers)
        problems += self._guiding_in_vain(teachers)
        problems += self._weighting_in_vain(teachers)
        theirs = {found[name] for name in teachers if name in found}
        if theirs and all(name in found for name in teachers):  # else one of them may serve
            problems += self._unserved(theirs)
        return problems

    def _layers_in_vain(self) -> list[tuple[str, str]]:
        """Strides and tapers that no decoder has, and layers that a decoder of two has not."""
        if self.codec is not None:
            return []
        if 4 not in self.decoder.layers.values and self.decoder.taper != _UNIFORM:
            rule = "belongs to decoder.layers: 4; of two layers there is one width"
            return [("decoder.taper", rule)]
        if 2 not in self.decoder.layers.values:
            rule = "belongs to decoder.layers: 2; those of four layers have stride 2"
            return [("decoder.stride", rule)] if self.decoder.stride != _EIGHT else []
        inside = [layer for layer in self.feature_layers if layer.startswith("g_s.")]
        rule = "{} is no layer of a decoder with decoder.layers: 2; take one of g_a"
        return [("distillation.feature_layer", rule.format(layer)) for layer in inside[:1]]

    def _weighting_in_vain(self, teachers: Sequence[str]) -> list[tuple[str, str]]:
        """Weights of channels by the bits of a teacher that does not tell them."""
        if "by_bits" not in self.distillation.channel_weights.values:
            return []
        latent = [teacher for name in teachers if (teacher := hybrid.parts(name).get("latent"))]
        return [
            (
                "distillation.channel_weights",
                f"by_bits needs the bits of a codec of ours, teacher:NAME or file:PATH, and {name} "
                "is none",
            )
            for name in dict.fromkeys(latent)
            if not name.startswith(("teacher:", "file:"))
        ]

    def _without_a_part(self, teachers: Sequence[str]) -> list[tuple[str, str]]:
        """Terms that have a weight and, in a hybrid, no teacher."""
        needed = {
            **{term: getattr(self.distillation, term) for term in hybrid.TERMS},
            "entropy": self.distillation.entropy,
            "features": self.distillation.features,
        }
        return [
            (
                f"distillation.{term}",
                "must be 0, or the hybrid needs a teacher for "
                f"{term if term in hybrid.TERMS else 'latent'}; it names "
                f"{', '.join(hybrid.parts(name))}",
            )
            for name in teachers
            for term, weight in needed.items()
            if weight != OFF and not any(term in d for d in hybrid.duties(name).values())
        ]

    def _guiding_in_vain(self, teachers: Sequence[str]) -> list[tuple[str, str]]:
        """Teachers that cannot guide every level because they have one for each."""
        if "every" not in self.distillation.guides.values:
            return []
        one_rate = re.compile(rf"{zoo.KIND}[^/]+/[0-9]+|{plugins.KIND}.+")
        names = dict.fromkeys(part for each in teachers for part in hybrid.duties(each))
        return [
            (
                "distillation.guides",
                f"every is for teachers of one rate, zoo:MODEL/QUALITY; {name} has levels of its "
                "own: matched gives each level its own",
            )
            for name in names
            if not one_rate.fullmatch(name)
        ]

    def _unserved(self, theirs: set[Coordinates]) -> list[tuple[str, str]]:
        """Terms that none of the teachers can serve."""
        problems = []
        if self.distillation.hyper_latent != OFF and not any(each.has_hyper for each in theirs):
            rule = "needs a teacher with a hyper-latent; a factorised prior has none"
            problems.append(("distillation.hyper_latent", rule))
        if self.codec is not None:
            return problems + self._unserved_family(self.codec, theirs)
        compares = self.distillation.entropy != OFF and not self.distillation.paper_compat.values[0]
        if compares and "none" not in self.hyper.context.values:
            rule = (
                "needs hyper.context none: Gaussians that neighbours correct cannot be compared "
                "with a teacher's, so set it to 0"
            )
            return [*problems, ("distillation.entropy", rule)]
        own = {
            Coordinates(channels, prior)
            for channels in self.latent.channels.values
            for prior in self.hyper.prior.values
        }
        if compares and not theirs & own:
            with_gaussians = sorted(each for each in theirs if each.prior is not None)
            needed = (f"{each.channels} with hyper.prior {each.prior}" for each in with_gaussians)
            rule = (
                f"needs a latent.channels of {' or '.join(needed)}, the teacher's"
                if with_gaussians
                else "needs a teacher of Gaussians that a student can share; a factorised prior "
                "has none, a context corrects them, and models of several rates each have their own"
            )
            problems.append(("distillation.entropy", rule))
        return problems

    def _unserved_family(
        self, codec: CodecSpace, theirs: set[Coordinates]
    ) -> list[tuple[str, str]]:
        """What students of another family cannot be taught."""
        own, family = codec.coordinates, codec.family
        if own is None:
            return []
        problems = []
        if self.distillation.hyper_latent != OFF and not any(each.has_hyper for each in own):
            rule = f"needs students with a hyper-latent; codec.family {family} has none"
            problems.append(("distillation.hyper_latent", rule))
        if self.distillation.entropy != OFF and not self.distillation.paper_compat.values[0]:
            comparable = {each for each in own if each.prior is not None}
            if not comparable:
                rule = (
                    "needs Gaussians that can be compared with the teacher's; codec.family "
                    f"{family} offers none, so set it to 0"
                )
                problems.append(("distillation.entropy", rule))
            elif not comparable & theirs:
                rule = (
                    f"needs a teacher with {' or '.join(sorted(map(_worded, comparable)))}, as "
                    f"codec.family {family}"
                )
                problems.append(("distillation.entropy", rule))
        return problems

    def diagonal(self) -> list[dict[str, Any]]:
        """Points to begin with: encoder as wide as decoder, widths ascending, at most five.

        Kernel 5 and GDN where the space has them, the largest latent, a teacher if there is one,
        all else in the middle. Each point names every free parameter, also those that a trial
        will not ask for. Empty if encoder and decoder share no width. Of another family: a small
        codec, a middle one, a large one.
        """
        middles = {name: parameter.middle for name, parameter in self.parameters.items()}
        teachers = [name for name in self.distillation.teacher.values if name != NO_TEACHER]
        free = [name for name, parameter in self.parameters.items() if not parameter.fixed]
        points = []
        if self.codec is not None:
            for values in self.codec.diagonal():
                point = middles | {f"codec.{name}": value for name, value in values.items()}
                point["distillation.teacher"] = (teachers or [NO_TEACHER])[0]
                points.append({name: point[name] for name in free})
            return [point for i, point in enumerate(points) if point not in points[:i]]
        both = sorted({*self.encoder.width.values} & {*self.decoder.width.values})
        for width in _thinned(both, N_DIAGONAL):
            hyper = min(self.hyper.width.values, key=lambda w: (abs(w - width), w))
            point = middles | {
                "hyper.width": hyper,
                "latent.channels": max(self.latent.channels.values),
                "distillation.teacher": (teachers or [NO_TEACHER])[0],
            }
            for side, transform in (("encoder", self.encoder), ("decoder", self.decoder)):
                activations = transform.activation.values
                point[f"{side}.width"] = width
                point[f"{side}.kernel"] = max(transform.kernel.values)
                point[f"{side}.activation"] = "gdn" if "gdn" in activations else activations[0]
            points.append({name: point[name] for name in free})
        return points


def _worded(coordinates: Coordinates) -> str:
    return f"{coordinates.channels} channels ({coordinates.prior})"


def _thinned(values: Sequence[int], n: int) -> list[int]:
    """At most `n` of `values`, evenly spread, both ends included."""
    if len(values) <= n:
        return list(values)
    return [values[round(i * (len(values) - 1) / (n - 1))] for i in range(n)]


# --- the file --------------------------------------------------------------------------------


def incomplete(tree: Any) -> list[tuple[Key, str]]:
    """Sections that a space lacks, or has beside those of another family; key and rule."""
    if not isinstance(tree, dict):
        return []
    if "codec" not in tree:
        return [((name,), "is missing") for name in HYPERPRIOR if name not in tree]
    rule = "belongs to hyperpriors; a space with `codec` has the axes of that family there"
    return [((name,), rule) for name in HYPERPRIOR if name in tree]


def read_space(name_or_path: str | Path) -> Recipe:
    """The file of a space as it stands, named after the file; not validated yet.

    Raises:
        ConfigError: No such space.
    """
    path = recipes.find("search_spaces", name_or_path)
    recipe = read(path)
    recipe.tree.setdefault("name", path.stem)
    return recipe


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A search space by name, or from a file.

    Raises:
        ConfigError: No such space, or every rule its file breaks.
    """
    recipe = read_space(name_or_path)
    space = recipes.validate(recipe, SearchSpace, {}, incomplete)
    if space is None or recipe.problems:
        recipes.fail(recipe.problems)
    return space
