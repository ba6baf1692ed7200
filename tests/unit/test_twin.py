"""A distilled student and its twin: what each is told, and what follows from what they find."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench import rd
from kdbench.cli import main
from kdbench.config import bench, load_study, settings
from kdbench.errors import KdbenchError, StoreError, TrainingError
from kdbench.lesson import Lesson
from kdbench.records import Bench, Distillation, Progress, RDCurve, TrialResult, TrialSpec
from kdbench.seeds import FreshSeeds, fresh_seeds
from kdbench.store import Store, StoredTrial
from kdbench.twin import RATE_FACTORS, Control, against_twin, steps_of_equal_seconds, twin_of
from tests.support.results import OBJECTIVES, SPEC, STUDY, curve, make_study, result

Capture = pytest.CaptureFixture[str]
PHOTOS = 6
OWN_RATE = 1e-3


@dataclass
class Lab:
    """A stub in place of `run_trial`: what a student finds is a function of its spec.

    Attributes:
        gain_pct: What distillation saves of the bits.
        noise_pct: How much a seed moves that gain.
        luck_pct: How much a seed moves student and twin alike.
        best_rate: Where the validation loss of a twin is least.
        distilled_s_per_step: Of a distilled training; one without takes 0.05.
        broken: Whether the training of this spec diverges.
    """

    trial: StoredTrial  # of seed 0, distilled at `OWN_RATE` for 800 steps
    bench: Bench
    folder: Path
    gain_pct: float = 10.0
    noise_pct: float = 0.0
    luck_pct: float = 0.0
    best_rate: float = 2e-3
    distilled_s_per_step: float = 0.05
    cache_s: float = 0.0
    broken: Callable[[TrialSpec], bool] = lambda spec: False
    study: list[StoredTrial] = field(default_factory=list)
    specs: list[TrialSpec] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def run_trial(self, spec: TrialSpec, _: Any, gate: Any, folder: Path, follow: Any) -> Any:
        self.specs.append(spec)
        self.folders.append("/".join(folder.parts[-3:]))
        follow(Progress(stage="training", step=1, n_steps=2))
        if self.broken(spec):
            raise TrainingError("the loss became nan at step 3 of 800", fix="lower the rate")
        distilled = not spec.distillation.is_off
        own = (spec.seed % 3 - 1) * self.noise_pct
        pct = (spec.seed % 3 - 1) * self.luck_pct + 30.0 - 0.002 * (spec.training.steps - 800)
        if distilled:
            pct += own - self.gain_pct
        per_step = self.distilled_s_per_step if distilled else 0.05
        return replace(
            result(pct, 16, None, seconds=per_step * spec.training.steps),
            rd=photos(1 + pct / 100),
            losses={"train": 1.0, "validation": self._loss(spec)},
            seconds={
                "cache": self.cache_s if len(self.specs) == 1 else 0.01,
                "training": per_step * spec.training.steps,
            },
        )

    def _loss(self, spec: TrialSpec) -> float:
        return 1.0 + abs(spec.training.learning_rate - self.best_rate)

    def compare(self, n_seeds: int = 1) -> Control:
        return against_twin(
            self.trial, self.bench, self.folder, n_seeds, study=self.study, watch=unwatched
        )

    def fresh(self, n: int, anchor_sha: str = "ab12") -> FreshSeeds:
        return fresh_seeds(
            self.trial, self.bench, self.folder, n, anchor_sha=anchor_sha, watch=unwatched
        )

    def kept(self, name: str) -> list[str]:
        """Folders of the trainings that have a file of this name."""
        return sorted(str(p.parent.relative_to(self.folder)) for p in self.folder.rglob(name))

    def trained(self, *, distilled: bool) -> list[TrialSpec]:
        return [spec for spec in self.specs if spec.distillation.is_off is not distilled]


def photos(scale: float) -> RDCurve:
    """`curve`, on more photos."""
    few = curve(scale)
    n = PHOTOS // 2
    return replace(
        few,
        images=tuple(f"{i}.png" for i in range(PHOTOS)),
        image_bpp=tuple(values * n for values in few.image_bpp),
        image_psnr_db=tuple(values * n for values in few.image_psnr_db),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    config = load_study("smoke", ["name=tiny", "anchor=teacher:default"])
    return make_study(tmp_path, settings={**settings(config), "objectives": OBJECTIVES})


@pytest.fixture
def lab(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    setting = bench(load_study("smoke"), cache=store.cache, device="cpu")
    lab = Lab(store.load_trial(STUDY, 0), setting, tmp_path / "here")
    monkeypatch.setattr("kdbench.trial.run_trial", lab.run_trial)
    for bootstrap in (rd.bd_rate, rd.bd_rate_over_seeds):  # tests of its laws are elsewhere
        few = partial(bootstrap, n_resamples=50)
        monkeypatch.setattr(f"kdbench.twin.{bootstrap.__name__}", few)
    now = {"teacher": "ab12", "crops": "cd34", "code": "0.1.0", "anchor": "ab12"}
    monkeypatch.setattr("kdbench.rerun._stands_on_now", lambda spec, bench: now)
    return lab


@contextmanager
def unwatched(name: str) -> Iterator[Callable[[Progress], None]]:
    yield lambda _: None


def with_plan(trial: StoredTrial, plan: Distillation) -> StoredTrial:
    return replace(trial, spec=replace(trial.spec, distillation=plan))


# --- what a twin is told ---------------------------------------------------------------------


def test_a_twin_differs_in_its_distillation_weights_alone(lab: Lab) -> None:
    plan = Distillation(
        teacher="teacher:default", latent=1, hyper_latent=2, output=3, entropy=4, temperature=2
    )
    spec = with_plan(lab.trial, plan).spec
    twin = twin_of(spec)
    assert twin.distillation == Distillation(teacher="teacher:default")
    assert replace(twin, distillation=plan) == spec


def test_its_teacher_stays_since_the_start_is_not_distillation(lab: Lab) -> None:
    assert twin_of(lab.trial.spec).distillation.teacher == lab.trial.spec.distillation.teacher


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (Distillation(), "trial 0 has no teacher: it is its own twin"),
        (Distillation(teacher="teacher:default"), "trial 0 has every distillation weight 0"),
    ],
)
def test_a_trial_that_is_not_distilled_has_no_twin(
    plan: Distillation, problem: str, lab: Lab
) -> None:
    lab.trial = with_plan(lab.trial, plan)
    with pytest.raises(KdbenchError, match=problem):
        lab.compare()
    assert lab.specs == []


def test_a_twin_reads_no_targets_while_it_trains() -> None:
    """Its seconds would be its student's, and equal seconds too few."""
    pixels = np.zeros((8, 3, 64, 64), np.uint8)
    share: Any = object()  # whoever asks it for anything finds nothing
    assert Lesson(twin_of(SPEC), "cpu", pixels, [share], [share]).batch(0).targets is None
    with pytest.raises(AttributeError, match="teacher"):
        Lesson(SPEC, "cpu", pixels, [share], [share]).batch(0)


