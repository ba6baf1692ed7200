"""Results are files first: the database can be lost."""

from dataclasses import replace

import pytest
from optuna.trial import FixedTrial, TrialState

from kdbench.errors import QualityGapError, TrainingError
from kdbench.records import Distillation, FamilyCodec, TrialSpec
from kdbench.search.attributes import COSTS, SPEC_HASH
from kdbench.search.restore import Answers
from tests.support import search as stub
from tests.support.results import SPEC
from tests.unit.search.lab import Lab, Recorded, names


def mixed(spec: TrialSpec) -> None:
    """One of each: broken, without overlap, and what the limit refuses."""
    if spec.encoder.width == 16:
        raise TrainingError("NaN at step 3", fix="lower the learning rate")
    if spec.encoder.width == 24:
        raise QualityGapError("no quality in common", fix="train longer")


def test_a_spec_gives_back_the_answers_it_was_made_from(lab: Lab) -> None:
    cfg = lab.config()
    more = {"teacher_coordinates": {}, "stands_on": {}, "plan": cfg.training, "seed": cfg.seed}
    for params in cfg.space.diagonal():
        spec = cfg.space.sample(FixedTrial(params), **more)  # type: ignore[arg-type]
        answers = Answers(spec)
        assert cfg.space.sample(answers, **more) == spec  # type: ignore[arg-type]
        assert answers.params == params


def test_a_database_made_from_folders_is_the_one_that_was_lost(lab: Lab) -> None:
    settings = ("trials=5", "constraints.params_max=150000")
    lost = lab.begin(*settings)
    lab.work(Recorded(mixed))
    before = [trial for trial in lost.get_trials() if trial.state.is_finished()]
    assert {*names(before)} == {"COMPLETE", "FAIL", "PRUNED"}

    (lab.store.study_folder("demo") / "optuna.db").unlink()
    after = lab.begin(*settings).get_trials()[: len(before)]
    for old, new in zip(before, after, strict=True):
        assert (new.number, new.state, new.values) == (old.number, old.state, old.values)
        assert (new.params, new.distributions) == (old.params, old.distributions)
        assert new.constraints == old.constraints
        assert list(new.constraints) == list(old.constraints)
        assert new.user_attrs[SPEC_HASH] == old.user_attrs[SPEC_HASH]
        assert new.user_attrs.get(COSTS) == old.user_attrs.get(COSTS)


def test_a_study_without_its_database_trains_nothing_twice(lab: Lab) -> None:
    lab.begin("trials=6")
    lab.work()
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    lab.begin("trials=8")
    run = Recorded()
    assert lab.work(run) == "complete"
    assert len(run.specs) == 2
    assert len({trial.spec.hash for trial in lab.store.trials("demo")}) == 8


def test_a_spec_that_was_interrupted_is_tried_again(lab: Lab) -> None:
    lab.begin("sampler.enqueue=none")

    def dies(spec: TrialSpec) -> None:
        raise KeyboardInterrupt

    interrupted = Recorded(dies)
    with pytest.raises(KeyboardInterrupt):
        lab.work(interrupted)
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    lab.begin("sampler.enqueue=none")
    run = Recorded()
    lab.work(run)
    assert run.specs[0] == interrupted.specs[0]


def test_a_number_without_a_folder_stays_taken(lab: Lab) -> None:
    lab.begin("trials=1")
    lab.work()
    spec = lab.store.load_trial("demo", 0).spec
    lab.store.begin_trial("demo", 3, spec)
    lab.store.save_result("demo", 3, stub.result(spec))
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    found = lab.begin("trials=1").get_trials()
    assert names(found)[:4] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert found[3].state == TrialState.COMPLETE


def test_settings_that_came_later_are_restored_at_their_default_too() -> None:
    """Such fields are not in the JSON of a spec that has the default."""
    plan = Distillation(teacher="teacher:tiny", latent=0.3)
    spec = replace(SPEC, distillation=plan)
    answers = Answers(spec)
    assert answers.suggest_categorical("distillation.latent_loss", ["mse", "kl"]) == "mse"
    assert answers.suggest_float("distillation.features", 0.0, 1.0) == 0.0
    assert answers.suggest_categorical("distillation.teacher", ["teacher:tiny"]) == "teacher:tiny"
    alone = Answers(replace(spec, distillation=Distillation()))
    assert alone.suggest_categorical("distillation.teacher", ["none", "x"]) == "none"


def test_the_axes_of_another_packages_family_are_restored() -> None:
    codec = FamilyCodec(family="elic", axes={"encoder": 24}, offer=SPEC.architecture.offer)
    spec = TrialSpec(codec=codec, distillation=Distillation(), training=SPEC.training, seed=0)
    assert Answers(spec).suggest_int("codec.encoder", 16, 32) == 24
