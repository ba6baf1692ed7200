"""Trains a stored trial again and says whether it came out the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench import __version__, plugins
from kdbench.errors import KdbenchError
from kdbench.rd import bd_rate, outcome
from kdbench.records import BDRate, Bench, Progress, TrialResult, TrialSpec
from kdbench.store import StoredTrial, TrialFolder, keep_result, keep_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A trial and its second run.

    Attributes:
        same: By hash (`weights`, `bitstreams`), whether both runs gave the same.
        changed: What a trial stands on (machine, versions, threads, teacher, crops, anchor) and is
            not as it was: name -> (then, now).
        difference: BD-rate of the second run against the first; None where they are identical or
            cannot be compared (then `why_not` says so).
        steps: Of the first and the second training, where those were not to be the same.
    """

    number: int
    same: Mapping[str, bool]
    changed: Mapping[str, tuple[str | None, str | None]]
    first: TrialResult
    second: TrialResult
    difference: BDRate | None
    why_not: str | None
    steps: tuple[int, int] | None = None

    @property
    def identical(self) -> bool:
        """Weights and bitstreams are the same, bit for bit."""
        return all(self.same.values())

    @property
    def expected(self) -> bool:
        """Whether bit-identity was to be expected: same machine, same versions, same threads."""
        return not self.changed

    @property
    def within_interval(self) -> bool | None:
        """Whether the BD-rate of the second run lies in the 95 % interval of the first.

        None where there is no interval, or other steps were trained.
        """
        first, second = self.first.bd_rate, self.second.bd_rate
        if self.steps is not None or first is None or second is None:
            return None
        if first.low_pct is None or first.high_pct is None:
            return None
        return first.low_pct <= second.pct <= first.high_pct

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.steps is not None:
            return self._longer(*self.steps)
        if self.identical:
            return "reproduced: weights and bitstreams are identical, bit for bit"
        parts = ", ".join(name for name, same in self.same.items() if not same)
        quality = {
            True: "the BD-rate is inside the recorded interval: reproduced in quality",
            False: "the BD-rate is outside the recorded interval: NOT reproduced in quality",
            None: "no interval says whether the quality is the same",
        }[self.within_interval]
        if self.expected:
            why = "on the same machine with the same versions"
            return f"NOT reproduced: other {parts} {why}; {quality}"
        changed = ", ".join(self.changed)
        return f"other {parts}, as must be expected: {changed} changed since; {quality}"

    def _longer(self, then: int, now: int) -> str:
        what = {
            "helped": "fewer bits than recorded",
            "hurt": "more bits than recorded",
            "within noise": "no difference that the photos show",
            "unknown": "whether that helped cannot be told",
        }[outcome(self.difference)]
        return f"trained for {now} steps in the place of {then}: {what}"


def reproduction(
    number: int,
    first: TrialResult,
    second: TrialResult,
    then: Mapping[str, str],
    now: Mapping[str, str],
    *,
    steps: tuple[int, int] | None = None,
) -> Reproduction:
    """How the second run of a trial compares with its first.

    Args:
        number: Of the trial.
        first: What it found.
        second: What it found again.
        then: Hashes of the teacher, crops, code and anchor it stood on.
        now: Those of today.
        steps: Of the first and the second training, where those were not to be the same.
    """
    same = {name: second.hashes.get(name) == value for name, value in first.hashes.items()}
    changed = changes({**first.environment, **then}, {**second.environment, **now})
    difference, why_not = None, None
    if not all(same.values()):
        try:
            difference = bd_rate(second.rd, first.rd)
        except KdbenchError as why:  # too little common quality, other photos
            why_not = why.problem
    return Reproduction(
        number=number,
        same=same,
        changed=changed,
        first=first,
        second=second,
        difference=difference,
        why_not=why_not,
        steps=steps,
    )


def changes(
    then: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """What is not as it was: name -> (then, now)."""
    return {
        name: (then.get(name), now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }


def run_again(
    trial: StoredTrial,
    bench: Bench,
    folder: Path,
    *,
    anchor_sha: str | None = None,
    steps: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Reproduction:
    """The second run of `trial`, kept in `folder`/<number>.

    Args:
        trial: A complete one.
        bench: What its study's trials share, here and now.
        folder: See `Store.new_rerun`.
        anchor_sha: Of the anchor the study began with; None if nobody knows.
        steps: To train in the place of the recorded ones; the schedule is stretched with them.
        on_progress: Told what the trial does.

    Raises:
        KdbenchError: The trial has no result to compare with; or see `run_trial`.
    """
    from kdbench.trial import run_trial

    first = recorded(trial)
    then, now = stood_on(trial.spec, bench, anchor_sha)
    spec, recorded_steps = trial.spec, trial.spec.training.steps
    longer = None if steps is None or steps == recorded_steps else (recorded_steps, steps)
    if longer is not None:
        spec = replace(spec, training=replace(spec.training, steps=longer[1]))
    files = TrialFolder(folder / str(trial.number))
    keep_spec(files, spec)
    again = run_trial(spec, bench, lambda rung: True, files.path, on_progress)
    keep_result(files, again)
    return reproduction(trial.number, first, again, then, now, steps=longer)


def recorded(trial: StoredTrial) -> TrialResult:
    """What `trial` found.

    Raises:
        KdbenchError: Nothing.
    """
    if trial.result is None:
        raise KdbenchError(
            f"trial {trial.number} has no result to compare with: "
            f"{trial.reason or 'it did not end'}",
            fix="choose one that `kdbench show` lists",
        )
    return trial.result


def require_curve(trial: StoredTrial) -> None:
    """Passes a trial whose BD-rate is there to compare others with.

    Raises:
        KdbenchError: It has no result, or its student has a single rate.
    """
    if recorded(trial).bd_rate is None:
        raise KdbenchError(
            f"trial {trial.number} has a single rate and no BD-rate that others can be compared by",
            fix="search with five values or more in `training.rd_lambdas`; or train it again as it "
            "was, without --seeds and --twin",
        )


def stood_on(
    spec: TrialSpec, bench: Bench, anchor_sha: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of teacher, crops, code and anchor as `spec` knew them, and the same of today.

    Args:
        spec: Of a stored trial.
        bench: What its study's trials share, here and now.
        anchor_sha: Of the anchor the study began with; None if nobody knows.
    """
    then, now = dict(spec.stands_on), _stands_on_now(spec, bench)
    if anchor_sha is not None:
        then["anchor"] = anchor_sha
    return then, {name: value for name, value in now.items() if name in then}


def _stands_on_now(spec: TrialSpec, bench: Bench) -> dict[str, str]:
    """Hashes of what `spec` would stand on today."""
    from kdbench.anchor import anchor_sha
    from kdbench.guides import teacher_sha
    from kdbench.lesson import study_crops, study_photos

    data, crop_px = bench.data, spec.training.crop_px
    photos = study_photos(data.train, data.validation, data.evaluation, crop_px)
    found = {
        "code": __version__,
        "crops": study_crops(photos["train"], data.crops, crop_px).hash,
        "anchor": anchor_sha(bench.anchor, cache=Path(bench.cache)),
    }
    if spec.distillation.teacher is not None:
        found["teacher"] = teacher_sha(spec.distillation.teacher)
    if spec.codec is not None:
        found["codec"] = plugins.identity(spec.codec.family, plugins.CODECS)
    return found
