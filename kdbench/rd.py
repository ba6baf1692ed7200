"""Rate-distortion curves and what we compute from them: BD-rate and PSNR.

No torch, no files. The package `bjontegaard` loads matplotlib (1 to 2 s), so it is imported inside
the one function that needs it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from kdbench.errors import KdbenchError, QualityGapError
from kdbench.records import BDRate, RDCurve

MIN_POINTS = 3  # Akima's least; with two the package would silently draw a straight line
MIN_OVERLAP_DB = 0.5
MIN_OVERLAP_SHARE = 0.1  # of the longer curve's PSNR range
MIN_IMAGES = 5  # to ask for an interval: fewer have few different resamples, one decides
ROUNDING_PCT = 1e-6  # equal curves differ by some 1e-14 %
INTERVAL = (0.025, 0.975)  # the 95 % interval, as quantiles

Outcome = Literal["helped", "hurt", "within noise", "unknown"]
Floats = Sequence[float] | npt.NDArray[np.float64]
Array = npt.NDArray[np.float64]


# --- curves ----------------------------------------------------------------------------------


def joined(curves: Sequence[RDCurve]) -> RDCurve:
    """One curve of codecs of one rate each (or of several), measured on the same images.

    Levels are counted through the curves in their order; seconds and the quotient of bits are the
    mean over the codecs.

    Raises:
        KdbenchError: The curves are not of the same images.
    """
    for curve in curves:
        _require_same_images(curve, curves[0])
    if len(curves) == 1:
        return curves[0]
    rows = [
        (point, bpp, psnr)
        for curve in curves
        for point, bpp, psnr in sorted(
            zip(curve.points, curve.image_bpp, curve.image_psnr_db, strict=True),
            key=lambda row: row[0].level,
        )
    ]
    points = [replace(point, level=i) for i, (point, _, _) in enumerate(rows)]
    order = sorted(range(len(rows)), key=lambda i: points[i].bpp)

    def mean(name: str) -> float | None:
        values = [getattr(curve, name) for curve in curves]
        return None if None in values else sum(values) / len(values)

    return RDCurve(
        images=curves[0].images,
        points=tuple(points[i] for i in order),
        image_bpp=tuple(rows[i][1] for i in order),
        image_psnr_db=tuple(rows[i][2] for i in order),
        estimated_over_real_bits=mean("estimated_over_real_bits"),
        encode_s_per_mpx=mean("encode_s_per_mpx"),
        decode_s_per_mpx=mean("decode_s_per_mpx"),
    )


# --- BD-rate ---------------------------------------------------------------------------------


def bd_rate_pct(
    bpp_test: Floats, psnr_test: Floats, bpp_anchor: Floats, psnr_anchor: Floats
) -> float:
    """Mean rate change of the test curve against the anchor at equal PSNR [%]; negative is better.

    Akima interpolation of log rate over PSNR (package `bjontegaard`), averaged over the PSNR
    interval that both curves cover. Points may come in any order.

    Raises:
        QualityGapError: The curves share less than 0.5 dB, or less than a tenth of the longer one's
            PSNR range; or one of them is no curve: quality does not rise with its bits. The tenth
            keeps a search from winning with a codec that was compared on one end of the anchor
            only; measured on the longer curve, it judges a pair and its swap alike.
        KdbenchError: Under three points, or a number that no real file gives.
    """
    test = _by_rising_bits("test", bpp_test, psnr_test)
    anchor = _by_rising_bits("anchor", bpp_anchor, psnr_anchor)
    _require_overlap(test, anchor)
    return _bd_rate_pct(test, anchor)


def bd_rate(test: RDCurve, anchor: RDCurve, *, n_resamples: int = 1000, seed: int = 0) -> BDRate:
    """BD-rate of `test` against `anchor` with its 95 % interval; negative saves bits.

    The interval is a paired percentile bootstrap: images are drawn with replacement, the same ones
    for both curves, whose points are averaged over them again. Photos differ in bits by far more
    than codecs do: unpaired draws scatter by 20 to 30 points and would tell nothing.

    A draw whose curves cannot be compared (no common quality left, or quality no longer rising) is
    not left out, which would flatter the interval: it counts as worse than all others at the lower
    end and at the upper one alike. Where more than 2.5 % of the draws are such, the interval has no
    end and both are None. A draw need only have *some* overlap; the minimum is the whole set's.

    Raises:
        QualityGapError: See `bd_rate_pct`.
        KdbenchError: See `bd_rate_pct`; or the curves are not of the same images.
    """
    return bd_rate_over_seeds([test], [anchor], n_resamples=n_resamples, seed=seed)


def bd_rate_over_seeds(
    tests: Sequence[RDCurve],
    anchors: Sequence[RDCurve],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> BDRate:
    """BD-rate of a codec trained from several seeds against another, with its 95 % interval.

    Of the curves averaged over seeds and images. The bootstrap of `bd_rate`, crossed: a draw takes
    seeds with replacement and images with replacement, the same ones on both sides, and every seed
    it took sees every image it took. With one seed it is `bd_rate`, and tells nothing of others;
    with few, percentile intervals are somewhat narrow (half the draws of two take one twice).

    Args:
        tests: One curve a seed.
        anchors: Of the same seeds, in the same order.
        n_resamples: Draws.
        seed: Of the draws.

    Raises:
        QualityGapError: See `bd_rate_pct`.
        KdbenchError: See `bd_rate_pct`; or the curves are not of the same seeds, images and levels.
    """
    _require_pairs(tests, anchors)
    test, anchor = _columns("test", tests), _columns("anchor", anchors)
    n_seeds, n_images = len(tests), len(tests[0].images)
    curves = _averaged("test", test), _averaged("anchor", anchor)
    overlap_db = _require_overlap(*curves)
    low_pct, high_pct = None, None
    if n_images > 1:
        rng = np.random.default_rng(seed)
        images = rng.choice(n_images, size=(n_resamples, 1, n_images))
        seeds = rng.choice(n_seeds, size=(n_resamples, n_seeds, 1))
        draws = (seeds * n_images + images).reshape(n_resamples, -1)
        low_pct, high_pct = _interval([_resampled_pct(test, anchor, draw) for draw in draws])
    return BDRate(
        pct=_bd_rate_pct(*curves), low_pct=low_pct, high_pct=high_pct, overlap_db=overlap_db
    )


def outcome(found: BDRate | None) -> Outcome:
    """What a change did, by the BD-rate with it against that without; unknown without interval."""
    if found is None or found.low_pct is None or found.high_pct is None:
        return "unknown"
    if found.low_pct <= ROUNDING_PCT and found.high_pct >= -ROUNDING_PCT:
        return "within noise"
    return "helped" if found.high_pct < 0.0 else "hurt"


def require_interval(found: BDRate, n_images: int) -> BDRate:
    """`found` if its interval is known, or the images are too few to ask for one.

    Raises:
        QualityGapError: With many another choice of the photos the curves could not be compared.
    """
    if n_images >= MIN_IMAGES and found.low_pct is None:
        raise QualityGapError(
            f"the two curves have {found.overlap_db:.2f} dB in common, and on many a resample of "
            "the photos too little: there is no interval of the BD-rate",
            fix="train longer or wider, or compare with an anchor closer in quality",
        )
    return found


def _bd_rate_pct(test: Array, anchor: Array) -> float:
    """BD-rate of two checked curves that overlap [%]; rows are bpp and PSNR."""
    from bjontegaard import bd_rate as package_bd_rate

    return float(
        package_bd_rate(
            *anchor,
            *test,
            method="akima",
            require_matching_points=False,
            min_overlap=0,  # `_require_overlap` has decided; the package would only warn
        )
    )


def _resampled_pct(test: Array, anchor: Array, draw: npt.NDArray[np.int64]) -> float | None:
    """BD-rate over the drawn columns [%]; None where they leave nothing to compare."""
    try:
        curves = _averaged("test", test[..., draw]), _averaged("anchor", anchor[..., draw])
    except QualityGapError:
        return None
    low_db, high_db = _common_db(*curves)
    return _bd_rate_pct(*curves) if low_db < high_db else None


def _interval(draws_pct: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Both ends of the interval; None and None where lost draws reach into it."""
    found = [pct for pct in draws_pct if pct is not None]
    lost = [math.inf] * (len(draws_pct) - len(found))
    low, high = INTERVAL
    low_pct = float(np.quantile([-x for x in lost] + found, low, method="lower"))
    high_pct = float(np.quantile(found + lost, high, method="higher"))
    return (low_pct, high_pct) if math.isfinite(high_pct - low_pct) else (None, None)


