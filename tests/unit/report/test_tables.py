"""What the user sees, byte for byte; a change of a table shows in the diff of its golden file.

After a wanted change: `KDBENCH_WRITE_GOLDEN=1 pytest tests/unit/report/test_tables.py`, then read
the diff.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.bench import Comparison
from kdbench.doctor import Finding
from kdbench.records import BDRate, TwinFigures
from kdbench.report.controls import curse, seeds_text, twin_text, verdicts
from kdbench.report.details import bench_text, doctor_text, rerun_text
from kdbench.report.overview import overview
from kdbench.report.tables import show_text
from kdbench.report.text import table
from kdbench.report.verdicts import verdict
from kdbench.rerun import reproduction
from tests.support import twins
from tests.support.results import (
    STUDY,
    TEACHER,
    curve,
    energy,
    make_study,
    result,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "report"
SKIPPED = [("strip.png", "20000x1 px, a side is under 64 px"), ("empty.png", "it is empty")]


def expect(name: str, text: str) -> None:
    """Compares with the golden file byte for byte."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KDBENCH_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("all_trials", [False, True])
def test_show(tmp_path: Path, all_trials: bool, width: int) -> None:
    found = overview(make_study(tmp_path), STUDY)
    expect(
        f"show_{'all' if all_trials else 'front'}_{width}",
        show_text(found, all_trials=all_trials, width=width),
    )


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    store = make_study(tmp_path)
    wide = replace(
        result(-12.5, 900, 1234.0),
        bd_rate=BDRate(pct=-12.5, low_pct=-100.0, high_pct=1234.0, overlap_db=6.0),
    )
    store.save_result(STUDY, 5, wide)
    text = show_text(overview(store, STUDY), all_trials=True, width=width)
    assert max(map(len, text.splitlines())) <= width


