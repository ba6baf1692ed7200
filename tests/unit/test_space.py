"""Laws of sampling, the diagonal, and what a space file may not say."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.errors import ConfigError
from kdbench.parameters import Choice, FloatRange, IntRange
from kdbench.records import Coordinates, Distillation, TrialSpec, canonical_json
from kdbench.space import SearchSpace, TrainingPlan, load_space

PLAN = TrainingPlan(steps=10, batch=4, crop_px=64, rd_lambdas=(0.01, 0.02, 0.03, 0.04, 0.05))
TEACHERS = {"teacher:default": Coordinates(192, "scale")}
FIXED = """\
encoder: {width: 32, kernel: 5, activation: gdn}
decoder: {width: 32, kernel: 5, activation: gdn}
hyper: {width: 32}
latent: {channels: 192}
training: {learning_rate: 1e-3}
"""


class Dice:
    """A trial that answers at random and keeps what it was asked."""

    def __init__(self, seed: int, **wanted: Any) -> None:
        self.random = random.Random(seed)
        self.wanted = wanted
        self.asked: dict[str, Any] = {}

    def _answer(self, name: str, value: Any) -> Any:
        assert name not in self.asked, f"{name} was asked for twice"
        self.asked[name] = self.wanted.get(name, value)
        return self.asked[name]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, self.random.choice(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return int(self._answer(name, self.random.randrange(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, self.random.uniform(low, high)))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("hyperprior")


def sample(space: SearchSpace, trial: Any) -> TrialSpec:
    return space.sample(
        trial, plan=PLAN, seed=7, teacher_coordinates=TEACHERS, stands_on={"teacher": "ab"}
    )


def written(folder: Path, text: str) -> SearchSpace:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_space(path)


# --- sampling --------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
def test_every_spec_lies_in_its_space(space: SearchSpace, seed: int) -> None:
    dice = Dice(seed)
    spec = sample(space, dice)
    for name, value in dice.asked.items():
        parameter = space.parameters[name]
        if isinstance(parameter, FloatRange):
            assert parameter.low <= value <= parameter.high
        else:
            assert value in parameter.values
    assert spec.encoder.width == dice.asked["encoder.width"]
    assert spec.decoder.activation == dice.asked["decoder.activation"]
    assert spec.training.learning_rate == dice.asked["training.learning_rate"]


@given(seed=st.integers(0, 10_000))
def test_the_answers_of_a_trial_give_its_spec_again(space: SearchSpace, seed: int) -> None:
    dice = Dice(seed)
    spec = sample(space, dice)
    again = sample(space, optuna.trial.FixedTrial(dice.asked))
    assert again == spec
    assert again.hash == spec.hash


def test_what_the_study_fixes_is_in_the_spec(space: SearchSpace) -> None:
    spec = sample(space, Dice(0))
    assert (spec.training.steps, spec.training.batch, spec.training.crop_px) == (10, 4, 64)
    assert spec.training.rd_lambdas == PLAN.rd_lambdas
    assert (spec.seed, spec.stands_on) == (7, {"teacher": "ab"})


def test_without_a_teacher_no_weight_is_asked_for_and_all_are_zero(space: SearchSpace) -> None:
    dice = Dice(0, **{"distillation.teacher": "none"})
    assert sample(space, dice).distillation == Distillation()
    assert [n for n in dice.asked if n.startswith("distillation.")] == ["distillation.teacher"]


@pytest.mark.parametrize("channels", [128, 192])
def test_the_entropy_term_exists_only_where_latents_are_as_wide_as_the_teachers(
    space: SearchSpace, channels: int
) -> None:
    wanted = {"distillation.teacher": "teacher:default", "latent.channels": channels}
    dice = Dice(0, **wanted)
    found = sample(space, dice).distillation
    shared = channels == 192
    assert ("distillation.entropy" in dice.asked) is shared
    assert ("distillation.temperature" in dice.asked) is shared
    assert (found.entropy > 0) is shared
    assert (found.temperature != 1.0) is shared
    assert {"distillation.latent", "distillation.hyper_latent", "distillation.output"} <= {
        *dice.asked
    }


def test_a_temperature_that_scales_nothing_is_not_asked_for(space: SearchSpace) -> None:
    wanted = {"distillation.teacher": "teacher:default", "latent.channels": 192}
    dice = Dice(0, **wanted, **{"distillation.entropy": 0.0})
    assert sample(space, dice).distillation.temperature == 1.0
    assert "distillation.temperature" not in dice.asked


@pytest.mark.parametrize("output", [0.0, 0.1])
def test_a_schedule_is_asked_for_only_where_it_has_something_to_schedule(
    tmp_path: Path, output: float
) -> None:
    space = written(
        tmp_path,
        f"{FIXED}distillation: {{teacher: teacher:default, output: {output}, "
        "schedule: [constant, decaying, first_half]}\n",
    )
    dice = Dice(0, **{"distillation.schedule": "decaying"})
    found = sample(space, dice).distillation
    assert ("distillation.schedule" in dice.asked) is (output > 0)
    assert found.schedule == ("decaying" if output else "constant")


@pytest.mark.parametrize("layers", [2, 4])
def test_a_stride_is_asked_for_of_two_layers_and_a_taper_of_four(
    tmp_path: Path, layers: int
) -> None:
    axes = "layers: [2, 4], stride: [2, 4], taper: [1, 2], convolution: [full, separable]"
    text = FIXED.replace("decoder: {width: 32,", f"decoder: {{width: 32, {axes},")
    space = written(tmp_path, text)
    wanted = {"decoder.layers": layers, "decoder.stride": 4, "decoder.taper": 2}
    dice = Dice(0, **wanted, **{"decoder.convolution": "separable"})
    decoder = sample(space, dice).decoder
    asked = {"decoder.stride"} if layers == 2 else {"decoder.taper"}
    assert dice.asked.keys() == {"decoder.layers", "decoder.convolution"} | asked
    assert (decoder.layers, decoder.convolution) == (layers, "separable")
    assert (decoder.stride, decoder.taper) == ((4, 1) if layers == 2 else (8, 2))
    assert space.unusable(TEACHERS) == []


@pytest.mark.parametrize(
    ("axes", "distillation", "problem"),
    [
        ("stride: 4", "", ("decoder.stride", "belongs to decoder.layers: 2")),
        ("layers: 2, taper: [1, 2]", "", ("decoder.taper", "belongs to decoder.layers: 4")),
        (
            "layers: [2, 4]",
            "features: 0.1, feature_layer: g_s.4",
            ("distillation.feature_layer", "g_s.4 is no layer of a decoder with"),
        ),
    ],
)
def test_an_axis_of_a_decoder_that_nobody_has_is_told(
    tmp_path: Path, axes: str, distillation: str, problem: tuple[str, str]
) -> None:
    text = FIXED.replace("decoder: {width: 32,", f"decoder: {{width: 32, {axes},")
    taught = f"distillation: {{teacher: teacher:default, {distillation}}}\n"
    ((key, rule),) = written(tmp_path, text + taught).unusable(TEACHERS)
    assert key == problem[0]
    assert rule.startswith(problem[1])


@pytest.mark.parametrize("latent", [0.0, 0.1])
def test_weights_of_channels_are_asked_for_only_with_a_latent_term(
    tmp_path: Path, latent: float
) -> None:
    space = written(
        tmp_path,
        f"{FIXED}distillation: {{teacher: teacher:default, latent: {latent}, "
        "channel_weights: [equal, by_bits]}\n",
    )
    dice = Dice(0, **{"distillation.channel_weights": "by_bits"})
    found = sample(space, dice).distillation
    assert ("distillation.channel_weights" in dice.asked) is (latent > 0)
    assert found.channel_weights == ("by_bits" if latent else "equal")


def test_the_papers_loss_has_a_weight_of_rate_and_distortion_and_no_entropy_term(
    tmp_path: Path,
) -> None:
    space = written(
        tmp_path,
        f"{FIXED}distillation: {{teacher: teacher:default, latent: 0.2, output: 0.2, "
        "paper_compat: true, rd: {low: 0.2, high: 0.8}}\n",
    )
    dice = Dice(0, **{"distillation.rd": 0.6})
    found = sample(space, dice).distillation
    assert list(dice.asked) == ["distillation.rd"]
    assert found == Distillation(
        teacher="teacher:default", latent=0.2, output=0.2, paper_compat=True, rd=0.6
    )
    assert space.unusable(TEACHERS) == []


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        (
            "rd: 0.6",
            [("rd", "must be 1 without paper_compat: true; only the paper's loss weights")],
        ),
        (
            "paper_compat: true, entropy: [0.0, 0.5], channel_weights: by_bits",
            [
                ("entropy", "must be 0 with paper_compat: true; the paper's loss"),
                ("channel_weights", "must be equal with paper_compat: true; the paper's loss"),
            ],
        ),
    ],
)
def test_what_contradicts_the_papers_loss_is_told(
    tmp_path: Path, settings: str, problems: list[tuple[str, str]]
) -> None:
    text = f"{FIXED}distillation: {{teacher: teacher:default, {settings}}}\n"
    found = written(tmp_path, text).unusable(TEACHERS)
    assert [key for key, _ in found] == [f"distillation.{key}" for key, _ in problems]
    for (_, said), (_, rule) in zip(found, problems, strict=True):
        assert said.startswith(rule)


def test_a_teacher_that_is_not_here_is_named_with_those_that_are(space: SearchSpace) -> None:
    with pytest.raises(ConfigError) as caught:
        space.sample(
            Dice(0, **{"distillation.teacher": "teacher:default"}),
            plan=PLAN,
            seed=0,
            teacher_coordinates={
                "teacher:defalt": Coordinates(192, "scale"),
                "file:x": Coordinates(96, "scale"),
            },
            stands_on={},
        )
    assert str(caught.value) == (
        'distillation.teacher: there is no teacher "teacher:default"\n'
        "  fix: known here, nearest first: teacher:defalt, file:x"
    )


def test_no_entropy_term_between_codecs_with_and_without_means(tmp_path: Path) -> None:
    both = FIXED.replace("hyper: {width: 32}", "hyper: {width: 32, prior: [scale, mean_scale]}")
    space = written(tmp_path, f"{both}distillation: {{teacher: teacher:default, entropy: 0.5}}\n")
    found = {}
    for prior in ("scale", "mean_scale"):
        spec = sample(space, Dice(0, **{"hyper.prior": prior}))
        found[spec.hyper.prior] = spec.distillation.entropy
    assert found == {"scale": 0.5, "mean_scale": 0.0}
    assert space.unusable(TEACHERS) == []
    assert space.unusable({"teacher:default": Coordinates(128, "mean_scale")}) == [
        (
            "distillation.entropy",
            "needs a latent.channels of 128 with hyper.prior mean_scale, the teacher's",
        )
    ]


def test_no_entropy_term_where_neighbours_correct_the_gaussians(tmp_path: Path) -> None:
    both = FIXED.replace("hyper: {width: 32}", "hyper: {width: 32, context: CONTEXT}")
    text = f"{both}distillation: {{teacher: teacher:default, entropy: 0.5}}\n"
    space = written(tmp_path, text.replace("CONTEXT", "[none, checkerboard]"))
    found = {}
    for context in ("none", "checkerboard"):
        spec = sample(space, Dice(0, **{"hyper.context": context}))
        found[spec.hyper.context] = spec.distillation.entropy
    assert found == {"none": 0.5, "checkerboard": 0.0}
    assert space.unusable(TEACHERS) == []
    ((key, rule),) = written(tmp_path, text.replace("CONTEXT", "checkerboard")).unusable(TEACHERS)
    assert key == "distillation.entropy"
    assert rule.startswith("needs hyper.context none")


def test_a_context_that_is_none_leaves_hashes_as_they_were(tmp_path: Path) -> None:
    told = FIXED.replace("hyper: {width: 32}", "hyper: {width: 32, context: none}")
    plain, none = (sample(written(tmp_path, text), Dice(0)) for text in (FIXED, told))
    assert plain.hash == none.hash
    assert "context" not in canonical_json(plain.hyper)


def test_channels_are_weighted_by_the_bits_of_a_codec_of_ours_alone(tmp_path: Path) -> None:
    text = FIXED + "distillation: {teacher: TEACHER, latent: 0.5, channel_weights: by_bits}\n"
    assert written(tmp_path, text.replace("TEACHER", "teacher:default")).unusable(TEACHERS) == []
    zoo = "{latent: zoo:bmshj2018-hyperprior/1, output: teacher:default}"
    ((key, rule),) = written(tmp_path, text.replace("TEACHER", zoo)).unusable(TEACHERS)
    assert key == "distillation.channel_weights"
    assert rule.endswith("teacher:NAME or file:PATH, and zoo:bmshj2018-hyperprior/1 is none")


def test_fixed_parameters_are_never_asked_for(tmp_path: Path) -> None:
    space = written(tmp_path, FIXED)
    dice = Dice(0)
    spec = sample(space, dice)
    assert (dice.asked, space.n_parameters, space.name) == ({}, 0, "mine")
    assert spec.training.learning_rate == 1e-3
    assert spec.distillation.teacher is None
    assert space.diagonal() == [{}]


def test_a_list_of_one_and_a_range_of_one_are_fixed_too(tmp_path: Path) -> None:
    once = FIXED.replace("channels: 192", "channels: [192]").replace(
        "hyper: {width: 32}", "hyper: {width: {low: 32, high: 32}}"
    )
    dice = Dice(0)
    assert sample(written(tmp_path, once), dice) == sample(written(tmp_path, FIXED), Dice(0))
    assert dice.asked == {}


@given(seed=st.integers(0, 1000))
def test_no_trial_is_asked_more_than_there_are_parameters(space: SearchSpace, seed: int) -> None:
    dice = Dice(seed)
    sample(space, dice)
    assert dice.asked.keys() <= {n for n, p in space.parameters.items() if not p.fixed}
    assert space.n_parameters == 14


# --- the diagonal ----------------------------------------------------------------------------


def test_the_diagonal_is_uniform_ascending_and_rich(space: SearchSpace) -> None:
    specs = [sample(space, optuna.trial.FixedTrial(point)) for point in space.diagonal()]
    assert [spec.encoder.width for spec in specs] == [16, 24, 32, 48, 64]
    assert [spec.hyper.width for spec in specs] == [64] * 5
    for spec in specs:
        assert spec.encoder == spec.decoder
        assert (spec.encoder.kernel, spec.encoder.activation) == (5, "gdn")
        assert spec.latent.channels == 192
        assert spec.distillation.teacher == "teacher:default"
        assert spec.distillation.latent == pytest.approx(0.1**0.5)  # geometric middle
        assert spec.distillation.output == pytest.approx(0.03)
        assert spec.distillation.temperature == pytest.approx(2**0.5)


def test_an_enqueued_point_is_what_the_sampler_then_gives(space: SearchSpace) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    points = space.diagonal()
    for point in points:
        study.enqueue_trial(point)
    specs = [sample(space, study.ask()) for _ in points]
    assert [spec.decoder.width for spec in specs] == [16, 24, 32, 48, 64]


def test_a_long_diagonal_is_thinned_to_five_points_with_both_ends(tmp_path: Path) -> None:
    wide = FIXED.replace("width: 32, kernel", "width: {low: 8, high: 128, step: 8}, kernel")
    widths = [point["encoder.width"] for point in written(tmp_path, wide).diagonal()]
    assert (len(widths), widths[0], widths[-1]) == (5, 8, 128)
    assert widths == sorted(set(widths))


def test_without_a_common_width_there_is_no_diagonal(tmp_path: Path) -> None:
    apart = FIXED.replace("encoder: {width: 32", "encoder: {width: [48, 64]")
    assert written(tmp_path, apart).diagonal() == []


def test_gdn_and_kernel_5_are_taken_only_where_the_space_has_them(tmp_path: Path) -> None:
    poor = FIXED.replace(
        "encoder: {width: 32, kernel: 5, activation: gdn}",
        "encoder: {width: [16, 32], kernel: [3], activation: relu}",
    )
    (point,) = written(tmp_path, poor).diagonal()
    assert point == {"encoder.width": 32}


# --- reading ---------------------------------------------------------------------------------


def test_a_list_is_a_choice_a_mapping_a_range_a_value_fixed(space: SearchSpace) -> None:
    assert space.hyper.width == Choice(values=(64,))
    assert space.distillation.output == FloatRange(low=0.003, high=0.3, log=True)
    assert space.training.learning_rate == FloatRange(low=1e-3, high=6e-3, log=True)
    assert IntRange(low=8, high=24, step=8).values == (8, 16, 24)


WRONG = {
    "hyper.width: []": "got []; the list is empty; give at least one value",
    "hyper.width: [16, 16]": "got [16, 16]; 16 is in the list twice",
    "hyper.width: [16, 0]": "got [16, 0]; every value must be a whole number from 1 to 1024",
    "hyper.width: 0": "got 0; must be a whole number from 1 to 1024",
    "hyper.width: 16.5": "got 16.5; must be a whole number from 1 to 1024",
    "hyper.width: true": "got true; must be a whole number from 1 to 1024",
    "hyper.width: wide": 'got "wide"; must be a whole number from 1 to 1024',
    "hyper.width: [[16]]": "got [[16]]; every value must be a whole number from 1 to 1024",
    "hyper.width: {low: 64, high: 16}": 'got {"low": 64, "high": 16}; the range is empty: low is '
    "above high",
    "hyper.width: {low: 16}": 'got {"low": 16}; a range needs high',
    "hyper.width: {low: 16, hgih: 32}": 'got {"low": 16, "hgih": 32}; a range has the keys low, '
    "high, step, not hgih",
    "hyper.width: {low: 16, high: 33, step: 16}": 'got {"low": 16, "high": 33, "step": 16}; high '
    "must lie a whole number of steps above low",
    "hyper.width: {low: 16, high: 32, step: 0}": 'got {"low": 16, "high": 32, "step": 0}; step '
    "must be a whole number of at least 1",
    "hyper.width: {low: 1, high: 9999}": 'got {"low": 1, "high": 9999}; low and high must be a '
    "whole number from 1 to 1024",
    "encoder.kernel: [3, 7]": "got [3, 7]; every value must be 3 or 5",
    "encoder.layers: 2": "no such key; known here: width, kernel, activation, convolution",
    "decoder.layers: 3": "got 3; must be 2 or 4",
    "decoder.stride: 16": "got 16; must be 2, 4 or 8",
    "decoder.taper: [1, 3]": "got [1, 3]; every value must be 1 or 2",
    "hyper.context: chequerboard": 'got "chequerboard"; must be none or checkerboard',
    "decoder.convolution: depthwise": 'got "depthwise"; must be full or separable',
    "encoder.kernel: {low: 3, high: 5}": 'got {"low": 3, "high": 5}; every value of the range '
    "must be 3 or 5",
    "encoder.activation: [gdn, rleu]": 'got ["gdn", "rleu"]; every value must be gdn or relu',
    "encoder.activation: {low: 1, high: 2}": 'got {"low": 1, "high": 2}; must be a name or a list '
    "of names, not a range",
    "distillation.teacher: default": 'got "default"; must be teacher:NAME, '
    "file:PATH, zoo:MODEL/QUALITY, plugin:NAME or none",
    "distillation.latent: -0.1": "got -0.1; must be a number of at least 0",
    "distillation.latent: .inf": "got Infinity; must be a number of at least 0",
    "distillation.temperature: 0": "got 0; must be a number above 0",
    "distillation.channel_weights: by_bit": 'got "by_bit"; must be equal or by_bits',
    "distillation.channel_weights: [equal, bits]": 'got ["equal", "bits"]; every value must be '
    "equal or by_bits",
    "distillation.paper_compat: [true, false]": "got [true, false]; must be true or false, one for "
    "the whole study",
    "distillation.rd: -1": "got -1; must be a number of at least 0",
    "distillation.schedule: cosine": 'got "cosine"; must be constant, decaying, first_half or '
    "staged",
    "distillation.latent_schedule: staged": 'got "staged"; must be constant, decaying or '
    "first_half",
    "distillation.feature_layer: h_a.0": 'got "h_a.0"; must be the name of a layer of g_a or g_s, '
    "such as g_a.5",
    "distillation.latent: .nan": "got NaN; must be a number of at least 0",
    "distillation.output: {low: 0, high: 1, log: true}": 'got {"low": 0, "high": 1, "log": true}; '
    "a log range needs a low above 0",
    "distillation.output: {low: 0, high: 1, log: 1}": 'got {"low": 0, "high": 1, "log": 1}; log '
    "must be true or false",
    "distillation.output: {low: 0, high: 1, step: 1}": 'got {"low": 0, "high": 1, "step": 1}; a '
    "range has the keys low, high, log, not step",
}


@pytest.mark.parametrize(("line", "text"), WRONG.items(), ids=str)
def test_each_wrong_parameter_is_told_with_place_value_and_rule(
    tmp_path: Path, line: str, text: str
) -> None:
    key, _, value = line.partition(": ")
    part, _, name = key.partition(".")
    lines = [row for row in FIXED.splitlines() if not row.startswith(part)]
    side = "width: 32, kernel: 5, activation: gdn"
    rest = {"encoder": side, "decoder": side, "hyper": "width: 32", "distillation": ""}
    others = [item for item in rest[part].split(", ") if item and not item.startswith(name)]
    lines.append(f"{part}: {{{', '.join([*others, f'{name}: {value}'])}}}")
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, "\n".join(lines))
    assert str(caught.value) == (
        f"{tmp_path}/mine.yaml:{len(lines)}: {key}: {text}\n"
        "  fix: correct what is listed; `kdbench check` reads every study and space file again"
    )


def test_an_unknown_space_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_space("hyperpriro")
    assert str(caught.value) == (
        'there is no search space "hyperpriro"\n'
        "  fix: known here, nearest first: hyperprior, frontier, smoke; or give the path of a "
        ".yaml file"
    )