def _columns(role: str, curves: Sequence[RDCurve]) -> Array:
    """Bits and PSNR of every seed on every image, (2, levels, seeds * images)."""
    n_levels = sorted({len(curve.image_bpp) for curve in curves})
    if len(n_levels) > 1:
        raise KdbenchError(
            f"the seeds of the {role} curve have {n_levels[0]} to {n_levels[-1]} points",
            fix="train every seed with the same `training.rd_lambdas`",
        )
    seeds = [(curve.image_bpp, curve.image_psnr_db) for curve in curves]
    return np.concatenate(np.asarray(seeds, dtype=np.float64), axis=-1)


def _averaged(role: str, columns: Array) -> Array:
    """The curve over these columns, each as often as it is there."""
    return _by_rising_bits(role, *columns.mean(axis=-1))


def _by_rising_bits(role: str, bpp: Floats, psnr_db: Floats) -> Array:
    """Rows bpp and PSNR by ascending bits, once they are known to be a curve."""
    points = sorted(zip(bpp, psnr_db, strict=True))
    if len(points) < MIN_POINTS:
        raise KdbenchError(
            f"the {role} curve has {len(points)} point(s); BD-rate needs {MIN_POINTS}",
            fix="measure at more rates: add to `training.rd_lambdas` in the study file",
        )
    for b, p in points:
        if not (0 < b < math.inf and math.isfinite(p)):
            raise KdbenchError(
                f"the {role} curve has a point of {b:g} bpp and {p:g} dB",
                fix="leave out this level; rates are above 0 and lossless levels have no PSNR",
            )
    for (b0, p0), (b1, p1) in pairwise(points):
        if p1 <= p0:
            raise QualityGapError(
                f"the {role} curve spends more bits without gaining quality: "
                f"{b0:.4f} bpp gives {p0:.2f} dB, {b1:.4f} bpp gives {p1:.2f} dB",
                fix="train longer, or move the values of `training.rd_lambdas` further apart",
            )
    return np.array(points, dtype=np.float64).T


