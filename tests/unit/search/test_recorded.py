"""A study's folders as a table: what a sampler suggested, what each trial showed and cost."""

import json
import re
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdbench.cli import main
from kdbench.errors import KdbenchError, QualityGapError
from kdbench.records import Coordinates, Rung, TrialSpec
from kdbench.search.recorded import recorded, suggested
from kdbench.search.replay import policies, replay
from kdbench.store import StoredStudy, load_rungs
from tests.unit.search.lab import Lab, Recorded

LOOKING = ("ladder={rungs: [0.2, 0.5], stop: false}", "trials=8")
DISTILLING = (
    "space.latent.channels=[64, 128]",
    "space.distillation={teacher: [none, teacher:a, teacher:b], latent: [0.0, 0.5], "
    "hyper_latent: {low: 0.1, high: 1.0}, entropy: {low: 0.01, high: 1.0, log: true}, "
    "output: {low: 0.0, high: 1.0}, temperature: {low: 0.5, high: 4.0}, "
    "schedule: [constant, decaying]}",
)
TEACHERS = {
    "teacher:a": Coordinates(64, "scale"),
    "teacher:b": Coordinates(64, None, has_hyper=False),
}


def test_every_finished_trial_is_a_row_with_its_own_figures(lab: Lab) -> None:
    study = lab.begin(*LOOKING)
    lab.work()
    table = recorded(lab.store, "demo").table
    told = study.get_trials(states=(TrialState.COMPLETE,))
    assert [row.number for row in table.rows] == [trial.number for trial in told]
    assert [row.params for row in table.rows] == [trial.params for trial in told]
    assert [list(row.objectives) for row in table.rows] == [trial.values for trial in told]
    assert table.objectives == ("bd_rate_pct", "kmac_per_px")
    assert table.shares == (0.2, 0.5)
    for row, stored in zip(table.rows, lab.store.trials("demo"), strict=True):
        shown = load_rungs(stored.folder)
        assert [rung.values for rung in row.rungs] == [
            (each.values["validation_loss"], each.values["kmac_per_px"]) for each in shown
        ]


def test_the_folders_alone_are_read(lab: Lab) -> None:
    lab.begin(*LOOKING)
    lab.work()
    before = recorded(lab.store, "demo")
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    assert recorded(lab.store, "demo") == before


def test_a_table_of_a_study_can_be_searched(lab: Lab) -> None:
    lab.begin(*LOOKING)
    lab.work()
    found = recorded(lab.store, "demo")
    outcomes = replay(found.table, policies(found, ["tpe", "nsga3"], [None]), seeds=2)
    assert [outcome.front_found.value for outcome in outcomes] == [1.0] * 3


def test_the_command_prints_every_policy_and_sends_them(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.begin(*LOOKING)
    lab.work()
    command = ["replay", "--study", "demo", "--root", str(lab.store.root), "--seeds", "2"]
    assert main([*command, "--samplers", "nsga2"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for name in ("random", "nsga2", "nsga2, eta 2", "nsga2, eta 3"):
        assert len(re.findall(rf"^{name}  ", said.out, re.MULTILINE)) == 2
    assert main([*command, "--etas", "none", "--samplers", "random", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(each["sampler"], each["eta"]) for each in document["policies"]] == [("random", None)]
    assert document["rows"] == list(range(8))


def test_what_has_no_result_is_counted_and_left_out(lab: Lab) -> None:
    def gap(spec: TrialSpec) -> None:
        if spec.encoder.width == 16:
            raise QualityGapError("the curves share no quality", fix="train longer")

    lab.begin("ladder={rungs: [0.2], eta: 2}", "trials=6")
    lab.work(Recorded(gap))
    found = recorded(lab.store, "demo")
    states = lab.states()
    assert len(found.table.rows) == states.count("complete")
    assert found.left_out == {state: states.count(state) for state in {*states} - {"complete"}}
    assert {"stopped", "infeasible"} <= found.left_out.keys()


def test_what_a_teacher_s_outputs_took_is_paid_once_and_waiting_not_at_all(lab: Lab) -> None:
    """Trial 0: 30 s of its own, 60 s of cache, 10 s of waiting; trial 1 maps the cache."""
    lab.begin(*LOOKING, "trials=2")
    lab.work()
    parts = [
        {"cache": 60.0, "training": 30.0, "evaluation": 10.0, "waiting": 10.0},
        {"cache": 0.0, "training": 30.0, "evaluation": 10.0, "waiting": 0.0},
    ]
    for stored, seconds in zip(lab.store.trials("demo"), parts, strict=True):
        assert stored.result is not None
        lab.store.save_result("demo", stored.number, replace(stored.result, seconds=seconds))
        began = seconds["cache"]
        rungs = [replace(rung, seconds=began + 4.0 * rung.step) for rung in stored.rungs]
        lab.store.save_rungs("demo", stored.number, tuple(rungs))
    table = recorded(lab.store, "demo").table
    assert [row.seconds for row in table.rows] == pytest.approx([30.0, 40.0])
    assert table.setup_s == 60.0
    assert table.seconds == pytest.approx(130.0)
    first, second = ([rung.seconds for rung in row.rungs] for row in table.rows)
    assert first == pytest.approx([6.0, 15.0])  # 8 and 20 s, a quarter of them waiting
    assert second == pytest.approx([8.0, 20.0])


def test_rungs_of_an_earlier_attempt_do_not_run_backwards(lab: Lab) -> None:
    lab.begin(*LOOKING, "trials=2")
    lab.work()
    first = lab.store.trials("demo")[0]
    early, late = first.rungs
    rungs: tuple[Rung, ...] = (replace(early, seconds=9.0), replace(late, seconds=5.0))
    lab.store.save_rungs("demo", first.number, rungs)
    table = recorded(lab.store, "demo").table
    assert [rung.seconds for rung in table.rows[0].rungs] == [5.0]
    assert table.shares == (0.5,)


def test_a_spec_gives_back_what_was_suggested_and_nothing_else(lab: Lab) -> None:
    cfg = lab.config(*DISTILLING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked: set[frozenset[str]] = set()
    for _ in range(60):
        trial = study.ask()
        spec = cfg.space.sample(
            trial, plan=cfg.training, seed=0, teacher_coordinates=TEACHERS, stands_on={}
        )
        params: dict[str, Any] = trial.params
        assert suggested(cfg, spec) == params
        asked.add(frozenset(params))
    assert len(asked) == 4  # alone; under a, of its channels or not; under b


@pytest.mark.parametrize(("trials", "said"), [(0, "no finished trials"), (1, "1 finished trial,")])
def test_a_study_without_two_finished_trials_has_no_table(lab: Lab, trials: int, said: str) -> None:
    lab.begin(f"trials={max(trials, 1)}")
    if trials:
        lab.work()
    with pytest.raises(KdbenchError, match=f"'demo' has {said}(?s:.*)fix: let `kdbench search"):
        recorded(lab.store, "demo")


def test_a_list_of_codecs_has_no_table(lab: Lab) -> None:
    lab.store.create_study(StoredStudy(name="codecs", settings={"codecs": ["jpeg"]}))
    with pytest.raises(KdbenchError, match="'codecs' measured codecs and has no trials"):
        recorded(lab.store, "codecs")
