"""Distortions to train for: CompressAI's own loss, metrics of other packages, and broken ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.losses import RateDistortionLoss
from PIL import Image

from kdbench import metrics
from kdbench.codecs.weights import codec_bytes
from kdbench.config import load_study, settings
from kdbench.data import load_images
from kdbench.distill import Distiller, Targets, rate_distortion
from kdbench.errors import CodecError, ConfigError
from kdbench.evaluate import evaluate_learned
from kdbench.lesson import like_mse
from kdbench.metrics import MS_SSIM, MSE, require_trainable
from kdbench.plugins import METRICS
from kdbench.records import Distillation, RDPoint, Training, plain
from kdbench.train import Batch, levels_of_step, train
from tests.support.codecs import architecture, as_tensor, crops, finished, started
from tests.support.packages import installed

BROKEN = {
    "one_number": "gives the shape () of 2 images; it must be (2,), one each",
    "similarity": "gives [0.9",
    "flat": "fails on crops of 64 px: RuntimeError: element 0 of tensors does not require grad",
    "steep": "has no gradient to learn from, or one that is no number",
    "fails": "fails on crops of 64 px: RuntimeError: Tensors must have same number of dimensions",
    "weightless": "must have a weight above 0",
    "no_metric": "is no kdbench.metrics.Metric",
}
MS_SSIM_LAMBDAS = (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00)
MSE_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)
STUDY = """\
space: {space}
objectives: [bd_rate_pct]
trials: 1
training: {{steps: 9, batch: 2, crop_px: {crop_px}, rd_lambdas: [2.4, 4.58, 8.73, 16.64, 31.73],
           distortion: {distortion}}}