def _common_db(test: Array, anchor: Array) -> tuple[float, float]:
    """Ends of the PSNR interval that both curves cover [dB]; the first is higher if none is."""
    return float(max(test[1, 0], anchor[1, 0])), float(min(test[1, -1], anchor[1, -1]))


def _require_overlap(test: Array, anchor: Array) -> float:
    """Length of the common PSNR interval [dB], which is long enough."""
    low_db, high_db = _common_db(test, anchor)
    longer_db = max(float(curve[1, -1] - curve[1, 0]) for curve in (test, anchor))
    needed_db = max(MIN_OVERLAP_DB, MIN_OVERLAP_SHARE * longer_db)
    if high_db - low_db < needed_db:
        shared = f"only {high_db - low_db:.2f} dB" if high_db > low_db else "no quality"
        raise QualityGapError(
            f"the curves share {shared}, and BD-rate needs {needed_db:.2f} dB: "
            f"test {test[1, 0]:.2f} to {test[1, -1]:.2f} dB, "
            f"anchor {anchor[1, 0]:.2f} to {anchor[1, -1]:.2f} dB",
            fix="widen `training.rd_lambdas` in the study file, or train longer",
        )
    return high_db - low_db


def _require_pairs(tests: Sequence[RDCurve], anchors: Sequence[RDCurve]) -> None:
    if len(tests) != len(anchors) or not tests:
        raise KdbenchError(
            f"test has {len(tests)} seeds, anchor {len(anchors)}",
            fix="train both codecs from the same seeds, one at least",
        )
    for curve in (*anchors, *tests):
        _require_same_images(curve, anchors[0])


def _require_same_images(test: RDCurve, anchor: RDCurve) -> None:
    if test.images == anchor.images and test.images:
        return
    odd = sorted(set(test.images) ^ set(anchor.images))
    what = f"{len(odd)} in one only, first {odd[0]}" if odd else "none, or in another order"
    raise KdbenchError(
        f"test has {len(test.images)} images, anchor {len(anchor.images)}: {what}",
        fix="evaluate both codecs on the same images",
    )


# --- images ----------------------------------------------------------------------------------


def psnr_db(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], *, peak: float) -> float:
    """PSNR over all samples of two images [dB]; always finite.

    10 log10(peak^2 / MSE). Identical images have no finite PSNR, and a mean over images (or a JSON
    file) has no use for infinity: they get the PSNR of one sample off by 1, the best that any
    different image could have (108.8 dB at 768x512).

    Raises:
        KdbenchError: The images differ in size, or have no samples.
    """
    if a.shape != b.shape or a.size == 0:
        raise KdbenchError(
            f"PSNR needs two images of one size; these are {a.shape} and {b.shape}",
            fix="compare the reconstruction with the image it was made from, padding removed",
        )
    squared = np.square(a.astype(np.float64) - b.astype(np.float64))
    mse = max(float(squared.mean()), 1 / a.size)
    return 10 * math.log10(peak**2 / mse)
