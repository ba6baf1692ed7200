"""What figures show is what the study found, and nothing is drawn of what nobody measured."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.errors import KdbenchError
from kdbench.files import append_log
from kdbench.records import BDRate, RDPoint, TwinFigures
from kdbench.report.chart import Axis, Chart, Point, Series, ends, error_bar, log_ticks
from kdbench.report.charts import (
    NOTHING_SAID,
    front_3d,
    front_charts,
    hypervolume_chart,
    ms_ssim_db,
    rd_charts,
    savings_chart,
    study_charts,
    trial_charts,
)
from kdbench.report.overview import Overview, overview
from kdbench.report.paper import Row
from kdbench.report.profiles import parallel_chart
from tests.support.results import STUDY, TEACHER, curve, energy, make_study, result


@pytest.fixture
def found(tmp_path: Path) -> Overview:
    return overview(make_study(tmp_path), STUDY)


def series(chart: Chart, name: str) -> Series:
    return next(each for each in chart.series if each.name == name)


def test_there_is_a_figure_for_each_pair_of_objectives_with_quality_upright(
    found: Overview,
) -> None:
    assert [(chart.x.unit, chart.y.unit) for chart in front_charts(found)] == [
        ("kMAC/px", "%"),
        ("J/Mpx", "%"),
        ("kMAC/px", "J/Mpx"),
    ]


def test_a_projection_shows_front_others_and_anchor_with_intervals(found: Overview) -> None:
    chart = front_charts(found)[1]
    front = series(chart, "front").points
    assert [point.trial for point in front] == [0, 3]
    best = next(point for point in front if point.trial == 3)
    assert (best.y, best.y_low, best.y_high) == (12.25, 6.25, 19.75)
    assert best.x == pytest.approx(12.0)
    assert best.x_low is not None
    assert best.x_high is not None
    assert best.x_low < best.x < best.x_high
    assert [point.trial for point in series(chart, "other trials").points] == [1]
    (anchor,) = series(chart, "teacher:default").points
    assert anchor.x == pytest.approx(30.0)
    assert anchor.y == 0.0
    assert chart.x.title == "energy (model) [J/Mpx]"


def test_hovering_tells_the_architecture(found: Overview) -> None:
    (silent, _) = series(front_charts(found, said=NOTHING_SAID)[0], "front").points
    (point, _) = series(front_charts(found)[0], "front").points
    assert not silent.hover
    assert "encoder 16, 5x5, gdn" in point.hover
    assert "decoder 16, 3x3, relu" in point.hover
    assert "teacher:default: latent 0.100" in point.hover


def test_an_objective_that_nobody_measured_has_no_figure(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    for number in (0, 1, 3):
        store.save_result(STUDY, number, result(20.0 + number, 16 + number, None))
    found = overview(store, STUDY)
    assert [chart.name for chart in front_charts(found)] == ["front-bd_rate_pct-kmac_per_px"]
    assert front_3d(found) is None
    assert all("energy" not in chart.name for chart in study_charts(found))


def test_a_study_without_results_has_no_figure(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    for number in (0, 1, 3):
        store.trial(STUDY, number).result.unlink()
    assert study_charts(overview(store, STUDY)) == ()


def test_a_codec_whose_macs_nobody_counts_is_a_line_across(found: Overview) -> None:
    jpeg = Row(
        name="jpeg",
        rd=curve(1.9),
        complexity=None,
        energy=energy(1.0),
        bd_rate=BDRate(pct=90.0, low_pct=80.0, high_pct=99.0, overlap_db=5.0),
    )
    over_macs, over_energy, _ = front_charts(found, [jpeg])
    (rule,) = over_macs.rules
    assert (rule.along, rule.value, rule.label) == ("y", 90.0, "jpeg")
    (point,) = series(over_energy, "jpeg").points
    assert point.x == pytest.approx(1.0)
    assert (point.y, point.y_low) == (90.0, 80.0)


def test_a_twin_stands_where_its_students_gain_puts_it(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    gain = BDRate(pct=-10.0, low_pct=-12.0, high_pct=-8.0, overlap_db=6.0)
    store.save_twin(STUDY, 3, TwinFigures(n_seeds=2, equal_steps=gain))
    (twin,) = series(front_charts(overview(store, STUDY))[0], "twins").points
    assert twin.y == pytest.approx(100 * (1.1225 / 0.9 - 1))
    assert twin.trial == 3


def test_ms_ssim_is_drawn_in_decibels_and_left_out_where_photos_are_small(tmp_path: Path) -> None:
    assert ms_ssim_db(RDPoint(level=0, bpp=1, psnr_db=30, ms_ssim=0.99)) == pytest.approx(20.0)
    assert ms_ssim_db(RDPoint(level=0, bpp=1, psnr_db=30, ms_ssim=1.0)) == pytest.approx(60.0)
    store = make_study(tmp_path)
    names = [chart.name for chart in rd_charts(overview(store, STUDY))]
    assert names == ["rd-psnr", "rd-ms-ssim"]
    for number in (0, 1, 3):
        done = store.load_trial(STUDY, number).result
        assert done is not None
        points = tuple(replace(point, ms_ssim=None) for point in done.rd.points)
        store.save_result(STUDY, number, replace(done, rd=replace(done.rd, points=points)))
    assert [chart.name for chart in rd_charts(overview(store, STUDY))] == ["rd-psnr"]


def test_savings_are_against_the_anchor_and_energy_only_of_one_device(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    chart = savings_chart(overview(store, STUDY))
    assert chart is not None
    assert chart.x.categories == ("3", "0")
    assert series(chart, "parameters").points[0].y == pytest.approx(90.0)  # 640 k of 6.4 M
    assert series(chart, "energy").points[0].y == pytest.approx(60.0)  # 12 of 30 J/Mpx
    for number, joules in ((0, 4.5), (1, 7.0), (3, 12.0)):
        done = store.load_trial(STUDY, number).result
        assert done is not None
        elsewhere = replace(energy(joules), device="other")
        store.save_result(STUDY, number, replace(done, energy=elsewhere))
    again = savings_chart(overview(store, STUDY))
    assert again is not None
    assert "energy" not in [each.name for each in again.series]


def test_hypervolume_rises_to_all_of_it_over_the_seconds_that_trials_worked(
    found: Overview,
) -> None:
    chart = hypervolume_chart(found)
    assert chart is not None
    (line,) = chart.series
    shares = [point.y for point in line.points]
    assert shares == sorted(shares, key=lambda y: y or 0.0)
    assert shares[-1] == pytest.approx(100.0)
    worked_s = sum(0.5 + training_s + 12.0 for training_s in (38.4, 61.0, 104.7))
    assert line.points[-1].x == pytest.approx(worked_s)
    assert 1 not in [point.trial for point in line.points]  # beaten: it adds nothing
    assert "3 trials that left no seconds count none" in chart.note


def test_a_line_of_parallel_coordinates_stays_between_its_ends(found: Overview) -> None:
    chart = parallel_chart(found)
    assert chart is not None
    assert chart.x.categories[0] == "encoder width"
    for name in ("front", "other trials"):
        values = [point.y for point in series(chart, name).points if point.y is not None]
        assert values
        assert all(0 <= value <= 1 for value in values)
    labels = [point.label for point in series(chart, "ends").points]
    assert labels[:2] == ["16", "19"]  # encoder widths of trials 0 and 3


def test_a_trial_has_its_curve_and_its_loss(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    found = overview(store, STUDY)
    trial = found.trials[3]
    assert [chart.name for chart in trial_charts(found, trial)] == [
        "trial-3-rd-psnr",
        "trial-3-rd-ms-ssim",
    ]
    for step in (0, 20):
        append_log(trial.folder.log, {"step": float(step), "loss": 2.0, "bpp": 0.5, "latent": 0.0})
    loss = trial_charts(found, trial)[-1]
    assert loss.name == "trial-3-loss"
    assert [each.name for each in loss.series] == ["loss", "bpp"]  # no logarithm of 0
    assert [point.x for point in series(loss, "loss").points] == [0.0, 20.0]


@pytest.mark.parametrize(("low", "high"), [(1.17, 3.25), (2.8, 24.6), (0.9, 900), (5.0, 5.0)])
def test_logarithmic_axes_have_round_places_inside(low: float, high: float) -> None:
    points = (Point(x=low, y=1.0), Point(x=high, y=2.0))
    chart = Chart(
        name="t",
        title="t",
        x=Axis(label="x", log=True),
        y=Axis(label="y"),
        series=(Series(name="s", kind="points", points=points, role="front"),),
    )
    ticks = log_ticks(chart, "x")
    assert 1 <= len(ticks) <= 13
    assert list(ticks) == sorted(set(ticks))
    assert all(0.9 * low <= tick <= 1.1 * high for tick in ticks)
    assert ends(chart, "y") == (1.0, 2.0)


def test_an_error_bar_stays_above_zero_where_zero_cannot_be_drawn() -> None:
    assert error_bar(10.0, 8.0, 13.0, log=False) == (2.0, 3.0)
    drawn = error_bar(10.0, 0.0, 13.0, log=True)
    assert drawn is not None
    assert drawn == pytest.approx((9.99, 3.0))
    assert error_bar(10.0, None, 13.0, log=False) is None


def test_figures_go_to_another_process_whole(found: Overview) -> None:
    charts = study_charts(found)
    assert {p.hover for chart in charts for series in chart.series for p in series.points} > {""}
    assert pickle.loads(pickle.dumps(charts)) == charts
    empty = Series(name="none", kind="bars", points=(), role="member", place=3)
    assert pickle.loads(pickle.dumps(empty)) == empty


def test_a_trial_that_costs_nothing_is_named(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    done = store.load_trial(STUDY, 3).result
    assert done is not None
    free = replace(done.complexity, g_a=0.0, h_a=0.0, h_s=0.0, g_s=0.0, entropy_model=0.0)
    store.save_result(STUDY, 3, replace(done, complexity=free))
    with pytest.raises(KdbenchError, match="trial 3 has a cost that is not above 0\n  fix: move"):
        hypervolume_chart(overview(store, STUDY))


def test_the_anchor_needs_no_figures_of_its_own(tmp_path: Path) -> None:
    found = overview(make_study(tmp_path, with_anchor=False), STUDY)
    charts = study_charts(found)
    assert all(each.name != TEACHER.codec for chart in charts for each in chart.series)
    assert "savings" not in [chart.name for chart in charts]
