"""Another family through the whole of kdbench, from an example package that no core file knows."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from kdbench import cli, plugins
from kdbench.anchor import codec_files
from kdbench.codecs.building import build
from kdbench.codecs.weights import load_codec
from kdbench.conformance import CLAUSES
from kdbench.doctor import _brought
from kdbench.errors import CodecError
from kdbench.records import FamilyArchitecture, TrialSpec
from kdbench.store import Store
from kdbench.teacher import load_teacher
from tests.support.desk import make_desk
from tests.support.packages import ELIC, ROOT, install_elic

pytestmark = pytest.mark.slow
SCHEMA = ROOT / "docs" / "schemas" / "show.schema.json"
Capture = pytest.CaptureFixture[str]
SPACE = """\
codec: {family: elic, encoder: 24, decoder: 24, blocks: [0, 1], latent: 48, hyper: 16}
distillation: {teacher: teacher:default, latent: 0.05, hyper_latent: 0.05, output: 0.1}
training: {learning_rate: 1.0e-3}
"""
STUDY = """\
space: lic
objectives: [bd_rate_pct, decoder_kmac_per_px]
anchor: jpeg
trials: 1
workers: 1
data: {train: photos/train, validation: photos/validation, evaluation: photos/evaluation, crops: 32}
training: {steps: 20, batch: 5, crop_px: 64, rd_lambdas: [0.0018, 0.0035, 0.0067, 0.013, 0.025]}
energy: {meter: replay, window_s: 0.01, windows: 2}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A desk on which the study has run, and the package is installed."""
    folder = tmp_path_factory.mktemp("elic")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("KDBENCH_ROOT", "KDBENCH_STORAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        make_desk(folder)
        install_elic(patch, folder / "site")
        (folder / "search_spaces" / "lic.yaml").write_text(SPACE)
        (folder / "studies" / "lic.yaml").write_text(STUDY)
        assert cli.main(["check", "lic"]) == 0
        assert cli.main(["search", "--study", "lic"]) == 0
        yield folder


def spec_of(folder: Path) -> TrialSpec:
    return Store(folder / "runs").load_trial("lic", 0).spec


def test_check_finds_every_clause_kept(searched: Path, capsys: Capture) -> None:
    assert cli.main(["check", "--codec", "elic", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [clause["clause"] for clause in document["clauses"]] == list(CLAUSES)
    assert document["not_tried"] == []


def test_a_search_trains_and_measures_its_students(searched: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert cli.main(["show", "--study", "lic", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    (trial,) = document["trials"]
    assert trial["state"] == "complete"
    assert trial["spec"]["codec"]["family"] == "elic"
    assert trial["spec"]["codec"]["axes"]["latent"] == 48
    assert "encoder" not in trial["spec"]
    kmac = trial["complexity"]["kmac_per_px"]
    assert kmac["decoder"] == pytest.approx(kmac["h_s"] + kmac["g_s"])
    assert min(kmac[part] for part in ("g_a", "h_a", "h_s", "g_s")) > 0
    assert trial["complexity"]["peak_memory_bytes"] is None
    assert [point["level"] for point in trial["rd"]] == [0, 1, 2, 3, 4]
    assert trial["energy"]["j_per_mpx"] > 0
    shares = trial["gradient_shares"][0]["shares"]
    assert shares.keys() == {"rate", "distortion", "latent", "hyper_latent", "output"}
    assert shares["latent"]["g_a"] > 0
    assert shares["hyper_latent"]["h"] > 0
    assert shares["output"]["g_s"] > 0
    assert spec_of(searched).stands_on["codec"] == "kdbench_elic:FAMILY kdbench-elic 0.1.0"


def test_show_needs_no_package(
    searched: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "known", lambda group=plugins.GROUP: {})
    capsys.readouterr()
    assert cli.main(["show", "--study", "lic", "--all"]) == 0
    assert "1 on the front of 1 complete trial\n" in capsys.readouterr().out


def test_rerun_gives_the_same_bits(searched: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert cli.main(["rerun", "--study", "lic", "--trial", "0"]) == 0
    assert "weights and bitstreams are identical, bit for bit" in capsys.readouterr().out


def test_its_student_is_a_codec_like_any_other(searched: Path, capsys: Capture) -> None:
    capsys.readouterr()
    command = "bench trial:lic/0 --no-energy --images photos/evaluation"
    assert cli.main(command.split()) == 0
    said = capsys.readouterr().out
    assert said.startswith("trial:lic/0 on 2 photos, real bitstreams\n")
    assert "not measured" in said
    store = Store(searched / "runs")
    (path,) = codec_files("trial:lic/0", cache=store.cache, store=store)
    assert path is not None
    model, _ = load_codec(path)
    assert isinstance(model.architecture, FamilyArchitecture)
    with pytest.raises(CodecError, match="is a codec of the family elic, and files teach where"):
        load_teacher(f"file:{path}")


def test_without_its_package_a_student_says_which_one_is_missing(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(searched / "runs")
    (path,) = codec_files("trial:lic/0", cache=store.cache, store=store)
    assert path is not None
    monkeypatch.setattr(plugins, "known", lambda group=plugins.GROUP: {})
    with pytest.raises(CodecError, match="no installed package brings a codec family 'elic'"):
        load_codec(path)


def test_a_package_of_another_kind_is_not_taken_for_it(searched: Path) -> None:
    spec = spec_of(searched)
    assert spec.codec is not None
    other = replace(spec.codec, axes={**spec.codec.axes, "blocks": 99})
    for codec, problem in (
        (other, "does not know blocks=99: it must be a whole number from 0 to 8"),
        (replace(spec.codec, axes={"width": 8}), "has the axes encoder, decoder, blocks, latent"),
        (
            replace(spec.codec, offer=replace(spec.codec.offer, hyper_width=None)),
            "offers Offer(channels=48, hyper_width=16, prior=None) where the codec was recorded",
        ),
    ):
        with pytest.raises(CodecError) as refused:
            build(replace(spec, codec=codec).architecture)
        assert problem in refused.value.problem


def test_no_core_file_knows_the_example() -> None:
    files = [path for path in Path(cli.__file__).parent.rglob("*.py")]
    assert len(files) > 50
    named = [path.name for path in files if "elic" in path.read_text().lower().replace("helic", "")]
    assert named == ["families.py"]  # as the example in its docstring


def test_the_examples_own_space_and_study_are_valid(
    searched: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ELIC)
    capsys.readouterr()
    assert cli.main(["check", "elic"]) == 0
    assert capsys.readouterr().out == "1 file, no problem\n"


def test_doctor_names_the_family_and_its_axes(searched: Path) -> None:
    (found,) = _brought()
    assert (found.name, found.verdict) == ("elic", "ok")
    assert found.detail == (
        "axes encoder, decoder, blocks, latent, hyper; `kdbench check --codec elic` tries it"
    )
