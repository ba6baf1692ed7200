"""Teachers that other packages bring: an attention codec teaches, and what cannot says why."""

from importlib import metadata
from pathlib import Path

import pytest

from kdbench import plugins
from kdbench.check import check_files
from kdbench.data import CropList, draw_crops
from kdbench.doctor import _plugins
from kdbench.errors import CodecError
from kdbench.guides import coordinates_of, load_teachers, open_caches, shares, teacher_sha
from kdbench.records import Coordinates, Offer
from tests.support import attention
from tests.support.attention import bring
from tests.support.codecs import photos

RD_LAMBDAS = (0.0018, 0.0067, 0.013)
Patch = pytest.MonkeyPatch
SPACE = """\
encoder: {width: 24, kernel: 3, activation: gdn}
decoder: {width: 24, kernel: 3, activation: gdn}
hyper: {width: 16}
latent: {channels: 48}
training: {learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def crops() -> CropList:
    return draw_crops(photos(), 20, 64, seed=0)


def test_a_codec_of_another_package_teaches(
    tmp_path: Path, monkeypatch: Patch, crops: CropList
) -> None:
    bring(monkeypatch, vit="one")
    (teacher,) = load_teachers("plugin:vit")
    assert teacher.offer == Offer(channels=24, hyper_width=12, prior="mean_scale")
    assert (teacher.name, teacher.rd_lambdas) == ("plugin:vit", (0.0067,))
    guiding = shares("plugin:vit", (teacher,), RD_LAMBDAS)
    assert [share.levels for share in guiding] == [(1,)]
    (cache,) = open_caches(guiding, crops, RD_LAMBDAS, tmp_path, cache_gib=1.0)
    assert cache.latents(20).shape == (20, 24, 4, 4)
    assert teacher_sha("plugin:vit") == teacher.sha == load_teachers("plugin:vit")[0].sha


def test_models_of_several_rates_guide_a_level_each(monkeypatch: Patch) -> None:
    bring(monkeypatch, vit="two")
    teachers = load_teachers("plugin:vit")
    assert [t.name for t in teachers] == [
        "plugin:vit at rd_lambda 0.0018",
        "plugin:vit at rd_lambda 0.013",
    ]
    assert [t.offer.channels for t in teachers] == [24, 32]
    assert [s.levels for s in shares("plugin:vit", teachers, RD_LAMBDAS)] == [(0,), (2,)]
    assert coordinates_of(teachers) == Coordinates(24, None)
    assert len({t.sha for t in teachers} | {teacher_sha("plugin:vit")}) == 3


def test_its_weights_are_part_of_what_identifies_it(monkeypatch: Patch) -> None:
    bring(monkeypatch, vit="one")
    (teacher,) = load_teachers("plugin:vit")
    model = attention.AttentionCodec()
    monkeypatch.setattr(attention, "one", lambda: {0.0067: model})
    assert teacher_sha("plugin:vit") != teacher.sha


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("eighth", r"plugin:vit: y of a 64x64 px image has the shape \(1, 24, 8, 8\); students"),
        ("broken", r"plugin:vit \(.*:broken\) cannot be loaded: FileNotFoundError: no weights at"),
        ("odd", r"plugin:vit \(.*:odd\) gives no models by their rd_lambda"),
        ("nothing", r"plugin:vit \(.*:nothing\) cannot be loaded: AttributeError"),
        ("not.a.module:f", r"plugin:vit \(not.a.module:f\) cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_what_cannot_teach_says_why(monkeypatch: Patch, function: str, problem: str) -> None:
    bring(monkeypatch, vit=function)
    with pytest.raises(CodecError, match=problem):
        load_teachers("plugin:vit")
    (finding,) = _plugins()
    assert (finding.name, finding.verdict) == ("plugin:vit", "broken")


def test_one_that_nobody_brings_is_an_error_with_those_that_are_here(monkeypatch: Patch) -> None:
    bring(monkeypatch, vit="one", other="two")
    with pytest.raises(CodecError, match="no installed package brings a teacher 'vti'") as missing:
        load_teachers("plugin:vti")
    assert "nearest first: plugin:vit, plugin:other" in missing.value.fix


def test_nothing_is_brought_here() -> None:
    assert plugins.known() == {}
    assert metadata.entry_points(group="console_scripts")
    assert _plugins() == []


def test_doctor_says_what_each_offers(monkeypatch: Patch) -> None:
    bring(monkeypatch, vit="two")
    (finding,) = _plugins()
    assert finding.verdict == "ok"
    assert finding.detail == (
        "rd_lambda 0.0018: M=24, z of 12, Gaussians (mean_scale); "
        "rd_lambda 0.013: M=32, z of 12, Gaussians (mean_scale); no curve to check"
    )


def test_check_knows_their_names_and_leaves_their_terms_to_the_study(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    bring(monkeypatch, vit="eighth")
    monkeypatch.chdir(tmp_path)
    space = tmp_path / "search_spaces" / "taught.yaml"
    space.parent.mkdir()
    space.write_text(f"{SPACE}distillation: {{teacher: plugin:vit, entropy: 0.1}}\n")
    assert check_files(["taught"], {}) == []
    space.write_text(f"{SPACE}distillation: {{teacher: plugin:vti, entropy: 0.1}}\n")
    (problem,) = map(str, check_files(["taught"], {}))
    assert problem.startswith(
        "search_spaces/taught.yaml:6: distillation.teacher: no installed package brings a teacher "
        "'vti'; known, nearest first: plugin:vit; "
    )
