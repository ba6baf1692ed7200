"""Every study of the paper runs, in small, and prints the paper's tables."""

import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from kdbench import cli, recipes
from kdbench.codecs.weights import load_codec
from kdbench.config import CodecList, load_any_study
from kdbench.store import Store
from tests.support.edits import without_checksum
from tests.support.paper import SMALL, command, make_photos

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]
STUDIES = sorted(name for name in recipes.known("studies") if name.startswith("paper_"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos; all studies share one root, since one measures what another trained."""
    folder = tmp_path_factory.mktemp("paper")
    make_photos(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def channels(desk: Path) -> str:
    """What the search of `paper_channels` prints; another study measures its student."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(desk)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert cli.main(command("paper_channels")) == 0
    return out.getvalue()


@pytest.fixture(autouse=True)
def _here(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("KDBENCH_ROOT", raising=False)


def searched(study: str, capsys: Capture) -> str:
    """What `kdbench search` prints of it."""
    capsys.readouterr()
    began = time.monotonic()
    code = cli.main(command(study))
    out, err = capsys.readouterr()
    with capsys.disabled():
        print(f"\n{study}: {time.monotonic() - began:.1f} s")
    assert (code, err) == (0, "")
    return out


def trial(study: str) -> Any:
    """What its one trial found, as `show --json` says it."""
    (found,) = Store(Path("runs")).trials(study)
    assert found.state == "complete", found.reason
    return found


def test_the_nine_studies_are_here_and_each_has_its_small_form() -> None:
    assert set(STUDIES) == set(SMALL)
    assert len(STUDIES) == 9


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_of_the_paper_is_in_full_what_science_says(study: str) -> None:
    full = load_any_study(study)
    if isinstance(full, CodecList):
        assert full.anchor == "zoo:bmshj2018-hyperprior/5"
        return
    assert full.training.rate == ("none" if study == "paper_autoencoder" else "per_lambda")
    assert full.space.latent.channels.values == (192,)
    assert full.space.distillation.paper_compat.values == (True,)
    assert full.training.rd_lambdas[-1] == 0.025


def test_channels(channels: str) -> None:
    found = trial("paper_channels")
    assert found.result.bd_rate is None
    assert len(found.result.rd.points) == 1
    assert found.result.complexity.params == 265_667
    assert "trial 0            265,667" in channels
    assert "trial 0             1.02" in channels
    _, card = load_codec(found.folder.student)
    assert card["spec"]["training"]["rd_lambdas"] == [0.025]


def test_resources(channels: str, capsys: Capture) -> None:
    out = searched("paper_resources", capsys)
    assert "2 of 2 codecs measured, compared with teacher:default" in out
    assert "trial:paper_channels/0    265,667" in out
    assert cli.main(["show", "--study", "paper_resources"]) == 0
    assert capsys.readouterr().out == out
    assert cli.main(["show", "--study", "paper_resources", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["codecs"]) == ["teacher:default", "trial:paper_channels/0"]
    student = document["codecs"]["trial:paper_channels/0"]
    assert student["bd_rate"] is None
    assert "1 point" in student["why_no_bd_rate"]


def test_rate(capsys: Capture) -> None:
    searched("paper_rate", capsys)
    found = trial("paper_rate")
    assert found.result.bd_rate.overlap_db > 0
    assert [point.level for point in found.result.rd.points] == [0, 1, 2, 3, 4]
    models = [load_codec(path) for path in found.folder.students]
    assert [card["spec"]["training"]["rd_lambdas"] for _, card in models] == [
        [0.0018], [0.0035], [0.0067], [0.013], [0.025]
    ]  # fmt: skip
    assert all(model.architecture.n_levels == 1 for model, _ in models)


@pytest.mark.parametrize("study", ["paper_weights", "paper_latent_kl", "paper_hyper"])
def test_losses(study: str, capsys: Capture) -> None:
    searched(study, capsys)
    first = trial(study).result.gradient_shares[0].shares
    more = {"hyper_latent"} if study == "paper_hyper" else set()
    assert first.keys() == {"rate", "distortion", "latent", "output"} | more


def test_hybrid(capsys: Capture) -> None:
    searched("paper_hybrid", capsys)
    found = trial("paper_hybrid")
    assert found.spec.distillation.teacher == (
        "hybrid:latent=teacher:default,hyper_latent=teacher:mean_scale,output=teacher:default"
    )
    assert {"latent", "hyper_latent", "output"} <= found.result.gradient_shares[0].shares.keys()


def test_autoencoder(capsys: Capture) -> None:
    searched("paper_autoencoder", capsys)
    first = trial("paper_autoencoder").result.gradient_shares[0].shares
    assert first["rate"]["g_a"] == 0
    assert first["rate"]["h"] == 1
    assert first["distortion"]["g_a"] > 0


def test_codecs(capsys: Capture) -> None:
    out = searched("paper_codecs", capsys)
    assert "3 of 3 codecs measured" in out
    for name in ("jpeg", "jpeg2000", "webp"):
        assert f"\n{name}" in out


def test_codecs_that_are_kept_are_those_of_today(capsys: Capture) -> None:
    searched("paper_codecs", capsys)
    folder = Path("runs/paper_codecs")
    kept, study = folder / "codecs" / "0.json", folder / "study.json"
    before = without_checksum(kept), without_checksum(study)
    kept.write_text(before[0].replace('"sha": "jpeg"', '"sha": "abc"'))
    assert cli.main(command("paper_codecs")) == 1
    assert "jpeg is another one than that which this study measured" in capsys.readouterr().err
    kept.write_text(before[0])
    study.write_text(before[1].replace('"protocol": "2"', '"protocol": "1"'))
    assert cli.main(["show", "--study", "paper_codecs"]) == 1
    assert "was measured by procedure 1, this kdbench has 2" in capsys.readouterr().err
    study.write_text(before[1])
