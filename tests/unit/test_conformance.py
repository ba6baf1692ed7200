"""The contract suite: ours and the example keep it; broken families are told what and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench import cli, families
from kdbench.conformance import CLAUSES, OWN, subject, try_clause, try_codec
from kdbench.errors import CodecError
from kdbench.plugins import CODECS
from tests.support.packages import install_elic, installed

Capture = pytest.CaptureFixture[str]
BROKEN = {
    "no_codec": ("builds", "codec family no_codec builds a NoCodec"),
    "refuses": (
        "builds",
        "codec family refuses cannot build the codec of encoder=16, decoder=16, blocks=1, "
        "latent=32, hyper=16: ValueError: blocks of 1 are out of stock",
    ),
    "wanders": ("starts", "two starts from one seed differ in log_gain"),
    "overstates": ("outputs", "z of 2 crops of 64 px is (2, 16, 1, 1); it must be (2, 99, 1, 1)"),
    "rounds": ("latents", "y is rounded already"),
    "halves": ("latents", "y_hat lies "),
    "upside_down": ("levels", "levels of rd_lambda 0.0018 and 0.025 start with "),
    "partless": (
        "countable",
        "predict of the codec belongs to none of g_a, h_a, h_s, g_s, entropy_model",
    ),
    "unused": ("gradients", "no gradient of the loss reaches unused"),
    "detached": ("gradients", "no gradient of the distortion reaches g_a.0.weight, g_a.0.bias, "),
    "in_training": ("trains", "is not in eval mode after finalise"),
    "clamps": (
        "checks levels",
        "forward takes level -1 of a codec of 3 levels, or fails without a word",
    ),
    "further": ("finalises", "finalising it again changes log_gain"),
    "noisy": ("deterministic", "two forward passes in eval mode differ"),
    "forgetful": ("saves", "a saved and loaded codec gives other pixels"),
    "otherwise": (
        "round trip",
        "a photo of 131x70 px at level 0 decodes to other pixels than forward gives",
    ),
    "disordered": (
        "round trip",
        "a photo of 131x70 px at level 0: the decoded latents are not the ones that were encoded",
    ),
    "here_alone": ("fresh process", "12 of 12 files decode to other pixels in a process of"),
    "overestimates": ("fresh process", "the range coder wrote "),
}
NO_FAMILY = {
    "nothing": "(tests.support.broken:nothing) is no kdbench.families.Family",
    "axisless": "must have at least one axis, none of them called family",
    "strange_axis": "has an axis odd that is none of whole_number, number and one_of",
    "exampleless": "must have an example value of each axis: encoder, decoder, blocks, latent",
    "strange_part": "has context in the part 'elsewhere'; there are g_a, h_a, h_s, g_s, entropy",
    "other_name": "must have g_a in the part g_a",
    "absent": "cannot be loaded: AttributeError: module 'tests.support.broken' has no attribute",
}


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    names = [*BROKEN, *NO_FAMILY]
    points = {name: f"tests.support.broken:{name}" for name in names}
    with pytest.MonkeyPatch.context() as patch:
        install_elic(patch, folder)
        installed(patch, folder, {CODECS: points})
        yield folder


@pytest.mark.parametrize("name", [OWN, "elic"])
def test_our_own_family_and_the_example_keep_every_clause(name: str) -> None:
    verdicts = try_codec(name)
    assert [v.clause for v in verdicts] == list(CLAUSES)
    assert [(v.clause, v.problem) for v in verdicts if v.problem is not None] == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_family_that_breaks_a_clause_is_told_which_and_what_to_do(name: str) -> None:
    clause, problem = BROKEN[name]
    verdict = try_clause(clause, subject(name))
    assert verdict.problem is not None
    assert verdict.problem.startswith(problem)
    assert verdict.fix is not None
    assert len(verdict.fix.split()) > 2


def test_every_clause_is_broken_by_somebody() -> None:
    assert {clause for clause, _ in BROKEN.values()} == CLAUSES.keys()


def test_without_what_the_others_need_they_are_not_tried() -> None:
    assert [v.clause for v in try_codec("no_codec")] == ["builds"]


def test_what_is_no_kdbench_error_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(tried: Any) -> None:
        raise IndexError("list index out of range\nmore")

    monkeypatch.setitem(CLAUSES, "levels", (stumbles, "what it demands"))
    verdict = try_clause("levels", subject(OWN))
    assert verdict.problem == "fails with IndexError: list index out of range"
    assert verdict.fix == "the clause says: what it demands"


@pytest.mark.parametrize("name", NO_FAMILY)
def test_what_is_behind_an_entry_point_must_be_a_family(name: str) -> None:
    with pytest.raises(CodecError) as refused:
        families.find(name)
    assert f"codec family {name} (" in refused.value.problem
    assert NO_FAMILY[name] in refused.value.problem


def test_check_says_every_clause_and_ends_with_one(capsys: Capture) -> None:
    assert cli.main(["check", "--codec", "no_codec"]) == 1
    said = capsys.readouterr()
    assert said.out == (
        "broken  builds: codec family no_codec builds a NoCodec\n"
        "          fix: build a subclass of kdbench.codecs.learned.LearnedCodec\n"
        f"codec no_codec: 1 clauses, 1 broken, {len(CLAUSES) - 1} not tried\n"
    )
    assert said.err == ""
