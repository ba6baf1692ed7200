"""Teaching: a card that says how, checks before hours are spent."""

import errno
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from kdbench import evaluate, files, train
from kdbench.arguments import parse
from kdbench.codecs.hyperprior import Hyperprior, images_bits
from kdbench.codecs.succeed import succeed
from kdbench.codecs.weights import KERNEL_NDIM, codec_bytes, load_codec
from kdbench.data import ImageSet, load_images
from kdbench.data.folder import BUILTIN
from kdbench.errors import CodecError, ConfigError, DataError, StoreError
from kdbench.evaluate import Evaluation
from kdbench.records import Architecture, Hyper, Progress, RDCurve, RDPoint, Training, Transform
from kdbench.teach import command_line, load_training_photos, planned, teach
from kdbench.teacher import load_teacher
from tests.support.codecs import (
    RD_LAMBDAS,
    architecture,
    as_tensor,
    crops,
    finished,
    save_teacher,
)

CARD: dict[str, Any] = {"name": "tiny", "sources": ["my photos", "builtin"], "licence": "CC0-1.0"}
POINT = RDPoint(level=0, bpp=0.25, psnr_db=30.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("photos")
    pixels = load_images("builtin", "train").image(0)
    PillowImage.fromarray(pixels[:160, :160]).save(folder / "a.png")
    return load_training_photos([str(folder)], 64)


@pytest.fixture(autouse=True)
def _no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve on eight photos takes longer than this whole file; `test_evaluate` has it."""
    curve = RDCurve(images=("a",), points=(POINT,), image_bpp=((0.25,),), image_psnr_db=((30.0,),))
    found = Evaluation(curve=curve, bitstreams_sha="0")
    monkeypatch.setattr(evaluate, "evaluate_learned", lambda *_: found)


def _training(**changes: Any) -> Training:
    values: dict[str, Any] = {"steps": 4, "batch": 2, "crop_px": 64, "rd_lambdas": RD_LAMBDAS}
    return Training(**(values | {"learning_rate": 1e-3} | changes))


def _teach(
    photos: ImageSet,
    out: Path,
    training: Training | None = None,
    *,
    plan: Architecture | None = None,
    **more: Any,
) -> Path:
    return teach(
        plan or architecture(),
        training or _training(),
        photos,
        out=out,
        seed=0,
        device="cpu",
        card=CARD,
        **more,
    )


def test_a_taught_teacher_can_teach(photos: ImageSet, tmp_path: Path) -> None:
    path = _teach(photos, tmp_path / "new" / "tiny.safetensors")
    teacher = load_teacher(f"file:{path}")
    assert teacher.rd_lambdas == RD_LAMBDAS
    assert teacher.model.architecture == architecture()
    kernels = [p for p in teacher.model.parameters() if p.ndim == KERNEL_NDIM]
    assert all(torch.equal(p, p.half().float()) for p in kernels)
    assert [p.name for p in path.parent.iterdir()] == ["tiny.safetensors"]


def test_its_card_says_how_it_was_made_and_what_it_is_worth(
    photos: ImageSet, tmp_path: Path
) -> None:
    _, card = load_codec(_teach(photos, tmp_path / "tiny.safetensors"))
    assert card["licence"] == "CC0-1.0"
    assert card["command"] == command_line(CARD, architecture(), _training(), seed=0)
    assert card["training"]["steps"] == 4
    assert card["training"]["precision"] in ("fp32", "bf16")
    assert card["photos"]["n"] == 1
    assert card["photos"]["sha"] == photos.sha
    assert card["rd"][0]["bpp"] == POINT.bpp
    assert card["seconds"] > 0
    assert np.isfinite(card["final_loss"])


def test_the_command_in_the_card_gives_the_same_settings_again() -> None:
    plan, training = architecture(12, hyper=20, latent=24), _training(learning_rate=2.5e-4)
    words = command_line(CARD, plan, training, seed=7)
    assert "'my photos'" in words
    arguments = parse(shlex.split(words)[1:])
    assert arguments.command == "teach"
    assert (arguments.name, arguments.images) == ("tiny", ["my photos", "builtin"])
    assert (arguments.width, arguments.hyper, arguments.latent) == (12, 20, 24)
    assert tuple(arguments.rd_lambdas) == RD_LAMBDAS
    assert (arguments.steps, arguments.batch, arguments.crop) == (4, 2, 64)
    assert (arguments.learning_rate, arguments.seed, arguments.licence) == (2.5e-4, 7, "CC0-1.0")


def test_an_interrupted_lesson_goes_on_to_the_same_teacher(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_S", -1.0)

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    _teach(photos, whole)
    with pytest.raises(KeyboardInterrupt):
        _teach(photos, resumed, on_progress=stop)
    assert not resumed.exists()
    _teach(photos, resumed)
    first, second = (load_codec(path)[0].state_dict() for path in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("role", ["validation", "evaluation"])
def test_a_photo_that_studies_judge_by_may_not_be_learned_from(role: str, tmp_path: Path) -> None:
    held_out = sorted((BUILTIN / role).glob("*.png"))[0]
    shutil.copy(held_out, tmp_path / "innocent.png")
    with pytest.raises(DataError, match=rf"one photo has two roles: .*innocent\.png.* \({role}\)"):
        load_training_photos(["builtin", str(tmp_path)], 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_px": 100}, "crops of 100 px cannot be halved six times"),
        ({"rd_lambdas": (0.025, 0.0018)}, r"0\.025, 0\.0018 do not ascend"),
        ({"rd_lambdas": (0.0018, 0.0018)}, "do not ascend"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    change: dict[str, Any], message: str, photos: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        _teach(photos, tmp_path / "tiny.safetensors", _training(**change))


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_step(
    photos: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    told: list[Progress] = []
    with pytest.raises(StoreError) as refused:
        _teach(photos, tmp_path / "file" / "tiny.safetensors", on_progress=told.append)
    assert "--out" in refused.value.fix
    assert not told


# --- going on from an earlier one ----------------------------------------------------------------


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return {
        name: p for name, p in load_codec(path)[0].named_parameters() if "quantiles" not in name
    }


def test_a_teacher_may_go_on_from_the_weights_of_another(photos: ImageSet, tmp_path: Path) -> None:
    """With a learning rate of next to nothing it stays what that one is; its card names it."""
    first = _teach(photos, tmp_path / "first.safetensors")
    still = _training(learning_rate=1e-9)
    then = _teach(photos, tmp_path / "then.safetensors", still, start=f"file:{first}")
    before, after = _weights(first), _weights(then)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-5)
    card = load_codec(then)[1]
    assert card["start"]["teacher"] == f"file:{first}"
    assert f"--start file:{first}" in card["command"]


def test_a_student_goes_on_as_what_it_is(photos: ImageSet, tmp_path: Path) -> None:
    """Whatever its decoder; what the command line tells is taken instead."""
    tapered = replace(architecture(8), decoder=Transform(width=12, kernel=3, taper=2))
    student = tmp_path / "student.safetensors"
    spec = {"spec": {"training": {"rd_lambdas": list(RD_LAMBDAS)}}}  # the card of a student
    student.write_bytes(codec_bytes(finished(tapered), spec))
    start = f"file:{student}"
    plan = planned(start, len(RD_LAMBDAS))
    assert plan == tapered
    assert planned(start, 2, prior="mean_scale").hyper == Hyper(width=8, prior="mean_scale")
    assert planned(start, 2, context="checkerboard").hyper == Hyper(width=8, context="checkerboard")
    assert planned(None, 2, width=32).encoder == Transform(width=32)
    out, slow = tmp_path / "then.safetensors", _training(learning_rate=1e-9)
    then = _teach(photos, out, slow, plan=plan, start=start)
    model, card = load_codec(then)
    assert model.architecture == tapered
    torch.testing.assert_close(
        model.g_s[0].weight, load_codec(student)[0].g_s[0].weight, rtol=1e-3, atol=1e-5
    )
    told = parse(shlex.split(card["command"])[1:])
    assert (told.width, told.latent, told.hyper) == (None, None, None)
    assert planned(told.start, len(told.rd_lambdas), prior=told.prior) == tapered


def test_one_with_a_context_begins_with_the_bits_of_the_one_without(
    photos: ImageSet, tmp_path: Path
) -> None:
    earlier = save_teacher(tmp_path / "earlier.safetensors", architecture())
    plan = planned(f"file:{earlier}", len(RD_LAMBDAS), context="checkerboard")
    out, slow = tmp_path / "then.safetensors", _training(learning_rate=1e-9)
    then = _teach(photos, out, slow, plan=plan, start=f"file:{earlier}")
    (model, card), (was, _) = load_codec(then), load_codec(earlier)
    assert model.architecture == plan == architecture(context="checkerboard")
    told = parse(shlex.split(card["command"])[1:])
    assert planned(told.start, 2, prior=told.prior, context=told.context) == plan
    x = as_tensor(crops(4))
    with torch.no_grad():
        bits = [float(images_bits(codec(x, 1)["likelihoods"]).sum()) for codec in (model, was)]
    assert bits[0] == pytest.approx(bits[1], rel=0.01)


def test_a_checkpoint_that_a_disk_refuses_is_an_error_that_names_the_flag(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = files.write_atomic

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.suffix == ".checkpoint":
            monkeypatch.setattr(os, "replace", refuse)
        writes(path, *args, **kwargs)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(StoreError, match=r"checkpoint cannot be written: the disk is full") as why:
        _teach(photos, tmp_path / "new.safetensors")
    assert "`--out`" in why.value.fix
    assert "--root" not in why.value.fix


@torch.no_grad()
def test_one_with_means_begins_with_the_bits_of_the_one_without(tmp_path: Path) -> None:
    earlier = finished(architecture())
    model = Hyperprior(architecture(prior="mean_scale"))
    succeed(model, earlier)
    model.eval()
    x = as_tensor(crops(4))
    was, now = earlier(x), model(x)
    assert torch.equal(now["means"], torch.zeros_like(now["means"]))
    torch.testing.assert_close(now["x_hat"], was["x_hat"])
    torch.testing.assert_close(now["z"], was["z"])
    torch.testing.assert_close(images_bits(now["likelihoods"]), images_bits(was["likelihoods"]))


def test_a_codec_of_other_widths_or_levels_is_no_start(photos: ImageSet, tmp_path: Path) -> None:
    other = save_teacher(tmp_path / "other.safetensors", architecture(12))
    with pytest.raises(CodecError, match=r"cannot start from one of widths 12, 12") as refused:
        _teach(photos, tmp_path / "new.safetensors", start=f"file:{other}")
    assert "same widths" in refused.value.fix
    with pytest.raises(CodecError, match=r"cannot start from one of .*mean_scale"):
        succeed(Hyperprior(architecture()), finished(architecture(prior="mean_scale")))
    assert not (tmp_path / "new.safetensors").exists()


def test_a_start_of_other_levels_is_refused_with_the_flag_that_names_them(
    photos: ImageSet, tmp_path: Path
) -> None:
    other = save_teacher(tmp_path / "o.safetensors", architecture(), rd_lambdas=(0.001, 0.25))
    with pytest.raises(CodecError, match="has other levels than this training") as refused:
        _teach(photos, tmp_path / "new.safetensors", start=f"file:{other}")
    assert refused.value.fix == "name its levels: `--rd-lambdas 0.001 0.25`"
