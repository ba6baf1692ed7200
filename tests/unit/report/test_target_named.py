"""A study whose energy another device measured: tables, JSON and provenance name that device."""

from dataclasses import replace
from pathlib import Path

from kdbench.records import TrialResult
from kdbench.report.document import Entries
from kdbench.report.gather import gather
from kdbench.report.json_view import study_json
from kdbench.report.provenance import machine, measuring
from kdbench.report.tables import show_text
from kdbench.store import Store, StoredStudy
from tests.support.results import SETTINGS, STUDY, result, spec


def on_board(found: TrialResult) -> TrialResult:
    """The same, its energy a board's."""
    assert found.energy is not None
    there = replace(found.energy, target="jetson-1", peak_memory_bytes=1 << 20)
    return replace(found, energy=there)


def text(entries: Entries) -> str:
    return "\n".join(f"{name}: {said}" for name, said in entries.pairs)


def test_the_device_whose_energy_it_is_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fixed = {"anchor": "ab12", "target.meter": "ina3221", "target.device.cpu": "Cortex-A78AE"}
    settings = {**SETTINGS, "target": "jetson-1"}
    store.create_study(StoredStudy(name=STUDY, settings=settings, fixed=fixed))
    for number, width in enumerate((16, 32)):
        store.begin_trial(STUDY, number, spec(number))
        store.save_result(STUDY, number, on_board(result(50.0 - number, width, 4.0 + number)))
    study = gather(store, STUDY)
    shown = show_text(study.found, all_trials=False, width=120)
    assert "(model, jetson-1)" in shown
    energy = study_json(study.found)["trials"][0]["energy"]
    assert (energy["source"], energy["target"]) == ("model", "jetson-1")
    assert energy["peak_memory_bytes"] == 1 << 20
    assert "on jetson-1" in text(measuring(study))
    assert "target jetson-1, which measured energy: cpu Cortex-A78AE" in text(machine(study))
