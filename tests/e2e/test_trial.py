"""The hinge, whole: a tiny spec in, a result out, on a few small photos."""

import dataclasses
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from kdbench import lesson, trial, zoo
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.data import load_images
from kdbench.distill import Distiller
from kdbench.errors import CodecError, QualityGapError, StoreError, TrainingError
from kdbench.evaluate import Evaluation
from kdbench.lease import Lease
from kdbench.records import (
    Bench,
    Data,
    Distillation,
    EnergyPlan,
    Hyper,
    Latent,
    Progress,
    Rung,
    Training,
    Transform,
    TrialResult,
    TrialSpec,
    canonical_json,
)
from kdbench.store import StoredTrial, TrialFolder, keep_result
from kdbench.trial import TrialStopped, run_trial
from kdbench.twin import against_twin
from tests.support import attention
from tests.support.codecs import architecture, trained
from tests.support.results import curve
from tests.support.zoo import put_small

RD_LAMBDAS = (0.0002, 0.0015, 0.009)
STEPS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the three roles, and a teacher."""
    root = tmp_path_factory.mktemp("trial")
    photos = load_images("builtin", "train")
    for column, (role, n) in enumerate((("train", 3), ("validation", 1), ("evaluation", 2))):
        (root / role).mkdir()
        for i in range(n):  # parts of the same photos: what a student learns holds for all
            part = photos.image(i)[64 * i : 64 * i + 192, 160 * column : 160 * (column + 1)]
            PillowImage.fromarray(part).save(root / role / f"{i}.png")
    teacher = trained(
        architecture(24, hyper=8, latent=64, n_levels=3),
        10,
        rd_lambdas=RD_LAMBDAS,
        learning_rate=1e-4,
    )
    card = {"training": {"rd_lambdas": list(RD_LAMBDAS)}}
    (root / "teacher.safetensors").write_bytes(codec_bytes(teacher, card))
    return root


@pytest.fixture(autouse=True)
def _own_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who measures on this host waits for a test, or the other way round."""
    monkeypatch.setattr(trial, "host_lease", lambda: Lease(tmp_path / "lease"))


@pytest.fixture(scope="module")
def bench(root: Path) -> Bench:
    roles = {role: str(root / role) for role in ("train", "validation", "evaluation")}
    return Bench(
        data=Data(**roles, crops=24, cache_gib=0.1),
        anchor=f"file:{root / 'teacher.safetensors'}",
        energy=EnergyPlan(meter="replay", window_s=0.01, windows=2),
        device="cpu",
        precision="fp32",
        threads=1,
        cache=str(root / "cache"),
    )


@pytest.fixture(scope="module")
def spec(root: Path) -> TrialSpec:
    return TrialSpec(
        encoder=Transform(width=24),
        decoder=Transform(width=20, kernel=3, activation="relu"),
        hyper=Hyper(width=8),
        latent=Latent(channels=64),
        distillation=Distillation(
            teacher=f"file:{root / 'teacher.safetensors'}",
            latent=0.1,
            hyper_latent=0.1,
            output=0.5,
            entropy=0.1,
            temperature=2.0,
        ),
        training=Training(
            steps=STEPS, batch=4, crop_px=64, rd_lambdas=RD_LAMBDAS, learning_rate=1e-4
        ),
        seed=0,
    )


class _Watched:
    """A trial that is run, and what it said meanwhile."""

    def __init__(self, spec: TrialSpec, bench: Bench, folder: Path) -> None:
        self.files = TrialFolder(folder)
        self.rungs: list[Rung] = []
        self.told: list[Progress] = []
        self.result: TrialResult = run_trial(spec, bench, self._gate, folder, self.told.append)
        keep_result(self.files, self.result)

    def _gate(self, rung: Rung) -> bool:
        self.rungs.append(rung)
        return True


@pytest.fixture(scope="module")
def ran(spec: TrialSpec, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> _Watched:
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "host_lease", lambda: Lease(folder / "lease"))
        return _Watched(spec, bench, folder / "0")


def test_a_trial_gives_a_whole_result(ran: _Watched, bench: Bench) -> None:
    result = ran.result
    assert [p.level for p in result.rd.points] == [0, 1, 2]
    assert result.rd.images == ("0.png", "1.png")
    assert result.bd_rate is not None
    assert result.bd_rate.low_pct is not None
    assert result.bd_rate.high_pct is not None
    assert result.bd_rate.low_pct <= result.bd_rate.pct <= result.bd_rate.high_pct
    assert result.bd_rate.overlap_db > 0
    assert result.complexity.params > 0
    assert result.energy is not None
    assert result.energy.source == "replay"
    assert result.losses.keys() == {"train", "validation"}
    assert all(np.isfinite(loss) and loss > 0 for loss in result.losses.values())
    assert {"cost", "cache", "training", "evaluation", "energy", "waiting"} <= result.seconds.keys()
    assert result.environment["threads"] == "1"
    assert result.environment["torch"]
    assert json.loads(canonical_json(result))["hashes"] == result.hashes
    assert [found.step for found in result.gradient_shares] == [0, STEPS - 1]


