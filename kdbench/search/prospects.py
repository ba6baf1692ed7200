"""Whether a candidate could still reach the front, told by its costs before a step is spent on it.

What a student will cost is known before it is trained; how good it will be is guessed from the
finished trials by a Gaussian process over the logarithms of their costs. Costs, since every codec
family has them and quality follows them smoothly; what else decides (learning rate, distillation)
is noise to the process, which its optimistic bound, mean less two deviations, includes. A candidate
is hopeless if some finished trial costs no more in anything and is better than that bound: no
plausible quality would bring it to the front.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdbench.objectives import QUALITIES
from kdbench.tabular import KNOWN_LAST

MIN_FINISHED = 8  # fewer do not tell noise from trend
DEVIATIONS = 2.0
LENGTHS = (2.0, 4.0, 8.0)  # of the kernel, in deviations of a feature: no room for wiggles
NOISES = (0.001, 0.01, 0.1, 1.0, 10.0)  # variance of the noise, in that of the process

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopeless:
    """Why a candidate cannot reach the front.

    Attributes:
        beaten_by: Place among the finished trials of the one that beats it most clearly.
        bounds: The best that it could plausibly find, by the name of the objective.
        share: By how much the bound misses that trial, in the range of all finished ones; above 0.
    """

    beaten_by: int
    bounds: Mapping[str, float]
    share: float


def hopeless(
    objectives: Sequence[str],
    finished: Sequence[Mapping[str, float]],
    costs: Mapping[str, float],
) -> Hopeless | None:
    """Why a candidate of these costs is not worth its training; None if it may be.

    Args:
        objectives: Of the study.
        finished: Objectives and costs of each finished trial, by name.
        costs: Of the candidate, as far as they are known; where one that is an objective is not,
            nobody can tell yet.
    """
    compared = [name for name in objectives if name not in KNOWN_LAST]
    qualities = [name for name in objectives if name in QUALITIES]
    if len(finished) < MIN_FINISHED or not all(name in costs for name in compared):
        return None
    features = [
        name
        for name in sorted(costs)
        if all(each.get(name, 0.0) > 0 for each in (costs, *finished))
    ]
    known = np.log([[each[name] for name in features] for each in finished])
    own = np.log([costs[name] for name in features])
    found = {name: np.array([each[name] for each in finished]) for name in qualities}
    bounds = {name: optimistic(known, values, own) for name, values in found.items()}
    cheaper = np.array(
        [all(each[name] <= costs[name] for name in compared) for each in finished], dtype=bool
    )
    misses = np.min([(bounds[n] - v) / (float(np.ptp(v)) or 1.0) for n, v in found.items()], axis=0)
    misses = np.where(cheaper, misses, -np.inf)
    place = int(np.argmax(misses))
    if not misses[place] > 0:
        return None
    return Hopeless(beaten_by=place, bounds=bounds, share=float(misses[place]))


def optimistic(known: Floats, values: Floats, own: Floats) -> float:
    """The least value that is plausible at `own`: mean less two deviations, noise included.

    A Gaussian process with a squared exponential kernel, of whose lengths and noises the most
    likely pair is taken (marginal likelihood, the variance profiled out): one eigendecomposition a
    length, and nothing that can fail to converge.

    Args:
        known: Features of finished trials (n, d).
        values: What each found (n).
        own: Features of the candidate (d).
    """
    scale = known.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    middle = values.mean()
    best = (np.inf, 0.0, 0.0)
    for length in LENGTHS:
        among = _kernel(known, known, length * scale)
        eigen, vectors = np.linalg.eigh(among)
        eigen = np.maximum(eigen, 0.0)
        weights = vectors.T @ (values - middle)
        to_own = vectors.T @ _kernel(known, own[None], length * scale)[:, 0]
        for noise in NOISES:
            spread = eigen + noise
            variance = float((weights**2 / spread).sum() / (len(values) - 1))
            if variance == 0:  # all found the same
                return float(middle)
            unlikely = len(values) * np.log(variance) + np.log(spread).sum()
            if unlikely < best[0]:
                mean = middle + float((to_own * weights / spread).sum())
                left = max(0.0, 1 + noise - float((to_own**2 / spread).sum()))
                best = (unlikely, mean, float(np.sqrt(variance * left)))
    _, mean, deviation = best
    return float(mean - DEVIATIONS * deviation)


def _kernel(a: Floats, b: Floats, scale: Floats) -> Floats:
    """exp(-r^2 / 2) of every pair (n, m), r their distance in units of `scale`."""
    apart = (a[:, None] - b[None]) / scale
    found: Floats = np.exp(-0.5 * (apart**2).sum(axis=2))
    return found