def test_show_says_what_distillation_gave_where_the_study_asked_for_twins(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    gain = BDRate(pct=-3.0, low_pct=-5.0, high_pct=-1.0, overlap_db=6.0)
    found = TwinFigures(
        n_seeds=3,
        learning_rate=2e-3,
        equal_steps=gain,
        equal_seconds=replace(gain, high_pct=0.4),
        why_not=None,
        wall_s=9.0,
    )
    number = overview(store, STUDY).front[0]
    store.save_twin(STUDY, number, found)
    text = show_text(overview(store, STUDY), all_trials=False, width=200)
    assert (
        "against their twins, which trained without distillation\n"
        f"{number:>5}  distillation helped by 3.0 % [1.0, 5.0] of the twin's bits, 3 seeds; at "
        "equal seconds within noise: BD-rate -3.0 % [-5.0, +0.4] against the twin, 3 seeds"
    ) in text
    broken = replace(found, equal_steps=None, equal_seconds=None, why_not="no seed has both")
    store.save_twin(STUDY, number, broken)
    text = show_text(overview(store, STUDY), all_trials=False, width=200)
    assert "whether distillation helped cannot be told: no seed has both" in text


def test_show_before_the_first_result(tmp_path: Path) -> None:
    store = make_study(tmp_path, with_anchor=False)
    found = replace(overview(store, STUDY), trials=(), front=())
    expect("show_nothing", show_text(found, all_trials=True, width=80))


def test_every_figure_names_its_source_where_sources_differ(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    found = overview(store, STUDY)
    measured = replace(found, anchor=replace(TEACHER, energy=energy(30.0, "counter")))
    text = show_text(measured, all_trials=False, width=100)
    assert "30.0 counter" in text
    assert "12.0 model" in text
    assert "-60.0" not in text  # a measured energy and an estimate do not compare


def test_energies_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    found = overview(make_study(tmp_path), STUDY)
    elsewhere = replace(found, anchor=replace(TEACHER, energy=replace(energy(30.0), device="beef")))
    assert "-60.0" not in show_text(elsewhere, all_trials=False, width=100)


def test_no_energy_is_a_dash_and_needs_no_warning(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    for number, width in ((0, 16), (1, 32), (3, 64)):
        store.save_result(STUDY, number, result(10.0, width, None))
    text = show_text(overview(store, STUDY), all_trials=True, width=100)
    assert "(model)\n  J/Mpx" not in text.split("Δ%")[0]
    assert "assumed power" not in text


def test_bench_of_a_network() -> None:
    found = BDRate(pct=-3.2, low_pct=-5.0, high_pct=-1.1, overlap_db=6.5)
    comparison = Comparison(anchor="teacher:default", bd_rate=found, why_not=None)
    expect("bench_network", bench_text(TEACHER, SKIPPED, comparison, 80))


def test_bench_of_a_classical_codec() -> None:
    jpeg = replace(TEACHER, codec="jpeg", complexity=None, energy=None)
    comparison = Comparison(
        anchor="teacher:default", bd_rate=None, why_not="the curves share no quality"
    )
    expect("bench_classical", bench_text(jpeg, [], comparison, 80))


def test_rerun() -> None:
    first = result(77.1, 16, 4.5)
    elsewhere = replace(
        first,
        rd=curve(1.8),
        hashes={"weights": "x", "bitstreams": "y"},
        environment={"threads": "2", "torch": "2.14.1", "cpu": "AMD EPYC"},
    )
    runs = [
        reproduction(0, first, first, {"crops": "c"}, {"crops": "c"}),
        reproduction(3, first, elsewhere, {"crops": "c"}, {"crops": "d"}),
        reproduction(4, first, replace(elsewhere, environment=first.environment), {}, {}),
        reproduction(5, first, replace(elsewhere, bd_rate=result(95.0, 16, 4.5).bd_rate), {}, {}),
        reproduction(6, first, replace(elsewhere, rd=curve(1.6)), {}, {}, steps=(800, 12_000)),
    ]
    expect("rerun", rerun_text(runs, 80))


@pytest.mark.parametrize("width", [80, 100])
def test_rerun_twin(width: int) -> None:
    controls = [twins.helped(), twins.hurt(), twins.untold()]
    expect(f"twin_{width}", twin_text(controls, width))


def test_rerun_seeds() -> None:
    expect("seeds", seeds_text([twins.fresh(), twins.elsewhere()], 80))


def test_an_interval_that_cannot_be_had_is_no_verdict() -> None:
    match = twins.hurt().equal_steps
    assert match.bd_rate is not None
    open_ended = replace(match, bd_rate=replace(match.bd_rate, low_pct=None, high_pct=None))
    said = verdict(open_ended.bd_rate, open_ended.n_seeds, open_ended.why_not)
    assert said.startswith("whether distillation helped cannot be told: BD-rate +2")


def test_a_student_that_is_quicker_than_its_twin_is_not_called_equal() -> None:
    control = twins.hurt()
    slow = twins.side(control.tried[1].spec, (10.0,), 40.0)
    quicker = replace(control, equal_steps=replace(control.equal_steps, twin=slow))
    assert verdicts(quicker)["equal seconds"] == (
        "the student took fewer than the twin: 32 s with distillation, 40 s without"
    )


def test_no_fresh_seed_that_finished_is_no_figure() -> None:
    lost = replace(twins.fresh(), runs=twins.fresh().runs[2:])
    assert curse(lost) == "cannot be told: the training of every fresh seed broke"


def test_doctor() -> None:
    sections = {
        "meters": [
            Finding("powercap", "missing", "no RAPL package under /sys/class/powercap " * 3),
            Finding("codecarbon", "ok", "model: cpu_load x 8 W (process)"),
        ],
        "teachers": [Finding("teacher:default", "broken", "it is damaged")],
    }
    expect("doctor", doctor_text(sections, 80))


def test_cells_of_several_lines_stay_in_their_rows() -> None:
    text = table(["a\nb", "c"], [["1", "x\ny"], ["22", "z"]], left=1)
    assert text.splitlines() == ["a", "b   c", "--  -", "1   x", "    y", "22  z"]