def test_its_folder_holds_the_student_and_its_log(ran: _Watched, spec: TrialSpec) -> None:
    student = ran.files.student.read_bytes()
    assert ran.result.hashes["weights"] == hashlib.sha256(student).hexdigest()
    model, card = load_codec(ran.files.student)
    assert model.architecture == spec.architecture
    assert canonical_json(card["spec"]) == canonical_json(spec)
    rows = [json.loads(line) for line in ran.files.log.read_text().splitlines()]
    assert rows[-1]["step"] == STEPS - 1
    assert {"loss", "rd_loss", "bpp", "mse", "latent", "hyper_latent", "output", "entropy"} <= (
        rows[-1].keys()
    )
    looked = [row["step"] for row in rows if "gradient_shares" in row]
    assert looked == [0, STEPS - 1]
    assert rows[-1]["gradient_shares"] == ran.result.gradient_shares[-1].shares
    assert not ran.files.checkpoints


def test_its_folder_holds_a_cut_of_the_first_photo_at_the_middle_level(ran: _Watched) -> None:
    kept = ran.files.load_crop()
    assert kept is not None
    what, data = kept
    curve = ran.result.rd
    at = len(curve.points) // 2
    assert (what.image, what.level) == (curve.images[0], curve.points[at].level)
    assert (what.bpp, what.psnr_db) == (curve.image_bpp[at][0], curve.image_psnr_db[at][0])
    assert data.startswith(b"\x89PNG")


