"""Twins and fresh seeds made by hand: round figures, so that a test can know the answers."""

from collections.abc import Sequence
from dataclasses import replace

from kdbench.records import TrialSpec
from kdbench.seeds import FreshSeeds, Run, SeedRuns
from kdbench.twin import Control, match, twin_of
from tests.support.results import SPEC, result

BROKEN = "the loss became nan at step 312 of 800"


def run(spec: TrialSpec, pct: float, *, loss: float = 1.4, seconds: float = 31.0) -> Run:
    """One that finished."""
    found = result(pct, 16, None, seconds=seconds)
    return Run(spec=spec, result=replace(found, losses={"train": 1.25, "validation": loss}))


def broken(spec: TrialSpec) -> Run:
    """One that did not."""
    return Run(spec=spec, result=None, why_not=BROKEN)


def side(spec: TrialSpec, pcts: Sequence[float | None], seconds: float) -> SeedRuns:
    """One run a BD-rate, from seed 0 on; None broke."""
    seeds = [replace(spec, seed=seed) for seed in range(len(pcts))]
    found = [
        broken(at) if pct is None else run(at, pct, seconds=seconds)
        for at, pct in zip(seeds, pcts, strict=True)
    ]
    return SeedRuns(runs=tuple(found))


def helped() -> Control:
    """At equal steps, but not at equal seconds; the best rate is the last."""
    spec = twin_of(SPEC, 2.0)
    student, twin = side(SPEC, (12.3, 14.0, 11.8), 40.2), side(spec, (15.3, 16.0, 13.0), 31.0)
    longer = replace(spec, training=replace(spec.training, steps=1346))
    tried = (
        run(twin_of(SPEC, 0.5), 17.0, loss=1.52),
        run(twin_of(SPEC), 16.0, loss=1.41),
        twin.runs[0],
    )
    return Control(
        number=3,
        tried=tried,
        kept=2,
        equal_steps=match(student, twin),
        equal_seconds=match(student, side(longer, (12.6, 13.0, 12.0), 52.0)),
        cache_s=12.0,
        wall_s=700.0,
    )


def hurt() -> Control:
    """With one seed, and no more seconds than the twin."""
    student, twin = side(SPEC, (12.3,), 31.0), side(twin_of(SPEC), (10.0,), 31.0)
    tried = (run(twin_of(SPEC, 0.5), 17.0, loss=1.5), twin.runs[0], broken(twin_of(SPEC, 2.0)))
    return Control(
        number=4,
        tried=tried,
        kept=1,
        equal_steps=match(student, twin),
        equal_seconds=None,
        cache_s=0.5,
        wall_s=200.0,
    )


def untold() -> Control:
    """No seed of the student finished."""
    student, twin = side(SPEC, (None, None), 0.0), side(twin_of(SPEC), (15.3, 16.0), 31.0)
    return replace(
        hurt(), number=5, equal_steps=match(student, twin), cache_s=None, tried=twin.runs[:1] * 3
    )


def fresh() -> FreshSeeds:
    """The recorded one was lucky; one of three seeds broke."""
    found = side(SPEC, (0.0, 14.0, 11.8, None), 40.2)
    return FreshSeeds(
        number=3, recorded=result(9.0, 16, None), runs=found.runs[1:], changed={}, wall_s=100.0
    )


def elsewhere() -> FreshSeeds:
    """One fresh seed, on another machine."""
    found = replace(fresh(), runs=fresh().runs[:1])
    return replace(
        found, number=4, changed={"cpu": ("AMD EPYC", "Intel Xeon"), "meter": ("a", None)}
    )
