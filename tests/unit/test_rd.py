"""BD-rate and PSNR, as their definitions promise."""

import json
import math
import time
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import Akima1DInterpolator

from kdbench import rd
from kdbench.errors import KdbenchError, QualityGapError
from kdbench.rd import (
    bd_rate,
    bd_rate_over_seeds,
    bd_rate_pct,
    psnr_db,
)
from kdbench.records import BDRate, RDCurve, RDPoint

BPP = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
PSNR = np.array([28.0, 30.5, 33.0, 35.4, 38.1])
EVENLY = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def curve(bpp: npt.NDArray[np.float64], psnr: npt.NDArray[np.float64]) -> RDCurve:
    """From arrays (levels, images)."""
    means = zip(bpp.mean(axis=1), psnr.mean(axis=1), strict=True)
    return RDCurve(
        images=tuple(f"{i}.png" for i in range(bpp.shape[1])),
        points=tuple(RDPoint(level=i, bpp=b, psnr_db=p) for i, (b, p) in enumerate(means)),
        image_bpp=tuple(map(tuple, bpp.tolist())),
        image_psnr_db=tuple(map(tuple, psnr.tolist())),
    )


def photos(n_images: int = 8, *, gain_db: float = 0.0, spread: float = 0.05) -> RDCurve:
    """A codec on photos of very different difficulty; `gain_db` better, more on some photos."""
    rng = np.random.default_rng(7)
    difficulty = rng.lognormal(0, 0.6, n_images)
    own = np.random.default_rng(abs(int(100 * gain_db))).normal(gain_db, spread, n_images)
    return curve(BPP[:, None] * difficulty, PSNR[:, None] + own - 2 * np.log(difficulty))


def k_times(k: float, anchor: RDCurve) -> RDCurve:
    return curve(k * np.array(anchor.image_bpp), np.array(anchor.image_psnr_db))


def fewer_levels() -> RDCurve:
    found = photos()
    return curve(np.array(found.image_bpp)[1:], np.array(found.image_psnr_db)[1:])


# --- BD-rate ---------------------------------------------------------------------------------


def test_a_codec_does_not_beat_itself() -> None:
    assert bd_rate_pct(BPP, PSNR, BPP, PSNR) == pytest.approx(0.0, abs=1e-9)


@given(k=st.floats(0.2, 5.0))
@settings(deadline=None)
def test_k_times_the_bits_costs_k_minus_one_in_percent(k: float) -> None:
    assert bd_rate_pct(k * BPP, PSNR, BPP, PSNR) == pytest.approx(100 * (k - 1), abs=1e-6)


