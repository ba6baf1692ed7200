"""One worker in this process: what a trial becomes, and what stops the loop."""

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from kdbench.errors import KdbenchError, QualityGapError, StoreError, TrainingError
from kdbench.records import Bench, Progress, TrialResult, TrialSpec
from kdbench.search.attributes import BY, COSTS, RUNGS
from kdbench.search.dead import enqueue_again
from kdbench.store import TrialFolder
from tests.support import search as stub
from tests.support.search import Gate, Report
from tests.unit.search.lab import Lab, Recorded, names

KEYS = ["overlap", "unfinished"]


def raising(error: BaseException, width: int = 24) -> Recorded:
    """A run that raises for students of one encoder width, and only the first time."""
    raised: list[int] = []

    def first(spec: TrialSpec) -> None:
        if spec.encoder.width == width and not raised:
            raised.append(width)
            raise error

    return Recorded(first)


# --- trials ---------------------------------------------------------------------------------------


def test_a_study_ends_with_exactly_the_trials_that_were_asked_for(lab: Lab) -> None:
    study, run = lab.begin("trials=7"), Recorded()
    assert lab.work(run) == "complete"
    assert len(run.specs) == 7
    assert lab.states() == ["complete"] * 7
    assert names(study.get_trials()) == ["COMPLETE"] * 7


def test_the_folder_of_a_trial_says_what_the_database_says(lab: Lab) -> None:
    study = lab.begin()
    lab.work()
    told = study.get_trials(states=(TrialState.COMPLETE,))
    for trial, stored in zip(told, lab.store.trials("demo"), strict=True):
        assert stored.result is not None
        assert stored.result == stub.result(stored.spec)
        assert trial.values == [stored.result.bd_rate_pct, stored.result.complexity.kmac_per_px]
        assert trial.user_attrs["spec_hash"] == stored.spec.hash
        assert list(trial.constraints) == KEYS