# --- its learning rate -----------------------------------------------------------------------


@pytest.mark.parametrize("factor", RATE_FACTORS)
def test_the_rate_with_the_least_validation_loss_is_the_twin_s(factor: float, lab: Lab) -> None:
    lab.best_rate = factor * OWN_RATE
    found = lab.compare(3)
    assert found.learning_rate == pytest.approx(lab.best_rate)
    assert found.kept_an_end == (factor != 1.0)
    twins = lab.trained(distilled=False)
    rates = [OWN_RATE * f for f in (*RATE_FACTORS, factor, factor)]
    assert [spec.training.learning_rate for spec in twins] == pytest.approx(rates)
    assert [spec.seed for spec in twins] == [0, 0, 0, 1, 2]
    assert {spec.training.learning_rate for spec in lab.trained(distilled=True)} == {OWN_RATE}


def test_a_rate_that_breaks_is_not_the_best(lab: Lab) -> None:
    lab.broken = lambda spec: spec.training.learning_rate > 1.5 * OWN_RATE
    found = lab.compare()
    assert found.learning_rate == OWN_RATE
    assert found.tried[2].why_not == "the loss became nan at step 3 of 800"
    assert lab.kept("failure.json") == ["0/twin/rate-x2/seed-0"]


def test_a_twin_that_trains_at_no_rate_is_a_problem_with_every_reason(lab: Lab) -> None:
    lab.broken = lambda spec: spec.distillation.is_off
    with pytest.raises(KdbenchError, match=r"at 0\.0005 the loss .*; at 0\.001 .*; at 0\.002 "):
        lab.compare()


