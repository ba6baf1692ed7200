"""A space whose students another package brings: its axes, what is drawn, what is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdbench import families
from kdbench.check import check_files
from kdbench.config import from_settings, load_study, settings
from kdbench.errors import ConfigError
from kdbench.families import number, one_of, whole_number
from kdbench.records import Coordinates, FamilyArchitecture, FamilyCodec, Offer, TrialSpec
from kdbench.space import SearchSpace, load_space
from tests.support.packages import install_elic

TEACHER = Coordinates(48, "scale")
CODEC = (
    "codec: {family: elic, encoder: [16, 24, 32], decoder: {low: 8, high: 16, step: 8}, blocks: 1, "
    "latent: [32, 48], hyper: 16}\n"
)
REST = "training: {learning_rate: 1.0e-3}\n"
LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
ELIC = {"encoder": 16, "decoder": 8, "blocks": 1, "latent": 48, "hyper": 16}


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_elic(patch, tmp_path_factory.mktemp("site"))
        yield


def space_of(folder: Path, content: str) -> SearchSpace:
    path = folder / "lic.yaml"
    path.write_text(content + REST)
    return load_space(path)


def drawn(space: SearchSpace, params: Mapping[str, Any]) -> TrialSpec:
    return space.sample(
        optuna.trial.FixedTrial(dict(params)),
        plan=load_study("kd_pareto").training,
        seed=0,
        teacher_coordinates={"teacher:t": TEACHER},
        stands_on={},
    )


def test_axes_are_parameters_as_any_other(tmp_path: Path) -> None:
    space = space_of(tmp_path, CODEC)
    assert [name for name in space.parameters if name.startswith("codec.")] == [
        *("codec.encoder", "codec.decoder", "codec.blocks", "codec.latent", "codec.hyper"),
    ]
    assert not any(name.startswith("encoder.") for name in space.parameters)
    assert space.n_parameters == 3
    spec = drawn(space, {"codec.encoder": 24, "codec.decoder": 16, "codec.latent": 48})
    offer = Offer(channels=48, hyper_width=16, prior=None)
    axes = {"encoder": 24, "decoder": 16, "blocks": 1, "latent": 48, "hyper": 16}
    assert spec.codec == FamilyCodec(family="elic", axes=axes, offer=offer)
    assert spec.architecture == FamilyArchitecture(codec=spec.codec, n_levels=5)
    assert spec.architecture.coordinates == Coordinates(48, None)
    assert spec.encoder is None


def test_a_study_begins_small_in_the_middle_and_large(tmp_path: Path) -> None:
    points = space_of(tmp_path, CODEC).diagonal()
    assert points == [
        {"codec.encoder": 16, "codec.decoder": 8, "codec.latent": 32},
        {"codec.encoder": 24, "codec.decoder": 16, "codec.latent": 48},
        {"codec.encoder": 32, "codec.decoder": 16, "codec.latent": 48},
    ]
    fixed = CODEC.replace("[16, 24, 32]", "16").replace("{low: 8, high: 16, step: 8}", "8")
    assert space_of(tmp_path, fixed.replace("[32, 48]", "48")).diagonal() == [{}]


def test_a_spec_of_a_family_has_a_hash_of_its_own_and_no_half() -> None:
    plan = load_study("kd_pareto")
    spec = drawn_from_study(plan.space)
    offer = Offer(channels=48, hyper_width=16, prior=None)
    codec = FamilyCodec(family="elic", axes=ELIC, offer=offer)
    bare: dict[str, Any] = {"encoder": None, "decoder": None, "hyper": None, "latent": None}
    other = replace(spec, codec=codec, **bare)
    assert other.hash != spec.hash
    assert other.architecture.hash != spec.architecture.hash
    for wrong in ({"codec": codec}, {"encoder": None}, bare):
        with pytest.raises(ValueError, match="a spec has encoder, decoder, hyper and latent"):
            replace(spec, **wrong)


def drawn_from_study(space: SearchSpace) -> TrialSpec:
    params = {name: parameter.middle for name, parameter in space.parameters.items()}
    params["distillation.teacher"] = "none"
    return drawn(space, params)


def test_settings_of_such_a_study_come_back(tmp_path: Path) -> None:
    (tmp_path / "lic.yaml").write_text(CODEC + REST)
    (tmp_path / "study.yaml").write_text(
        f"space: {tmp_path / 'lic.yaml'}\nobjectives: [params]\ntrials: 1\n"
        f"training: {{steps: 1, batch: 1, crop_px: 64, rd_lambdas: {list(LAMBDAS)}}}\n"
    )
    study = load_study(tmp_path / "study.yaml", ["space.codec.encoder=[8,16]"])
    assert settings(study)["space"]["codec"] == {
        "family": "elic",
        "encoder": [8, 16],
        "decoder": {"low": 8, "high": 16, "step": 8},
        "blocks": 1,
        "latent": [32, 48],
        "hyper": 16,
    }
    assert "encoder" not in settings(study)["space"]
    assert from_settings(settings(study), "here") == study
    assert "codec" not in settings(load_study("kd_pareto"))["space"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("hyper: 16", "hypre: 16", "codec.hypre: got 16; elic has no such axis; it has hyper, "),
        ("blocks: 1", "blocks: 9", "codec.blocks: got 9; must be a whole number from 0 to 8"),
        ("blocks: 1", "blocks: [1, 1]", "codec.blocks: got [1, 1]; 1 is in the list twice"),
        ("blocks: 1", "blocks: deep", 'codec.blocks: got "deep"; must be a whole number from 0'),
        ("hyper: 16", "hyper: {low: 16}", "codec.hyper: got"),
    ],
)
def test_an_axis_that_breaks_its_rule_is_told_at_its_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        space_of(tmp_path, CODEC.replace(old, new))
    assert f"lic.yaml:1: {problem}" in refused.value.problem


def test_a_missing_axis_is_named_and_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        space_of(tmp_path, CODEC.replace("hyper: 16", "hypre: 16").replace("blocks: 1, ", ""))
    assert refused.value.problem.startswith("3 problems:\n")
    assert "codec.blocks: is missing" in refused.value.problem
    assert "codec.hyper: is missing" in refused.value.problem


@pytest.mark.parametrize(
    ("distillation", "problem"),
    [
        (
            "entropy: 0.1",
            "distillation.entropy: needs Gaussians that can be compared with the teacher's; "
            "codec.family elic offers none, so set it to 0",
        ),
        ("latent: 0.1, hyper_latent: 0.1, output: 0.1", None),
    ],
)
def test_check_refuses_terms_that_the_family_does_not_offer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distillation: str, problem: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    path = tmp_path / "search_spaces" / "lic.yaml"
    path.write_text(f"{CODEC}distillation: {{teacher: teacher:t, {distillation}}}\n{REST}")
    found = [str(each) for each in check_files(["lic"], {"teacher:t": TEACHER})]
    assert found == ([] if problem is None else [f"search_spaces/lic.yaml:2: {problem}"])


def test_terms_of_what_a_student_lacks_are_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CODEC + "distillation: {teacher: teacher:t, hyper_latent: 0.1, entropy: 0.1}\n"
    space = space_of(tmp_path, content)
    params = {"codec.encoder": 24, "codec.decoder": 16, "codec.latent": 48}
    assert drawn(space, params).distillation.weights == {"hyper_latent": 0.1}
    known = families.find("elic")

    def other(**changes: Any) -> None:
        offer = replace(Offer(channels=48, hyper_width=16, prior="scale"), **changes)
        family = replace(known, offer=lambda values: offer)
        monkeypatch.setattr(families, "find", lambda name: family)

    other(hyper_width=None, prior=None)
    assert drawn(space, params).distillation.is_off
    assert [key for key, _ in space.unusable({"teacher:t": TEACHER})] == [
        "distillation.hyper_latent",
        "distillation.entropy",
    ]
    other()
    assert drawn(space, params).distillation.entropy == 0.1
    assert space.unusable({"teacher:t": TEACHER}) == []
    other(channels=32)
    assert space.unusable({"teacher:t": TEACHER}) == [
        (
            "distillation.entropy",
            "needs a teacher with 32 channels (scale), as codec.family elic",
        )
    ]


def test_too_many_codecs_to_look_at_are_left_to_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(tmp_path, CODEC + "distillation: {teacher: teacher:t, entropy: 0.1}\n")
    assert space.codec is not None
    assert space.codec.coordinates == {Coordinates(32, None), Coordinates(48, None)}
    monkeypatch.setattr("kdbench.space.N_COMBINATIONS", 3)
    found: object = space.codec.coordinates
    assert found is None
    assert space.unusable({"teacher:t": TEACHER}) == []


def test_kinds_of_axes() -> None:
    assert whole_number(2, 4)([2, 4]).middle == 4
    assert number(0, 1)({"low": 0.25, "high": 0.75}).middle == 0.5
    assert one_of("a", "b")("b").middle == "b"
    assert one_of("a", "b").rule == "one of a, b"