def test_the_spec_lies_in_the_folder_before_the_run(lab: Lab) -> None:
    lab.begin("trials=1")
    seen = []

    def run(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        seen.append(json.loads((folder / "spec.json").read_text())["hash"] == spec.hash)
        return stub.run(spec, bench, gate, folder, on_progress)

    lab.work(run)
    assert seen == [True]


def test_a_second_run_of_a_complete_study_trains_nothing(lab: Lab) -> None:
    lab.begin()
    lab.work()
    run = Recorded()
    lab.begin()
    assert lab.work(run) == "complete"
    assert run.specs == []


def test_students_differ_in_what_was_suggested_and_not_in_their_seed(lab: Lab) -> None:
    lab.begin("seed=5", "trials=6")
    run = Recorded()
    lab.work(run)
    assert {spec.seed for spec in run.specs} == {5}
    assert len({spec.hash for spec in run.specs}) == 6


def test_a_student_stands_on_its_own_teacher_and_no_other(lab: Lab) -> None:
    ground = stub.GROUND
    assert ground.stands_on(None) == {"code": ground.code, "crops": "c0ffee"}
    lab.begin("trials=1")
    run = Recorded()
    lab.work(run)
    assert run.specs[0].stands_on == ground.stands_on(None)


# --- trials without a result ----------------------------------------------------------------------


def test_a_student_over_a_limit_is_infeasible_and_not_trained(lab: Lab) -> None:
    study = lab.begin("constraints.params_max=90000", "trials=3")
    assert lab.work() == "complete"
    trial, stored = study.get_trials()[2], lab.store.load_trial("demo", 2)  # width 32: 96000
    assert trial.state == TrialState.PRUNED
    assert trial.constraints["params"] == pytest.approx(6000 / 90000)
    assert list(trial.constraints) == ["overlap", "params", "unfinished"]
    assert trial.user_attrs[COSTS]["params"] == 96000
    assert stored.state == "infeasible"
    assert stored.reason == "params is 96,000, above the limit of 90,000"
    assert stored.failure is not None
    assert "params_max" in stored.failure.fix
    assert stored.failure.values["params"] == 96000
    assert list(study.get_trials()[0].constraints) == ["overlap", "params", "unfinished"]
    assert 2 not in [best.number for best in study.best_trials]


def test_a_curve_that_does_not_reach_the_anchor_is_infeasible_and_not_nan(lab: Lab) -> None:
    study = lab.begin()
    lab.work(raising(QualityGapError("the curves share no quality", fix="train longer")))
    trial, stored = study.get_trials()[1], lab.store.load_trial("demo", 1)
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    assert trial.constraints == {"overlap": 1.0, "unfinished": 0.0}
    assert (stored.state, stored.reason) == ("infeasible", "the curves share no quality")


def test_a_loss_that_is_no_number_fails_its_trial_and_the_study_goes_on(lab: Lab) -> None:
    study = lab.begin()
    lab.work(raising(TrainingError("the loss is NaN at step 3", fix="lower the learning rate")))
    stored = lab.store.load_trial("demo", 1)
    assert (stored.state, stored.reason) == ("failed", "the loss is NaN at step 3")
    assert stored.failure is not None
    assert stored.failure.fix == "lower the learning rate"
    assert names(study.get_trials()) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


def test_a_fault_of_ours_fails_its_trial_with_the_traceback(lab: Lab) -> None:
    lab.begin()
    lab.work(raising(MemoryError("8 GiB")))
    stored = lab.store.load_trial("demo", 1)
    assert stored.failure is not None
    assert stored.reason == "MemoryError: 8 GiB"
    assert "Traceback (most recent call last)" in stored.failure.fix


def test_a_result_that_is_no_number_is_a_fault_and_not_a_result(lab: Lab) -> None:
    lab.begin("trials=1")

    def run(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        found = stub.result(spec)
        if spec.encoder.width == 16:
            found.losses["train"] = float("nan")  # type: ignore[index]
        return found

    assert lab.work(run) == "complete"
    assert lab.states() == ["failed", "complete"]


def test_an_objective_that_was_not_measured_fails_the_trial(lab: Lab) -> None:
    lab.begin("objectives=[bd_rate_pct,energy_j_per_mpx]", "energy.meter=auto")
    with pytest.raises(KdbenchError, match="3 trials in a row failed: objective energy_j_per_mpx"):
        lab.work()


def test_three_faults_in_a_row_end_the_worker(lab: Lab) -> None:
    lab.begin()

    def first(spec: TrialSpec) -> None:
        raise ZeroDivisionError(f"width {spec.encoder.width}")

    run = Recorded(first)
    with pytest.raises(KdbenchError, match=r"3 trials in a row broke, last ZeroDivisionError"):
        lab.work(run)
    assert len(run.specs) == 3


def test_faults_between_results_do_not_end_the_worker(lab: Lab) -> None:
    lab.begin("trials=5")
    calls = []

    def first(spec: TrialSpec) -> None:
        calls.append(spec)
        if len(calls) % 3:
            raise ZeroDivisionError

    assert lab.work(Recorded(first)) == "complete"
    assert lab.states().count("complete") == 5


def test_a_hopeless_study_ends_after_four_asks_a_trial(lab: Lab) -> None:
    study = lab.begin("constraints.params_max=1", "trials=2")
    assert lab.work() == "asks"
    assert names(study.get_trials()) == ["PRUNED"] * 8


def test_a_full_disk_ends_the_worker_and_queues_its_spec_again(lab: Lab) -> None:
    study = lab.begin()
    with pytest.raises(StoreError, match="disk is full"):
        lab.work(raising(StoreError("x cannot be written: the disk is full", fix="free some")))
    found = study.get_trials()
    assert names(found)[:2] == ["COMPLETE", "FAIL"]
    assert found[-1].state == TrialState.WAITING
    assert (lab.states()[1], lab.store.load_trial("demo", 1).reason) == ("failed", "interrupted")
    assert lab.work() == "complete"


def test_what_an_earlier_attempt_showed_at_its_rungs_belongs_to_the_one_that_ends(
    lab: Lab,
) -> None:
    """A training that was whole when its worker died asks at no rung again."""
    study = lab.begin("trials=5", "ladder={rungs: [0.2, 0.5], stop: false}")
    attempts: list[TrialSpec] = []

    def run(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        attempts.append(spec)
        if attempts.count(spec) > 1:
            return stub.result(spec)
        result = stub.run(spec, bench, gate, folder, on_progress)
        if len(attempts) == 1:
            raise StoreError("x cannot be written: the disk is full", fix="free some")
        return result

    with pytest.raises(StoreError):
        lab.work(run)
    assert lab.work(run) == "complete"
    first, *others = lab.store.trials("demo")
    (second,) = (trial for trial in others if trial.spec == first.spec)
    assert (first.state, second.state) == ("failed", "complete")
    assert [rung.step for rung in second.rungs] == [2, 5]
    assert second.rungs == first.rungs
    assert [*study.get_trials()[second.number].user_attrs[RUNGS]] == ["2", "5"]


def test_a_database_that_goes_away_ends_the_worker_and_loses_no_result(lab: Lab) -> None:
    lab.begin()
    database = lab.store.study_folder("demo") / "optuna.db"

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    def first(spec: TrialSpec) -> None:
        if spec.encoder.width == 24:
            rename("trials", "gone")

    with pytest.raises(StoreError, match=r"optuna.db fails: no such table: trials"):
        lab.work(Recorded(first))
    rename("gone", "trials")
    assert lab.states()[0] == "complete"
    run = Recorded()
    assert lab.work(run) == "complete"
    assert 16 not in [spec.encoder.width for spec in run.specs]


# --- specs that come up twice ---------------------------------------------------------------------

ONE_SPEC = (
    "space.encoder={width: 16, kernel: 5, activation: gdn}",
    "space.decoder.width=[16,24]",
    "space.training.learning_rate=0.001",
    "sampler.enqueue=none",
)


def test_a_spec_that_was_tried_is_told_again_and_not_trained_again(lab: Lab) -> None:
    study, run = lab.begin(*ONE_SPEC, "trials=2"), Recorded()
    assert lab.work(run) == "complete"
    assert len({spec.hash for spec in run.specs}) == len(run.specs) == 2
    found = study.get_trials()
    twins = [trial for trial in found if "duplicate_of" in trial.user_attrs]
    for twin in twins:
        assert twin.values == found[twin.user_attrs["duplicate_of"]].values
    assert len(lab.store.trials("demo")) == 2


def test_a_space_with_fewer_specs_than_trials_ends(lab: Lab) -> None:
    study, run = lab.begin(*ONE_SPEC, "trials=3"), Recorded()
    assert lab.work(run) == "asks"
    assert len(run.specs) == 2
    assert len(study.get_trials()) == 12


def test_an_infeasible_spec_is_not_built_again(lab: Lab) -> None:
    study = lab.begin(*ONE_SPEC, "trials=2", "constraints.params_max=1")
    run = Recorded()
    assert lab.work(run) == "asks"
    assert len(run.specs) == 2
    assert {tuple(trial.constraints) for trial in study.get_trials()} == {
        ("overlap", "params", "unfinished")
    }


def test_a_result_that_was_kept_and_never_told_is_told(lab: Lab) -> None:
    """The process died between the file and the database: the file counts."""
    study = lab.begin("trials=5")
    with pytest.raises(KeyboardInterrupt):
        lab.work(raising(KeyboardInterrupt()))
    kept = lab.store.load_trial("demo", 1)
    kept.folder.failure.unlink()
    lab.store.save_result("demo", 1, stub.result(kept.spec))
    run = Recorded()
    assert lab.work(run) == "complete"
    assert [spec.encoder.width for spec in run.specs] == [32, 48, 64]
    told = study.get_trials()[-1]
    assert told.values == [stub.result(kept.spec).bd_rate_pct, 72.0]
    assert told.user_attrs["duplicate_of"] == 1
    assert lab.states() == ["complete"] * 5


# --- interrupts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_is_marked_and_its_spec_is_tried_again(
    lab: Lab, number: signal.Signals
) -> None:
    study = lab.begin()

    def first(spec: TrialSpec) -> None:
        if spec.encoder.width == 24:
            os.kill(os.getpid(), number)
            time.sleep(5)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        lab.work(Recorded(first))
    assert signal.getsignal(number) == before
    assert lab.states() == ["complete", "failed"]
    assert lab.store.load_trial("demo", 1).reason == "interrupted"
    queued = study.get_trials(states=(TrialState.WAITING,))[-1]
    assert queued.system_attrs["fixed_params"]["encoder.width"] == 24

    run = Recorded()
    lab.begin()
    assert lab.work(run) == "complete"
    assert [spec.encoder.width for spec in run.specs] == [32, 48, 64]
    assert lab.states().count("complete") == 4


def test_a_second_attempt_goes_on_from_the_checkpoints_of_the_first(lab: Lab) -> None:
    """Of every model of it, finished or not."""
    lab.begin("trials=1")

    def dies(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        (folder / "training-0.checkpoint").write_text("finished")
        (folder / "training-1.checkpoint").write_text("step 7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.work(dies)
    seen = {}

    def run(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        for path in TrialFolder(folder).checkpoints:
            seen[spec.encoder.width, path.name] = path.read_text()
        return stub.run(spec, bench, gate, folder, on_progress)

    lab.begin("trials=5")
    lab.work(run)
    assert seen == {
        (16, "training-0.checkpoint"): "finished",
        (16, "training-1.checkpoint"): "step 7",
    }


def test_a_trial_declared_dead_while_its_worker_was_paused_does_not_end_the_worker(
    lab: Lab,
) -> None:
    study = lab.begin()

    def first(spec: TrialSpec) -> None:
        if len(study.get_trials(states=(TrialState.FAIL,))) == 0:
            (trial,) = study.get_trials(states=(TrialState.RUNNING,))
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            enqueue_again(study, trial)

    assert lab.work(Recorded(first)) == "complete"
    assert names(study.get_trials()).count("COMPLETE") == 4


# --- the loop -------------------------------------------------------------------------------------


def test_a_worker_needs_a_study_that_has_begun(lab: Lab) -> None:
    with pytest.raises(StoreError, match=r"no study 'demo' has begun"):
        lab.work()


def test_no_trial_begins_after_the_time_is_over(lab: Lab) -> None:
    lab.begin(until_s=time.time() - 1)
    assert lab.work() == "timeout"
    assert lab.states() == []


def test_a_worker_says_what_it_does_at_most_four_times_a_second(lab: Lab) -> None:
    lab.begin("trials=1")
    said = []

    def run(
        spec: TrialSpec, bench: Bench, gate: Gate, folder: Path, on_progress: Report
    ) -> TrialResult:
        for step in range(200):
            on_progress(Progress(stage="training", step=step, n_steps=200, loss=float("nan")))
            said.append(lab.store.workers("demo")[0])
        return stub.run(spec, bench, gate, folder, on_progress)

    began = time.monotonic()
    lab.work(run)
    seconds = time.monotonic() - began
    steps = {state.progress.step for state in said}
    assert len(steps) <= 2 + 4 * seconds
    assert said[0].trial == 0
    assert said[0].progress.loss is None
    assert said[0].pid == os.getpid()
    assert lab.store.workers("demo")[0].progress.stage == "done"


def test_a_worker_whose_index_is_taken_is_the_lowest_that_is_free(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    study = lab.begin("trials=2")
    second = raising(KeyboardInterrupt())

    def first(_: TrialSpec) -> None:
        if not second.specs:
            with pytest.raises(KeyboardInterrupt):
                lab.work(second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.search.worker.PATIENCE_S", 0.1)
        lab.work(Recorded(first))
    assert [trial.user_attrs[BY]["worker"] for trial in study.get_trials()[:2]] == [0, 1]
    assert capsys.readouterr().err == "another process is worker 0; this one is worker 1\n"


def test_a_life_after_the_first_draws_other_specs(lab: Lab) -> None:
    lab.begin("trials=2", "sampler={name: random, enqueue: none}")
    first, second = Recorded(), Recorded()
    lab.work(first)
    lab.begin("trials=4", "sampler={name: random, enqueue: none}")
    lab.work(second)
    hashes = {spec.hash for spec in first.specs + second.specs}
    assert len(hashes) == 4


def test_optuna_says_nothing(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.begin()
    lab.work(raising(TrainingError("NaN", fix="lower it")))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_feasible_trials_make_the_front_of_the_database(lab: Lab) -> None:
    study = lab.begin("constraints.params_max=90000", "trials=3")
    lab.work()
    assert isinstance(study, optuna.Study)
    assert all(max(best.constraints.values()) <= 0 for best in study.best_trials)