def test_tuning_counts_in_the_report_but_not_as_the_twin_s(lab: Lab) -> None:
    found = lab.compare(2)
    assert found.equal_steps.twin.training_s == pytest.approx(40.0)
    assert found.tuning_s == pytest.approx(80.0)


# --- seeds and folders -----------------------------------------------------------------------


def test_student_and_twin_are_trained_from_the_same_seeds(lab: Lab) -> None:
    found = lab.compare(3).equal_steps
    for side in (found.student, found.twin):
        assert [run.spec.seed for run in side.runs] == [0, 1, 2]
    assert [run.spec for run in found.student.runs] == lab.trained(distilled=True)


def test_every_training_has_a_folder_of_its_own_with_spec_and_result(lab: Lab) -> None:
    lab.distilled_s_per_step = 0.1
    lab.compare(2)
    assert lab.kept("spec.json") == lab.kept("result.json")
    assert lab.kept("spec.json") == [
        "0/longer/seed-0",
        "0/longer/seed-1",
        "0/student/seed-0",
        "0/student/seed-1",
        "0/twin/rate-x0.5/seed-0",
        "0/twin/rate-x1/seed-0",
        "0/twin/rate-x2/seed-0",
        "0/twin/rate-x2/seed-1",
    ]


def test_what_is_finished_when_somebody_interrupts_is_kept(lab: Lab) -> None:
    def interrupt(spec: TrialSpec) -> bool:
        if len(lab.specs) == 3:
            raise KeyboardInterrupt
        return False

    lab.broken = interrupt
    with pytest.raises(KeyboardInterrupt):
        lab.compare()
    assert lab.kept("result.json") == ["0/student/seed-0", "0/twin/rate-x0.5/seed-0"]


def test_a_disk_that_is_full_ends_it_and_no_training_is_blamed(lab: Lab) -> None:
    def full(spec: TrialSpec) -> bool:
        raise StoreError("the disk is full", fix="free some space")

    lab.broken = full
    with pytest.raises(StoreError):
        lab.compare()
    assert lab.kept("failure.json") == []


# --- what comes of it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain_pct", "noise_pct", "outcome"),
    [
        (10.0, 0.5, "helped"),
        (-10.0, 0.5, "hurt"),
        (0.5, 8.0, "within noise"),
        (0, 0, "within noise"),
    ],
)
def test_the_outcome_is_where_the_interval_lies(
    gain_pct: float,
    noise_pct: float,
    outcome: str,
    lab: Lab,
) -> None:
    lab.gain_pct, lab.noise_pct = gain_pct, noise_pct
    assert lab.compare(3).equal_steps.outcome == outcome


def test_figures_over_the_seeds(lab: Lab) -> None:
    lab.luck_pct = 2.0
    found = lab.compare(3).equal_steps
    assert found.student.mean_pct == pytest.approx(20.0)
    assert found.twin.mean_pct == pytest.approx(30.0)
    assert found.student.spread_pct == found.twin.spread_pct == pytest.approx(2.0)
    alone = [rate.pct for rate in found.by_seed if rate is not None]
    assert alone == pytest.approx([100 * (own / (own + 10) - 1) for own in (118, 120, 122)])
    assert found.bd_rate is not None
    assert found.bd_rate.pct == pytest.approx(100 * (120 / 130 - 1), abs=0.01)


