"""Packages: what `export` writes, and what `kdbench.load` makes of whole and broken ones."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from compressai.models.base import CompressionModel
from jsonschema import Draft202012Validator

import kdbench
from kdbench import onnx_files
from kdbench.cli import main
from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.weights import codec_identity
from kdbench.complexity import measure_complexity
from kdbench.data import load_images
from kdbench.errors import CodecError
from kdbench.store import Store
from tests.support.edits import without_checksum
from tests.support.results import STUDY
from tests.support.students import RD_LAMBDAS, make_study_with_student, student

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_study_with_student(tmp_path_factory.mktemp("study"))


def exported(store: Store, folder: Path, *flags: str) -> int:
    line = ["export", "--study", STUDY, "--trial", "0", "--root", str(store.root)]
    return main([*line, "--to", str(folder), *flags])


@pytest.fixture(scope="module")
def package(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "plain"
    assert exported(store, folder, "--licence", "CC0-1.0") == 0
    return folder


@pytest.fixture(scope="module")
def exact(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "exact"
    assert exported(store, folder, "--deterministic", "--onnx", "--json") == 0
    return folder


def card_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return found


# --- what is in it -------------------------------------------------------------------------------


def test_a_package_is_the_student_with_its_card_and_its_spec(store: Store, package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {
        "codec.safetensors",
        "card.json",
        "spec.json",
        "README.md",
    }
    trial = store.load_trial(STUDY, 0)
    assert trial.result is not None
    assert (package / "codec.safetensors").read_bytes() == trial.folder.student.read_bytes()
    card = card_of(package)
    assert card["sha"] == trial.result.hashes["weights"]
    assert [point["bpp"] for point in card["rd"]] == [p.bpp for p in trial.result.rd.points]
    assert [at["rd_lambda"] for at in card["levels"]] == list(RD_LAMBDAS)
    assert [at["quality"] for at in card["levels"]] == [0, 0.25, 0.5, 0.75, 1]
    assert card["energy"]["source"] == "model"
    assert card["complexity"]["params"] == trial.result.complexity.params
    assert card["licence"]["weights"] == "CC0-1.0"
    assert card["licence"]["teacher_licence"] == "CC-BY-SA-4.0"
    assert card["training"]["steps"] == trial.spec.training.steps
    assert card["identity"] == codec_identity(student()).hex()
    assert json.loads((package / "spec.json").read_text())["hash"] == trial.spec.hash


def test_cards_follow_their_schema(package: Path, exact: Path) -> None:
    schemas = Path(__file__).parents[2] / "docs" / "schemas"
    schema = json.loads((schemas / "package.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    for folder in (package, exact):
        Draft202012Validator(schema).validate(card_of(folder))
        assert not Draft202012Validator(schema).is_valid(card_of(folder) | {"energy": 1.0})


def test_its_readme_has_the_figures_of_its_card(package: Path) -> None:
    text, card = (package / "README.md").read_text(), card_of(package)
    for point in card["rd"]:
        assert f"| {point['bpp']:.4f} | {point['psnr_db']:.2f} |" in text
    assert "CC0-1.0; trained under teacher:default (CC-BY-SA-4.0)" in text
    assert "source model (codecarbon: processor time by an assumed power)" in text
    assert card["identity"][:16] in text


def test_it_loads_into_a_model_that_codes_as_those_of_compressai(package: Path) -> None:
    model = kdbench.load(package)
    assert isinstance(model, CompressionModel)
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        coded = model.compress(x)
        decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
        assert torch.equal(decoded, model(x)["x_hat"].clamp(0, 1))


def test_importing_kdbench_loads_no_machine_learning() -> None:
    script = "import sys, kdbench; kdbench.load; print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# --- the deterministic form, ONNX ----------------------------------------------------------------


def test_the_deterministic_form_says_what_it_costs(package: Path, exact: Path) -> None:
    card = card_of(exact)
    assert (card["arithmetic"], card_of(package)["arithmetic"]) == ("integer", "float")
    assert abs(card["deterministic"]["bd_rate_against_float"]["pct"]) < 0.5
    assert card["coding_s_per_mpx"] != card_of(package)["coding_s_per_mpx"]  # measured, not copied
    plain = measure_complexity(student())
    assert card["complexity"]["params"] > plain.params  # the phases have taps that are zero
    assert card["complexity"]["kmac_per_px"]["h_s"] > plain.h_s
    assert card["complexity"]["kmac_per_px"]["g_s"] == plain.g_s
    assert "integer: files decode on every machine" in (exact / "README.md").read_text()
    assert kdbench.load(exact).has_integer_prior


def test_files_of_a_package_decode_with_its_copy_and_no_other(package: Path, exact: Path) -> None:
    photo = load_images("builtin", "validation").image(0)[:100, :150]
    plain, integers = kdbench.load(package), kdbench.load(exact)
    data = encode_image(integers, photo, 1.5, machine="here")
    assert decode_image(kdbench.load(exact), data).shape == photo.shape
    with pytest.raises(CodecError, match="an integer h_s, this one a float one"):
        decode_image(plain, data)


def test_onnx_files_compute_what_torch_computes_at_any_size_and_quality(exact: Path) -> None:
    card, model = card_of(exact), kdbench.load(exact)
    assert card["onnx"].keys() == {"encoder.onnx", "hyper_decoder.onnx", "decoder.onnx"}
    assert card["onnx"]["hyper_decoder.onnx"]["max_abs_difference"] == 0
    assert 0 < card["onnx"]["decoder.onnx"]["max_abs_difference"] < 1e-4
    x = torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    level = np.array(2.25, np.float32)
    y, z = onnx_files.run_onnx(exact / "encoder.onnx", {"x": x.numpy(), "level": level})
    with torch.no_grad():
        wanted = model.forward_latent(model.g_a(x), 2.25)
    np.testing.assert_allclose(y, wanted["y"].numpy(), atol=1e-3)  # type: ignore[union-attr]
    np.testing.assert_allclose(z, wanted["z"].numpy(), atol=1e-3)  # type: ignore[union-attr]
    given = {"y_hat": wanted["y_hat"].numpy(), "level": level}  # type: ignore[union-attr]
    (x_hat,) = onnx_files.run_onnx(exact / "decoder.onnx", given)
    np.testing.assert_allclose(x_hat, wanted["x_hat"].numpy(), atol=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize(("prior", "n_levels"), [("mean_scale", 5), ("scale", 1)])
def test_students_with_means_and_of_one_rate_travel_too(
    prior: Any, n_levels: int, tmp_path: Path
) -> None:
    store = make_study_with_student(tmp_path, prior=prior, n_levels=n_levels)
    assert exported(store, tmp_path / "out", "--deterministic", "--onnx") == 0
    card = card_of(tmp_path / "out")
    assert card["onnx"]["hyper_decoder.onnx"]["max_abs_difference"] == 0
    cost = card["deterministic"]
    if n_levels == 1:
        assert cost["bd_rate_against_float"] is None
        assert cost["why_no_bd_rate"]
        assert card["levels"][0]["quality"] is None
    else:
        assert abs(cost["bd_rate_against_float"]["pct"]) < 0.5
    assert kdbench.load(tmp_path / "out").has_integer_prior


def test_without_the_extra_an_error_says_how_to_install_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert exported(store, tmp_path / "out", "--onnx") == 1
    assert "fix: pip install 'kdbench[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_computes_something_else_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = onnxruntime.InferenceSession.run

    def wrong(session: Any, *arguments: Any) -> Any:
        return [values + 0.1 for values in run(session, *arguments)]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    assert exported(store, tmp_path / "out", "--onnx") == 1
    assert "encoder.onnx in ONNX Runtime differs from torch by 0.1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- broken ones ---------------------------------------------------------------------------------


def edit_card(**changes: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "card.json"
        path.write_text(json.dumps(json.loads(without_checksum(path)) | changes))

    return edit


def flip(folder: Path) -> None:
    path = folder / "codec.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / "codec.safetensors").unlink(), "has no codec.safetensors"),
    "no card": (lambda f: (f / "card.json").unlink(), "has no card.json"),
    "gone": (shutil.rmtree, "there is no"),
    "a newer one": (edit_card(format=2), "package of format 2, this kdbench reads up to 1"),
    "another card": (edit_card(kind="cat"), "is damaged or no card"),
    "a card without a hash": (edit_card(sha=None), "is damaged or no card"),
    "a cut card": (lambda f: (f / "card.json").write_text('{"kind'), "is damaged or no card"),
    "a card of bytes": (lambda f: (f / "card.json").write_bytes(b"\xff"), "damaged or no card"),
    "a list as card": (lambda f: (f / "card.json").write_text("[]"), "is damaged or no card"),
    "other weights": (flip, "is not the file that card.json beside it names"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_package_is_refused_with_what_is_wrong(
    name: str, package: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(package, folder)
    broken, answer = BREAKS[name]
    broken(folder)
    with pytest.raises(CodecError, match=answer):
        kdbench.load(folder)


def test_a_codec_file_loads_too(package: Path) -> None:
    model = kdbench.load(package / "codec.safetensors")
    assert codec_identity(model) == codec_identity(student())


# --- what export refuses -------------------------------------------------------------------------


def test_export_refuses_a_folder_that_is_in_use(
    store: Store, package: Path, capsys: Capture
) -> None:
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    assert exported(store, package) == 1
    assert "is there already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_export_fills_an_empty_folder(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert exported(store, tmp_path / "out") == 0
    assert (tmp_path / "out" / "card.json").is_file()


def test_export_names_a_place_it_cannot_write(
    store: Store, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert exported(store, tmp_path / "file" / "out") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_export_refuses_weights_that_the_result_does_not_name(
    store: Store, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(store.root, tmp_path / "runs")
    store = Store(tmp_path / "runs")
    path = store.trial(STUDY, 0).student
    path.write_bytes(path.read_bytes() + b" ")
    assert exported(store, tmp_path / "out") == 1
    assert "is not the file that the trial's result names" in capsys.readouterr().err
    path.unlink()
    assert exported(store, tmp_path / "out") == 1
    assert "trial 0 of tiny has no trained student" in capsys.readouterr().err
    for i in range(2):
        (path.parent / f"student-{i}.safetensors").write_bytes(b"")
    assert exported(store, tmp_path / "out") == 1
    assert "has a model for each of 2 rates" in capsys.readouterr().err
