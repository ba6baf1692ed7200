"""`measure`: energy and time again, beside what was recorded and never over it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench import cost
from kdbench.cli import main
from kdbench.codecs.bitfile import Image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_identity
from kdbench.device import fingerprint, fingerprint_hash
from kdbench.energy import EnergyMeter
from kdbench.energy.replay import ReplayMeter
from kdbench.files import write_json
from kdbench.records import CodecEnergy, EnergyPlan, Source
from kdbench.store import Store
from tests.support.results import STUDY, energy
from tests.support.students import make_study_with_student, student

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_study_with_student(tmp_path_factory.mktemp("study"), evaluated=False)


@pytest.fixture
def store(original: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A study, and a machine whose meter is the one that it was measured with."""
    shutil.copytree(original.root, tmp_path / "runs")
    made = Store(tmp_path / "runs")
    record(made, "replay", device=fingerprint_hash(fingerprint("cpu", threads=1)))
    monkeypatch.setattr(cost, "pick", lambda plan, device: ReplayMeter([0.01]))
    monkeypatch.setattr(cost, "measure_codec", measure_codec)
    return made


def record(store: Store, source: Source, device: str = "d00d") -> None:
    """Gives each finished trial an energy of `source`."""
    for trial in store.trials(STUDY):
        if trial.result is not None:
            known = replace(energy(4.5, source), device=device)
            write_json(trial.folder.result, replace(trial.result, energy=known))


def measure_codec(
    model: Hyperprior, image: Image, meter: EnergyMeter, plan: EnergyPlan, device: Mapping[str, str]
) -> CodecEnergy:
    """The windows that `tests/unit/energy` tests, without waiting for them."""
    assert codec_identity(model) == codec_identity(student())  # trained, not started
    assert image.shape == (128, 192, 3)
    assert meter.source == "replay"
    return replace(energy(5.4, "replay"), device=fingerprint_hash(device))


def measured(store: Store, capsys: Capture, *flags: str) -> dict[str, Any]:
    line = ["measure", "--study", STUDY, "--trial", "0", "--root", str(store.root), "--json"]
    assert main([*line, *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_new_figures_stand_beside_the_recorded_ones(store: Store, capsys: Capture) -> None:
    folder = store.trial(STUDY, 0)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    documents = [measured(store, capsys), measured(store, capsys)]
    for path, data in before.items():
        assert (folder.path / path).read_bytes() == data
    assert [path.name for path in folder.measured] == ["measured-0.json", "measured-1.json"]
    stored = store.load_trial(STUDY, 0)
    assert len(stored.measured) == 2
    (one,) = documents[0]["measured"]
    assert one["then"]["j_per_mpx"] == pytest.approx(4.5)
    assert one["now"]["energy"]["source"] == "replay"
    assert one["file"] == str(folder.measured[0])
    assert one["shift_pct"] == pytest.approx(20)
    assert one["same_device"] is True
    assert one["why_not_compared"] is None
    assert one["now"]["date"].endswith("+00:00")
    assert one["now"]["environment"]["threads"] == "1"
    assert one["now"]["energy"]["protocol"] == stored.result.protocol  # type: ignore[union-attr]


def test_show_lists_them(store: Store, capsys: Capture) -> None:
    measured(store, capsys)
    assert main(["show", "--study", STUDY, "--root", str(store.root), "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [len(trial["measured"]) for trial in trials] == [1, 0, 0, 0, 0, 0]


def test_a_copied_study_is_measured_where_it_lies(
    store: Store, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(store.root, tmp_path / "elsewhere")
    (one,) = measured(Store(tmp_path / "elsewhere"), capsys, "--device", "cpu")["measured"]
    assert one["file"].startswith(str(tmp_path / "elsewhere"))
    assert store.trial(STUDY, 0).measured == ()


def test_figures_of_another_source_are_not_compared(store: Store, capsys: Capture) -> None:
    record(store, "model")
    (one,) = measured(store, capsys)["measured"]
    assert one["shift_pct"] is None
    assert one["same_device"] is False
    assert one["why_not_compared"] == "model then, replay now: these are never compared"


def test_the_text_says_both_and_where_it_is_kept(store: Store, capsys: Capture) -> None:
    line = ["measure", "--study", STUDY, "--trial", "0", "--root", str(store.root)]
    assert main(line) == 0
    told = capsys.readouterr().out
    assert "then  replay, replay" in told
    assert "now  replay, replay" in told
    assert "on the same device and versions" in told
    assert "measured-0.json" in told.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("trial", "problem"),
    [
        ("1", "trial 1 of tiny has no trained student"),
        ("2", "trial 2 has no result to compare with"),
        ("77", "has no trial 77"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(
    store: Store, trial: str, problem: str, capsys: Capture
) -> None:
    line = ["measure", "--study", STUDY, "--trial", "0", trial, "--root", str(store.root)]
    assert main(line) == 1
    assert problem in capsys.readouterr().err
    assert store.trial(STUDY, 0).measured == ()


def test_a_machine_without_a_meter_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(cost, "pick", lambda plan, device: None)
    assert main(["measure", "--study", STUDY, "--trial", "0", "--root", str(store.root)]) == 1
    assert "no energy meter works here" in capsys.readouterr().err