energy: {{meter: none}}
"""
SPACE = """\
encoder: {width: 16, kernel: 5, activation: gdn}
decoder: {width: 16, kernel: 5, activation: gdn}
hyper: {width: 16}
latent: {channels: 32}
training: {learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    names = ["mae", "wide", "not_a_number", *BROKEN]
    points = {name: f"tests.support.distances:{name}" for name in names}
    with pytest.MonkeyPatch.context() as patch:
        installed(patch, folder, {METRICS: points})
        yield folder


@pytest.mark.parametrize(("name", "metric"), [("mse", MSE), ("ms-ssim", MS_SSIM)])
def test_the_loss_is_that_of_compressai(name: str, metric: metrics.Metric) -> None:
    model = started(architecture(n_levels=1))
    x = as_tensor(crops(2, 192))
    with torch.no_grad():
        out = model(x)
        theirs = RateDistortionLoss(lmbda=4.58, metric=name)(out, x)
        ours = rate_distortion(out, x, torch.full((2,), 4.58), metric)
    assert float(ours.loss) == pytest.approx(float(theirs["loss"]), rel=1e-5)
    assert float(ours.bpp) == pytest.approx(float(theirs["bpp_loss"]), rel=1e-5)
    assert float(ours.mse) == pytest.approx(float((out["x_hat"] - x).square().mean()), rel=1e-5)


def test_its_rd_lambdas_start_gains_where_those_of_the_mse_do() -> None:
    plan = Training(steps=1, batch=1, crop_px=192, rd_lambdas=MS_SSIM_LAMBDAS, learning_rate=1.0)
    assert like_mse(replace(plan, rd_lambdas=MSE_LAMBDAS)) == MSE_LAMBDAS
    found = like_mse(replace(plan, distortion="ms-ssim"))
    assert found == pytest.approx(MSE_LAMBDAS, rel=0.06)


def trained_for(distortion: str, rd_lambdas: tuple[float, ...], px: int) -> tuple[float, float]:
    """Distortion before and after a short training, mean over the levels."""
    plan = Training(
        steps=20,
        batch=2,
        crop_px=px,
        rd_lambdas=rd_lambdas,
        learning_rate=5e-4,
        distortion=distortion,
    )
    model = started(architecture(16, latent=32), rd_lambdas=like_mse(plan))
    x = as_tensor(crops(2, px))
    metric = metrics.find(distortion)

    def loss() -> float:
        levels = torch.arange(2)
        with torch.no_grad():
            out = model(x, levels)
        return float(rate_distortion(out, x, torch.tensor(rd_lambdas), metric).loss)

    before = loss()

    def batch(step: int) -> Batch:
        return Batch(x, levels_of_step(np.random.default_rng(step), 2, 2), None)

    log = train(
        model, batch, plan, distiller=None, seed=0, device="cpu", precision="fp32", log_every=1
    )
    assert log.rows[0]["loss"] == pytest.approx(log.rows[0]["rd_loss"])
    assert log.rows[0]["mse"] > 0
    return before, loss()


@pytest.mark.parametrize(
    ("distortion", "rd_lambdas", "px"),
    [("ms-ssim", (4.58, 31.73), 192), ("mae", (0.01, 0.08), 64)],
)
def test_training_for_another_distortion_lowers_its_loss(
    distortion: str, rd_lambdas: tuple[float, ...], px: int
) -> None:
    before, after = trained_for(distortion, rd_lambdas, px)
    assert after < before


def test_the_output_term_has_the_distortion_that_is_trained_for() -> None:
    plan, own = Distillation(teacher="plugin:x", output=0.5), architecture()
    model = started(own)
    x = as_tensor(crops(2))
    with torch.no_grad():
        out = model(x, 0)
    targets = Targets(y=out["y"], x_hat=x)
    rd_lambda = torch.full((2,), 0.01)
    mae = metrics.find("mae")
    found = Distiller(plan, own, own.offer, metric=mae)(out, targets, rd_lambda)["output"]
    expected = 0.5 * 0.01 * 255 * (out["x_hat"] - x).abs().mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", BROKEN)
def test_a_metric_that_cannot_be_trained_for_says_why(name: str) -> None:
    with pytest.raises(CodecError) as refused:
        require_trainable(name, 64)
    value = f"metric {name} (tests.support.distances:{name}) "
    assert refused.value.problem.startswith(value + BROKEN[name])


def test_those_that_can_pass_and_leave_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    require_trainable("mae", 64)
    require_trainable("ms-ssim", 192)
    assert torch.equal(torch.rand(1), expected)


def test_the_evaluation_has_the_figure_of_the_metric(tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(finished(architecture()), {}))
    photo = load_images("builtin", "evaluation").image(0)[:64, :80]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    images = load_images(tmp_path, "evaluation")
    (low, high) = evaluate_learned(path, images, distortion="mae").curve.points
    assert 0 < high.figures["mae"] < low.figures["mae"] < 255
    assert plain(low)["figures"] == low.figures
    for without in ("mse", "wide"):  # no figure of its own; a photo under its 100 px
        points = evaluate_learned(path, images, distortion=without).curve.points
        assert [point.figures for point in points] == [{}, {}]
    with pytest.raises(CodecError, match="the figure of metric not_a_number is nan"):
        evaluate_learned(path, images, distortion="not_a_number")


def test_a_point_without_such_a_figure_is_stored_as_it_was_before_there_were_any() -> None:
    assert plain(RDPoint(level=0, bpp=1.0, psnr_db=30.0)).keys() == {
        "level",
        "bpp",
        "psnr_db",
        "ms_ssim",
    }


def study(folder: Path, *, distortion: str, crop_px: int = 192, teacher: str = "none") -> Path:
    (folder / "space.yaml").write_text(f"{SPACE}distillation: {{teacher: {teacher}}}\n")
    path = folder / "study.yaml"
    space = folder / "space.yaml"
    path.write_text(STUDY.format(space=space, distortion=distortion, crop_px=crop_px))
    return path


def test_a_study_names_its_distortion(tmp_path: Path) -> None:
    found = load_study(study(tmp_path, distortion="ms-ssim"))
    assert found.training.distortion == "ms-ssim"
    assert settings(found)["training"]["distortion"] == "ms-ssim"
    assert load_study("kd_pareto").training.distortion == "mse"
    assert load_study(study(tmp_path, distortion="wide", crop_px=128)).training.crop_px == 128


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (
            {"distortion": "ms-sim"},
            "training.distortion: got \"ms-sim\"; there is no metric 'ms-sim'; known, nearest "
            "first: ms-ssim, ",
        ),
        (
            {"distortion": "ms-ssim", "crop_px": 128},
            "training.crop_px: got 128; must be at least 192 with training.distortion ms-ssim, "
            "which needs 161 px a side",
        ),
        (
            {"distortion": "wide", "crop_px": 64},
            "training.crop_px: got 64; must be at least 128 with training.distortion wide, "
            "which needs 100 px a side",
        ),
        (
            {"distortion": "ms-ssim", "teacher": "[teacher:default, none]"},
            "distillation.teacher: teacher:default was trained for mse, and the study trains for "
            "ms-ssim; take none, or a plugin:NAME that was trained for it",
        ),
        ({"distortion": "weightless"}, "(tests.support.distances:weightless) must have a weight"),
    ],
)
def test_what_a_distortion_has_no_use_for_is_refused(
    tmp_path: Path, settings: dict[str, str | int], rule: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_study(study(tmp_path, **settings))  # type: ignore[arg-type]
    assert rule in refused.value.problem