@given(
    shift=st.floats(-4.0, 4.0),
    k=st.floats(0.5, 2.0),
    steps_db=st.lists(st.floats(0.5, 4.0), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_swapping_the_curves_inverts_the_ratio(
    shift: float, k: float, steps_db: list[float]
) -> None:
    bpp, psnr = k * BPP[:4], [30 + shift + rise for rise in accumulate([0.0, *steps_db])]
    try:
        there = bd_rate_pct(bpp, psnr, BPP, PSNR)
    except QualityGapError:
        with pytest.raises(QualityGapError):
            bd_rate_pct(BPP, PSNR, bpp, psnr)
    else:
        back = bd_rate_pct(BPP, PSNR, bpp, psnr)
        assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1.0)


@given(order=st.permutations(range(5)))
@settings(deadline=None)
def test_points_may_come_in_any_order(order: list[int]) -> None:
    expected_pct = bd_rate_pct(1.3 * BPP, PSNR + 0.4, BPP, PSNR)
    found_pct = bd_rate_pct(1.3 * BPP[order], PSNR[order] + 0.4, BPP[order], PSNR[order])
    assert found_pct == expected_pct


def test_curves_are_joined_by_akima_s_splines() -> None:
    bent = np.array([28.3, 29.0, 32.9, 34.1, 38.4])  # pchip and cubics differ by percents here
    splines = [Akima1DInterpolator(psnr, np.log(BPP)) for psnr in (bent, PSNR)]
    test, anchor = (float(spline.integrate(28.3, 38.1)) for spline in splines)
    expected_pct = 100 * math.expm1((test - anchor) / (38.1 - 28.3))
    assert bd_rate_pct(BPP, bent, BPP, PSNR) == pytest.approx(expected_pct, abs=1e-9)


def test_between_straight_lines_the_rate_changes_by_their_distance() -> None:
    psnr = np.array([30.0, 32.0, 34.0])
    bpp = 0.1 * 2 ** np.array([0.0, 1.0, 2.0])  # twice the bits for 2 dB, so 1 dB is sqrt(2)
    found_pct = bd_rate_pct(bpp, psnr + 1.0, bpp, psnr)
    assert found_pct == pytest.approx(100 * (0.5**0.5 - 1))


def test_curves_that_never_meet_say_where_each_lies_and_how_to_make_them_meet() -> None:
    message = r"no quality(?s:.*)48\.00 to 58\.10 dB, anchor 28\.00 to 38\.10 dB\n  fix: .*rd_lam"
    with pytest.raises(QualityGapError, match=message):
        bd_rate_pct(BPP, PSNR + 20.0, BPP, PSNR)


@pytest.mark.parametrize(
    ("low_db", "high_db", "shares_enough"),
    [(27.0, 28.4, False), (27.0, 28.9, False), (27.0, 29.1, True), (31.0, 32.1, True)],
)
def test_a_tenth_of_the_longer_curve_must_be_shared(
    low_db: float, high_db: float, shares_enough: bool
) -> None:
    psnr = low_db + (high_db - low_db) * EVENLY  # against 28.0 to 38.1: a tenth is 1.01 dB
    if shares_enough:
        assert math.isfinite(bd_rate_pct(BPP, psnr, BPP, PSNR))
    else:
        with pytest.raises(QualityGapError, match=r"share only .* dB, and BD-rate needs 1\.01 dB"):
            bd_rate_pct(BPP, psnr, BPP, PSNR)


def test_short_curves_must_share_half_a_decibel_all_the_same() -> None:
    psnr = 30.0 + 1.5 * EVENLY
    with pytest.raises(QualityGapError, match=r"share only 0\.40 dB, and BD-rate needs 0\.50 dB"):
        bd_rate_pct(BPP, psnr + 1.1, BPP, psnr)


def test_quality_that_falls_while_bits_rise_is_an_error_that_names_the_points() -> None:
    psnr = PSNR.copy()
    psnr[2] = 30.4
    with pytest.raises(
        QualityGapError, match=r"the test curve .*0\.2000 bpp gives 30\.50 dB, 0\.4000.*30\.40"
    ):
        bd_rate_pct(BPP, psnr, BPP, PSNR)


@pytest.mark.parametrize(
    ("bpp", "psnr"),
    [(0.0, 28.0), (-0.1, 28.0), (math.nan, 28.0), (0.1, math.nan), (2.0, math.inf)],
)
def test_a_number_no_file_gives_is_an_error_and_never_nan(bpp: float, psnr: float) -> None:
    with pytest.raises(KdbenchError, match="the anchor curve has a point of"):
        bd_rate_pct(BPP, PSNR, [*BPP[1:], bpp], [*PSNR[1:], psnr])


def test_two_points_are_no_curve() -> None:
    with pytest.raises(KdbenchError, match=r"the test curve has 2 point\(s\)"):
        bd_rate_pct(BPP[:2], PSNR[:2], BPP, PSNR)


# --- its interval ----------------------------------------------------------------------------


def test_the_figure_is_that_of_the_averaged_curves_and_the_overlap_is_told() -> None:
    test, anchor = photos(gain_db=0.3), photos()
    found = bd_rate(test, anchor)
    averages = [[p.bpp for p in c.points] for c in (test, anchor)]
    qualities = [[p.psnr_db for p in c.points] for c in (test, anchor)]
    assert found.pct == pytest.approx(
        bd_rate_pct(averages[0], qualities[0], averages[1], qualities[1])
    )
    assert found.overlap_db == pytest.approx(qualities[1][-1] - qualities[0][0])


@given(n_images=st.integers(3, 24), gain_db=st.floats(-1.0, 1.0), spread=st.floats(0.01, 0.5))
@settings(max_examples=20, deadline=None)
def test_the_interval_holds_the_figure(n_images: int, gain_db: float, spread: float) -> None:
    found = bd_rate(
        photos(n_images, gain_db=gain_db, spread=spread), photos(n_images), n_resamples=200
    )
    assert found.low_pct is not None
    assert found.high_pct is not None
    assert found.low_pct <= found.pct <= found.high_pct


@given(k=st.floats(0.2, 5.0))
@settings(max_examples=10, deadline=None)
def test_k_times_the_bits_on_every_photo_leaves_no_doubt(k: float) -> None:
    found = bd_rate(k_times(k, photos()), photos(), n_resamples=50)
    assert found.low_pct == pytest.approx(100 * (k - 1), abs=1e-6)
    assert found.high_pct == pytest.approx(100 * (k - 1), abs=1e-6)


def test_pairing_removes_the_difference_between_photos() -> None:
    anchor, test = photos(24), photos(24, gain_db=0.3)
    paired = bd_rate(test, anchor)
    assert paired.low_pct is not None
    assert paired.high_pct is not None
    order = np.random.default_rng(0).permutation(24)
    unpaired = bd_rate(
        curve(np.array(test.image_bpp)[:, order], np.array(test.image_psnr_db)[:, order]), anchor
    )
    assert unpaired.low_pct is not None
    assert unpaired.high_pct is not None
    assert (unpaired.high_pct - unpaired.low_pct) > 5 * (paired.high_pct - paired.low_pct)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    test, anchor = photos(gain_db=0.3), photos()
    first = bd_rate(test, anchor, n_resamples=100, seed=3)
    assert bd_rate(test, anchor, n_resamples=100, seed=3) == first
    assert bd_rate(test, anchor, n_resamples=100, seed=4) != first


def test_one_photo_has_no_interval_rather_than_one_of_zero_width() -> None:
    found = bd_rate(photos(1, gain_db=0.3), photos(1))
    assert (found.low_pct, found.high_pct) == (None, None)


def lone_quality(n_images: int) -> RDCurve:
    """Meets `photos` in one photo only, which lifts the average just high enough."""
    anchor = photos(n_images)
    low = np.array(anchor.image_psnr_db) - 10.5
    low[:, 0] += 5.0 * n_images
    return curve(np.array(anchor.image_bpp), low)


def test_draws_without_common_quality_are_not_dropped_but_open_the_interval() -> None:
    test, anchor = lone_quality(8), photos(8)
    found = bd_rate(test, anchor)
    assert math.isfinite(found.pct)
    assert (found.low_pct, found.high_pct) == (None, None)


def test_an_interval_is_asked_for_where_there_can_be_one() -> None:
    with pytest.raises(QualityGapError, match=r"dB in common, and on many a resample"):
        rd.require_interval(bd_rate(lone_quality(8), photos(8)), 8)
    known = bd_rate(photos(8, gain_db=0.3), photos(8))
    assert rd.require_interval(known, 8) is known
    few = bd_rate(lone_quality(4), photos(4))
    assert few.low_pct is None
    assert rd.require_interval(few, 4) is few


def test_few_lost_draws_count_at_both_ends() -> None:
    draws: list[float | None] = [float(i) for i in range(1000)]
    assert rd._interval(draws) == (24.0, 975.0)
    draws[500:510] = [None] * 10
    low_pct, high_pct = rd._interval(draws)
    assert (low_pct, high_pct) == (14.0, 985.0)


def test_a_thousand_draws_take_under_two_seconds() -> None:
    test, anchor = photos(24, gain_db=0.3), photos(24)
    bd_rate(test, anchor, n_resamples=1)  # imports
    began = time.process_time()
    bd_rate(test, anchor, n_resamples=1000)
    assert time.process_time() - began < 2.0


def test_curves_of_other_photos_are_refused_with_one_that_differs() -> None:
    with pytest.raises(KdbenchError, match=r"test has 8 images, anchor 9.*8\.png"):
        bd_rate(photos(8), photos(9))


# --- over seeds ------------------------------------------------------------------------------


def seeds(*lucks_db: float) -> list[RDCurve]:
    """One codec trained several times: each seed is better by its luck on every photo."""
    return [curve(np.array(photos().image_bpp), lifted(luck_db)) for luck_db in lucks_db]


def lifted(luck_db: float) -> npt.NDArray[np.float64]:
    return np.array(photos().image_psnr_db) + luck_db


def ends(found: BDRate) -> tuple[float, float]:
    assert found.low_pct is not None
    assert found.high_pct is not None
    return found.low_pct, found.high_pct


def test_the_same_curves_differ_by_nothing_whatever_the_seeds() -> None:
    found = bd_rate_over_seeds(seeds(0.0, 0.4, -0.3), seeds(0.0, 0.4, -0.3), n_resamples=100)
    assert [found.pct, *ends(found)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@given(k=st.floats(0.2, 5.0))
@settings(max_examples=10, deadline=None)
def test_k_times_the_bits_of_every_seed_leaves_no_doubt(k: float) -> None:
    twins = seeds(0.0, 0.4, -0.3)
    found = bd_rate_over_seeds([k_times(k, twin) for twin in twins], twins, n_resamples=50)
    assert [found.pct, *ends(found)] == pytest.approx([100 * (k - 1)] * 3, abs=1e-6)


def test_one_seed_is_the_bootstrap_over_images() -> None:
    test, anchor = photos(gain_db=0.3), photos()
    assert bd_rate_over_seeds([test], [anchor]) == bd_rate(test, anchor)


@pytest.mark.parametrize("n", [2, 5])
def test_more_seeds_of_the_same_data_neither_widen_nor_narrow_the_interval(n: int) -> None:
    test, anchor = photos(gain_db=0.3), photos()
    one, several = bd_rate(test, anchor), bd_rate_over_seeds([test] * n, [anchor] * n)
    assert [several.pct, *ends(several)] == pytest.approx([one.pct, *ends(one)])


def test_what_both_sides_of_a_seed_share_is_no_doubt_but_what_one_has_alone_is() -> None:
    students, lucky = seeds(0.1, 0.5, -0.2), seeds(0.0, 0.4, -0.3)
    paired = ends(bd_rate_over_seeds(students, lucky))
    unpaired = ends(bd_rate_over_seeds(students, [lucky[1], lucky[2], lucky[0]]))
    assert (unpaired[1] - unpaired[0]) > 5 * (paired[1] - paired[0])
    assert paired[1] < 0.0 < unpaired[1]


def test_the_order_of_the_seeds_does_not_move_the_figure() -> None:
    students, twins = seeds(0.1, 0.5, -0.2), seeds(0.0, 0.4, -0.3)
    there = bd_rate_over_seeds(students, twins, n_resamples=10)
    back = bd_rate_over_seeds(students[::-1], twins[::-1], n_resamples=10)
    assert back.pct == pytest.approx(there.pct)


def test_several_seeds_on_one_photo_have_no_interval() -> None:
    """It would tell of seeds alone, and look narrow."""
    found = bd_rate_over_seeds([photos(1, gain_db=0.3)] * 3, [photos(1)] * 3)
    assert (found.low_pct, found.high_pct) == (None, None)


@pytest.mark.parametrize(
    ("tests", "anchors", "problem"),
    [
        ([], [], "test has 0 seeds, anchor 0"),
        ([photos()] * 2, [photos()], "test has 2 seeds, anchor 1"),
        ([photos(), photos(9)], [photos()] * 2, "test has 9 images, anchor 8"),
        ([photos()] * 2, [photos(), photos(9)], "test has 9 images, anchor 8"),
        ([photos(), fewer_levels()], [photos()] * 2, "the seeds of the test curve have 4 to 5"),
    ],
)
def test_seeds_that_are_no_pairs_are_refused(
    tests: list[RDCurve], anchors: list[RDCurve], problem: str
) -> None:
    with pytest.raises(KdbenchError, match=problem):
        bd_rate_over_seeds(tests, anchors)


def test_a_thousand_draws_of_five_seeds_take_under_two_seconds() -> None:
    tests, anchors = [photos(24, gain_db=0.3)] * 5, [photos(24)] * 5
    bd_rate_over_seeds(tests, anchors, n_resamples=1)  # imports
    began = time.process_time()
    bd_rate_over_seeds(tests, anchors, n_resamples=1000)
    assert time.process_time() - began < 2.0


# --- PSNR ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [1, 5, 255])
def test_a_constant_error_has_the_psnr_of_its_size(error: int) -> None:
    a = np.zeros((4, 6, 3), np.uint8)
    found_db = psnr_db(a, np.full_like(a, error), peak=255)
    assert found_db == pytest.approx(20 * math.log10(255 / error))
    assert psnr_db(np.full_like(a, error), a, peak=255) == found_db  # 8 bits do not wrap


def test_identical_images_get_the_psnr_of_one_sample_off_by_one() -> None:
    a = np.full((4, 6, 3), 9, np.uint8)
    nearly = a.copy()
    nearly[2, 3, 1] += 1
    assert psnr_db(a, a, peak=255) == psnr_db(a, nearly, peak=255)
    assert json.loads(json.dumps(psnr_db(a, a, peak=255))) == pytest.approx(66.7, abs=0.01)


def test_more_error_is_less_quality() -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    found_db = [psnr_db(a, a + np.uint8(error), peak=255) for error in range(1, 20)]
    assert all(worse < better for better, worse in pairwise(found_db))


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(KdbenchError, match=r"\(2, 2, 3\) and \(2, 3, 3\)"):
        psnr_db(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), peak=255)
