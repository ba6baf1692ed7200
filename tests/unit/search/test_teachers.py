"""A teacher is checked before it teaches, and one that fails stops the study."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench import anchor
from kdbench.anchor import Anchor
from kdbench.codecs.weights import codec_bytes
from kdbench.errors import CodecError
from kdbench.records import RDCurve, RDPoint
from kdbench.search import budget, worker
from kdbench.search.teachers import require_cards, require_same_curve
from kdbench.store import Store
from tests.support import search as stub
from tests.support.codecs import architecture, finished
from tests.unit.search.lab import Lab

CARD = (
    RDPoint(level=0, bpp=0.2, psnr_db=28.0),
    RDPoint(level=1, bpp=0.4, psnr_db=31.0),
)
BUILTIN = "data.evaluation=builtin"
Patch = pytest.MonkeyPatch


def curve(points: Sequence[RDPoint]) -> RDCurve:
    values = tuple((p.bpp,) for p in points), tuple((p.psnr_db,) for p in points)
    return RDCurve(
        images=("a.png",), points=tuple(points), image_bpp=values[0], image_psnr_db=values[1]
    )


def changed(**values: float) -> RDCurve:
    return curve((CARD[0], replace(CARD[1], **values)))  # type: ignore[arg-type]


def test_noise_of_another_machine_passes() -> None:
    require_same_curve("teacher:a", CARD, curve(CARD))
    require_same_curve("teacher:a", CARD, changed(psnr_db=31.019, bpp=0.4039))
    require_same_curve("teacher:a", CARD, changed(psnr_db=30.981, bpp=0.3961))


@pytest.mark.parametrize("values", [{"psnr_db": 30.97}, {"bpp": 0.405}, {"psnr_db": float("nan")}])
def test_another_curve_is_an_error_with_the_level_and_both_values(
    values: dict[str, float],
) -> None:
    with pytest.raises(CodecError, match=r"teacher:a is not what its card says: level 1") as wrong:
        require_same_curve("teacher:a", CARD, changed(**values))
    here = {"psnr_db": 31.0, "bpp": 0.4} | values
    assert f"{here['psnr_db']:.2f} dB at {here['bpp']:.4f} bpp here" in wrong.value.problem
    assert "31.00 dB at 0.4000 bpp there" in wrong.value.problem
    assert "kdbench teach" in wrong.value.fix


def test_a_curve_of_other_levels_is_an_error() -> None:
    with pytest.raises(CodecError, match=r"has the levels \[0\], and its card a curve of \[0, 1\]"):
        require_same_curve("teacher:a", CARD, curve(CARD[:1]))


# --- which teachers ------------------------------------------------------------------------------


class _Asked:
    """`anchor_curve`, without the twenty seconds."""

    def __init__(self, patch: Patch) -> None:
        self.names: list[str] = []
        patch.setattr(anchor, "anchor_curve", self)

    def __call__(self, name: str, images: Any, **_: Any) -> Anchor:
        self.names.append(name)
        assert images.n > 2  # the built-in ones
        return Anchor(name=name, sha="ab", curve=curve(CARD))


def teacher(folder: Path, name: str, **card: object) -> str:
    path = folder / f"{name}.safetensors"
    training = {"training": {"rd_lambdas": [0.0018, 0.025]}}
    path.write_bytes(codec_bytes(finished(architecture()), training | card))
    return f"file:{path}"


def check(folder: Path, *names: str, overrides: Sequence[str] = (BUILTIN,)) -> None:
    ground = replace(stub.GROUND, teachers=dict.fromkeys(names, "ab"))
    require_cards(stub.study(folder, *overrides), ground, Store(folder))


def test_teachers_with_a_curve_are_measured_on_the_built_in_photos(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    asked = _Asked(monkeypatch)
    rd = [{"level": p.level, "bpp": p.bpp, "psnr_db": p.psnr_db} for p in CARD]
    good, silent = teacher(tmp_path, "good", rd=rd), teacher(tmp_path, "silent")
    check(tmp_path, good, silent, "zoo:mbt2018-mean/3")
    assert asked.names == [good]
    rd[1]["bpp"] = 0.5
    with pytest.raises(CodecError, match="level 1"):
        check(tmp_path, teacher(tmp_path, "bad", rd=rd))
    check(tmp_path, teacher(tmp_path, "bad", rd=rd), overrides=["data.evaluation=mine"])
    assert len(asked.names) == 2


def test_a_curve_in_a_card_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    _Asked(monkeypatch)
    with pytest.raises(CodecError, match=r"card of file:.* cannot be read: rd\.0\.bpp: "):
        check(tmp_path, teacher(tmp_path, "odd", rd=[{"level": 0, "bpp": "x", "psnr_db": 1.0}]))


def test_a_teacher_that_fails_stops_every_worker_of_the_study(lab: Lab, monkeypatch: Patch) -> None:
    study = lab.begin()

    def failing(*_: object) -> None:
        raise CodecError("teacher:a is not what its card says", fix="take another")

    monkeypatch.setattr(worker, "require_cards", failing)
    assert budget.verdict(study) == "ask"
    with pytest.raises(CodecError, match="not what its card says"):
        worker._check_ground(study, lab.config(), stub.GROUND, lab.store)
    assert budget.verdict(study) == "timeout"