def test_one_seed_has_no_spread(lab: Lab) -> None:
    found = lab.compare().equal_steps
    assert (found.student.spread_pct, found.twin.spread_pct) == (None, None)
    assert found.by_seed == (found.bd_rate,)


def test_a_seed_that_broke_leaves_its_pair_out(lab: Lab) -> None:
    lab.broken = lambda spec: spec.seed == 1 and not spec.distillation.is_off
    found = lab.compare(3).equal_steps
    assert found.n_seeds == 2
    assert [rate is None for rate in found.by_seed] == [False, True, False]
    assert found.outcome == "helped"


def test_a_student_that_breaks_from_every_seed_is_told_and_not_compared(lab: Lab) -> None:
    lab.broken = lambda spec: not spec.distillation.is_off
    found = lab.compare(2)
    assert found.equal_steps.bd_rate is None
    assert found.equal_steps.why_not == "no seed has both: the loss became nan at step 3 of 800"
    assert (found.equal_steps.outcome, found.equal_seconds) == ("unknown", None)


# --- equal seconds ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student_s", "twin_s", "steps"),
    [
        (40.0, 40.0, None),
        (40.8, 40.0, None),
        (41.2, 40.0, 824),
        (80.0, 40.0, 1600),
        (30.0, 40.0, None),
        (None, 40.0, None),
        (40.0, None, None),
    ],
)
def test_a_twin_gets_the_steps_that_its_student_s_seconds_pay_for(
    student_s: float | None, twin_s: float | None, steps: int | None
) -> None:
    assert steps_of_equal_seconds(800, student_s, twin_s) == steps


def test_steps_that_do_not_fit_once_more_are_none() -> None:
    assert steps_of_equal_seconds(10, 1.05, 1.0) is None


def test_equal_seconds_train_the_twin_for_longer_from_every_seed(lab: Lab) -> None:
    lab.distilled_s_per_step = 0.1
    found = lab.compare(2)
    assert found.equal_seconds is not None
    assert found.equal_seconds.student == found.equal_steps.student
    longer = [run.spec for run in found.equal_seconds.twin.runs]
    assert longer == lab.specs[-2:]
    expected = replace(twin_of(lab.trial.spec, 2.0).training, steps=1600)
    assert [(spec.seed, spec.training) for spec in longer] == [(0, expected), (1, expected)]
    assert found.equal_seconds.twin.mean_pct == pytest.approx(28.4)


def test_the_cache_is_paid_once_by_the_student(lab: Lab) -> None:
    lab.cache_s = 10.0
    found = lab.compare(2)
    assert found.cache_s == 10.0
    assert found.student_s == pytest.approx(50.0)
    assert found.equal_seconds is not None
    assert found.equal_seconds.twin.steps == 1000


def test_a_cache_that_the_study_computed_costs_what_it_cost_then(lab: Lab) -> None:
    result_then = lab.trial.result
    assert result_then is not None
    first = replace(lab.trial, result=replace(result_then, seconds={"cache": 40.0}))
    stranger = with_plan(
        replace(first, result=replace(result_then, seconds={"cache": 99.0})),
        Distillation(teacher="teacher:other", latent=0.1),
    )
    lab.study = [lab.trial, first, stranger]
    found = lab.compare()
    assert found.cache_s == 40.0


# --- fresh seeds -----------------------------------------------------------------------------


def test_fresh_seeds_leave_out_the_one_that_was_recorded(lab: Lab) -> None:
    lab.fresh(3)
    assert lab.specs == [replace(lab.trial.spec, seed=seed) for seed in (1, 2, 3)]
    assert lab.folders == ["here/0/seed-1", "here/0/seed-2", "here/0/seed-3"]


def test_the_winner_s_curse_is_recorded_less_the_mean_of_fresh_seeds(lab: Lab) -> None:
    lab.luck_pct = 2.0
    found = lab.fresh(3)
    assert found.mean_pct == pytest.approx(20.0)
    assert found.spread_pct == pytest.approx(2.0)
    assert found.winners_curse_pct == pytest.approx(77.1 - 20.0)
    assert found.changed == {}


