"""How sure a mean of few values is."""

from math import dist, sqrt
from statistics import fmean


def relative_interval(values: tuple[float, ...]) -> float | None:
    """Half width of Student's 95 % interval of the mean, over the mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    mean = fmean(values)
    spread = dist(values, [mean] * n) / sqrt(n - 1)
    return student_quantile(n - 1) * spread / sqrt(n) / mean


# of 1 to 15 degrees of freedom: loading SciPy takes as long as half a report
_STUDENT = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450,
)  # fmt: skip


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, 1e-6 near."""
    if 1 <= freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