def test_a_trial_that_goes_on_at_each_rung_finds_what_it_finds_without(
    ran: _Watched, spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    asked = _Watched(spec, dataclasses.replace(bench, rungs=(2, 5)), tmp_path / "0")
    rungs = [rung for rung in asked.rungs if rung.stage == "training"]
    assert [rung.step for rung in rungs] == [2, 5]
    assert all(rung.values.keys() == {"validation_loss"} for rung in rungs)
    assert 0 < rungs[0].seconds < rungs[1].seconds
    assert asked.result.hashes == ran.result.hashes
    assert asked.result.losses == ran.result.losses
    assert asked.files.log.read_bytes() == ran.files.log.read_bytes()


def test_a_trial_that_is_stopped_at_a_rung_goes_on_from_there(
    ran: _Watched, spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    watched = dataclasses.replace(bench, rungs=(2, 5))
    with pytest.raises(TrialStopped, match="step 5"):
        run_trial(spec, watched, lambda rung: rung.step != 5, tmp_path / "0")
    again = _Watched(spec, watched, tmp_path / "0")
    assert [rung.step for rung in again.rungs if rung.stage == "training"] == [5]
    assert [told.step for told in again.told if told.stage == "training"] == [6, 7, 8, 9, 10]
    assert again.result.hashes == ran.result.hashes


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_an_interrupted_trial_of_a_model_a_rate_goes_on_with_what_is_finished(
    stage: str, spec: TrialSpec, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is coded here: each file would be decoded in a process of its own."""
    coded = Evaluation(curve=curve(), bitstreams_sha="")
    monkeypatch.setattr(trial, "evaluate_files", lambda *_, **__: coded)
    monkeypatch.setattr(trial, "_score", lambda *_: None)
    rates = dataclasses.replace(
        spec, training=dataclasses.replace(spec.training, rate="per_lambda")
    )
    whole, files = _Watched(rates, bench, tmp_path / "whole"), TrialFolder(tmp_path / "0")

    def stop(told: Progress) -> None:
        if told.stage == stage and (stage == "evaluation" or files.students):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(rates, bench, lambda rung: True, files.path, stop)
    n_finished, n_begun = (1, 1) if stage == "training" else (len(RD_LAMBDAS), 0)
    assert len(files.students) == n_finished
    assert len(files.checkpoints) == n_finished + n_begun  # of what it was at, one step is kept
    again = _Watched(rates, bench, files.path)
    steps = [told.step for told in again.told if told.stage == "training"]
    assert len(steps) == STEPS * (len(RD_LAMBDAS) - n_finished) - n_begun
    assert again.result.hashes == whole.result.hashes
    assert again.result.losses == whole.result.losses
    assert again.result.gradient_shares == whole.result.gradient_shares
    assert files.log.read_bytes() == whole.files.log.read_bytes()
    assert not files.checkpoints


def test_a_student_that_no_interval_compares_leaves_no_checkpoint(
    spec: TrialSpec, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gap(*_: object) -> None:
        raise QualityGapError("no overlap", fix="train it longer")

    monkeypatch.setattr(trial, "_score", gap)
    files = TrialFolder(tmp_path / "0")
    with pytest.raises(QualityGapError):
        run_trial(spec, bench, lambda rung: True, files.path)
    assert files.students
    assert not files.checkpoints


def test_its_gate_hears_of_every_cost_before_the_first_step(ran: _Watched) -> None:
    assert {(rung.stage, rung.step) for rung in ran.rungs} == {("cost", 0)}
    assert "energy_j_per_mpx" not in ran.rungs[0].values
    assert ran.rungs[0].values["params"] == ran.result.complexity.params
    assert ran.rungs[-1].values["energy_j_per_mpx"] > 0
    assert {"params", "kmac_per_px", "encoder_kmac_per_px", "decoder_kmac_per_px"} <= (
        ran.rungs[0].values.keys()
    )


def test_it_tells_its_stages_in_order(ran: _Watched) -> None:
    stages = list(dict.fromkeys(p.stage for p in ran.told))
    assert stages.index("cost") < stages.index("training") < stages.index("evaluation")
    training = [p for p in ran.told if p.stage == "training"]
    assert [p.step for p in training] == list(range(1, STEPS + 1))
    assert all(p.n_steps == STEPS and p.loss is not None for p in training)


def test_the_same_spec_gives_the_same_bits_again(
    ran: _Watched, spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    """With nothing kept from the first run but photos and teacher."""
    lesson.study_photos.cache_clear()
    fresh = dataclasses.replace(bench, cache=str(tmp_path / "cache"))
    again = _Watched(spec, fresh, tmp_path / "1").result
    assert again.hashes == ran.result.hashes
    assert again.rd.points == ran.result.rd.points
    assert again.bd_rate == ran.result.bd_rate
    assert again.losses == ran.result.losses


def test_a_twin_starts_and_draws_as_its_student_and_distils_nothing(
    ran: _Watched, spec: TrialSpec, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of `rerun --twin` on one seed, at one learning rate for the sake of time."""
    monkeypatch.setattr("kdbench.twin.RATE_FACTORS", (1.0,))
    stored = StoredTrial(folder=ran.files, spec=spec, result=ran.result)
    found = against_twin(
        stored, bench, tmp_path, 1, study=[stored], watch=lambda _: nullcontext(lambda _: None)
    )
    (student,), (twin,) = found.equal_steps.student.runs, found.equal_steps.twin.runs
    assert student.result is not None
    assert student.result.hashes == ran.result.hashes
    assert found.equal_steps.by_seed == (found.equal_steps.bd_rate,)
    assert found.equal_steps.bd_rate is not None
    assert found.equal_steps.bd_rate.pct != 0.0
    assert found.cache_s is not None
    assert found.cache_s >= ran.result.seconds["cache"]
    logs = [
        json.loads(TrialFolder(tmp_path / "0" / name / "seed-0").log.read_text().splitlines()[0])
        for name in ("student", "twin/rate-x1")
    ]
    assert logs[0]["rd_loss"] == logs[1]["rd_loss"]  # the first step: one start, one batch
    assert logs[0]["loss"] > logs[0]["rd_loss"]
    assert logs[1]["loss"] == logs[1]["rd_loss"]
    assert twin.spec.distillation.is_off
    if found.equal_seconds is not None:  # seconds are the machine's
        assert found.equal_seconds.twin.steps > STEPS


def _stop(rung: Rung) -> bool:
    return False


def test_a_gate_that_says_no_ends_the_trial_before_any_training(
    spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    told: list[Progress] = []
    with pytest.raises(TrialStopped) as stopped:
        run_trial(spec, bench, _stop, tmp_path / "0", told.append)
    assert stopped.value.rung.stage == "cost"
    assert {p.stage for p in told} == {"cost"}
    assert not (tmp_path / "0" / "student.safetensors").exists()


def test_a_gate_may_say_no_to_the_energy_alone(
    spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    told: list[Progress] = []
    with pytest.raises(TrialStopped) as stopped:
        run_trial(
            spec,
            bench,
            lambda rung: "energy_j_per_mpx" not in rung.values,
            tmp_path / "0",
            told.append,
        )
    assert "energy_j_per_mpx" in stopped.value.rung.values
    assert "training" not in {p.stage for p in told}


def test_a_learning_rate_far_too_high_fails_with_its_step(
    spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    wild = dataclasses.replace(
        spec, training=dataclasses.replace(spec.training, learning_rate=1e30)
    )
    with pytest.raises(TrainingError, match=r"became (nan|inf|-inf) at step \d+ of 10"):
        run_trial(wild, bench, lambda rung: True, tmp_path / "0")
    assert not (tmp_path / "0" / "student.safetensors").exists()


def test_a_student_alone_trains_without_a_teacher_or_a_meter(
    spec: TrialSpec, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lesson, "Faculty", None)  # would fail if it were asked for
    lesson._teachers.cache_clear()
    alone = dataclasses.replace(spec, distillation=Distillation())
    unmetered = dataclasses.replace(bench, energy=EnergyPlan(meter="none"))
    found = _Watched(alone, unmetered, tmp_path / "0")
    assert found.result.energy is None
    assert len(found.rungs) == 1
    row = json.loads(found.files.log.read_text().splitlines()[-1])
    assert row["loss"] == row["rd_loss"]


def test_a_lesson_weights_latent_channels_by_the_teachers_bits_where_it_is_asked_to(
    spec: TrialSpec, bench: Bench
) -> None:
    photos = lesson.study_photos(
        bench.data.train, bench.data.validation, bench.data.evaluation, spec.training.crop_px
    )
    crops = lesson.study_crops(photos["train"], bench.data.crops, spec.training.crop_px)
    found = []
    for channel_weights in ("equal", "by_bits"):
        plan = dataclasses.replace(spec.distillation, channel_weights=channel_weights)
        asked = dataclasses.replace(spec, distillation=plan)
        opened = lesson.Lesson.open(asked, bench, crops, lambda _: None)
        opened.started()
        assert isinstance(opened.distiller, Distiller)
        found.append(opened.distiller.channel_weights)
    equal, by_bits = found
    assert equal is None
    assert by_bits is not None
    assert by_bits.shape == (64,)
    assert float(by_bits.min()) >= 0
    assert float(by_bits.max()) > 1 > float(by_bits.median())


def test_a_level_the_teacher_lacks_and_a_cache_too_small_end_it_before_training(
    spec: TrialSpec, bench: Bench, tmp_path: Path
) -> None:
    other = dataclasses.replace(
        spec, training=dataclasses.replace(spec.training, rd_lambdas=(0.0002, 0.05))
    )
    with pytest.raises(CodecError, match=r"no level for rd_lambda 0\.05"):
        run_trial(other, bench, lambda rung: True, tmp_path / "0")
    tight = dataclasses.replace(bench, data=dataclasses.replace(bench.data, cache_gib=1e-5))
    with pytest.raises(StoreError, match=r"data\.cache_gib"):
        run_trial(spec, tight, lambda rung: True, tmp_path / "1")


TERMS_OF = {
    "plugin:vit": {"latent", "hyper_latent", "output"},
    "zoo:mbt2018-mean/1-3": {"latent", "hyper_latent", "output"},
    "zoo:cheng2020-anchor/2": {"latent", "hyper_latent", "output"},
    "zoo:bmshj2018-factorized/3": {"latent", "output"},
}


@pytest.mark.parametrize("teacher", TERMS_OF)
def test_a_student_learns_from_teachers_of_one_rate_through_connectors_it_does_not_keep(
    spec: TrialSpec, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    terms = TERMS_OF[teacher]
    monkeypatch.setattr(zoo, "RD_LAMBDAS", RD_LAMBDAS)
    monkeypatch.setattr(attention, "one", lambda: {RD_LAMBDAS[1]: attention.AttentionCodec()})
    attention.bring(monkeypatch, vit="one")
    for quality in (1, 2, 3):
        if teacher.startswith(zoo.KIND):
            put_small(monkeypatch, tmp_path, zoo.parse(teacher)[0].name, quality)
    weights: dict[str, Any] = dict.fromkeys(terms, 0.1)
    distillation = Distillation(teacher=teacher, **weights)
    taught = dataclasses.replace(spec, distillation=distillation)
    lesson._teachers.cache_clear()
    found = _Watched(taught, bench, tmp_path / "0")
    lesson._teachers.cache_clear()
    rows = [json.loads(line) for line in found.files.log.read_text().splitlines()]
    assert terms <= rows[0].keys()  # of 4 samples at 3 levels, each level has one
    assert rows[0]["loss"] == pytest.approx(
        rows[0]["rd_loss"] + sum(rows[0][term] for term in terms), rel=1e-5
    )
    assert load_codec(found.files.student)[0].architecture == spec.architecture
    assert found.result.bd_rate is not None
    assert found.result.bd_rate.overlap_db > 0