def test_one_fresh_seed_has_no_spread_and_none_that_finished_no_mean(lab: Lab) -> None:
    assert lab.fresh(1).spread_pct is None
    lab.broken = lambda spec: True
    found = lab.fresh(1)
    assert (found.mean_pct, found.winners_curse_pct) == (None, None)
    assert found.runs[0].why_not == "the loss became nan at step 3 of 800"


def test_a_change_since_the_trial_was_recorded_is_told(lab: Lab) -> None:
    found = lab.fresh(1, anchor_sha="other")
    assert found.changed == {"anchor": ("other", "ab12")}


# --- the command -----------------------------------------------------------------------------


def rerun(store: Store, *more: str) -> int:
    return main(["rerun", "--study", STUDY, "--root", str(store.root), "--device", "cpu", *more])


def test_rerun_twin_says_what_distillation_did(store: Store, lab: Lab, capsys: Capture) -> None:
    lab.distilled_s_per_step = 0.1
    assert rerun(store, "--trial", "0", "--twin", "--seeds", "2") == 0
    told = capsys.readouterr()
    assert "equal steps       distillation helped by 7.7 % [7." in told.out
    assert "equal seconds     distillation helped by 6.5 % [6." in told.out
    assert told.err == ""
    assert len(lab.specs) == 2 + 3 + 1 + 2


def test_a_twin_needs_no_more_than_one_seed(store: Store, lab: Lab, capsys: Capture) -> None:
    assert rerun(store, "--trial", "0", "--twin", "--json") == 0
    (twin,) = json.loads(capsys.readouterr().out)["twins"]
    assert twin["equal_steps"]["outcome"] == "helped"
    assert "one seed" in twin["verdict"]["equal_steps"]
    assert twin["equal_seconds"] is None
    assert twin["verdict"]["equal_seconds"].startswith("equal steps are equal seconds")


def test_rerun_seeds_says_how_lucky_the_trial_was(store: Store, lab: Lab, capsys: Capture) -> None:
    assert rerun(store, "--trial", "0", "--seeds", "2") == 0
    assert "winner's curse    +57.1 points" in capsys.readouterr().out
    assert rerun(store, "--trial", "0", "--seeds", "2", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["seeds"]
    assert [run["seed"] for run in found["runs"]] == [1, 2]
    assert found["winners_curse_pct"] == pytest.approx(57.1)


def test_the_whole_front_is_checked_before_anything_is_trained(
    store: Store, lab: Lab, capsys: Capture
) -> None:
    number = len(store.trials(STUDY))
    alone = replace(store.load_trial(STUDY, 0).spec, distillation=Distillation(), seed=9)
    store.begin_trial(STUDY, number, alone)
    store.save_result(STUDY, number, result(1.0, 8, 1.0))
    assert rerun(store, "--twin") == 1
    assert f"trial {number} has no teacher" in capsys.readouterr().err
    assert lab.specs == []


@pytest.mark.parametrize("more", [["--twin"], ["--seeds", "2"], []])
def test_who_interrupts_is_told_where_the_finished_ones_are(
    more: list[str], store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*_: Any) -> TrialResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.trial.run_trial", interrupted)
    monkeypatch.setattr("kdbench.rerun._stands_on_now", lambda spec, bench: {})
    assert rerun(store, "--trial", "0", *more) == 130
    folder = store.study_folder(STUDY) / "reruns" / "0"
    assert capsys.readouterr().err == f"interrupted; what is finished is kept in {folder}\n"


def test_a_twin_keeps_who_guides_which_level() -> None:
    plan = Distillation(teacher="zoo:mbt2018-mean/3", latent=0.2, guides="every")
    assert twin_of(replace(SPEC, distillation=plan)).distillation == Distillation(
        teacher="zoo:mbt2018-mean/3", guides="every"
    )
