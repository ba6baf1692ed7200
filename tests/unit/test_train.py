"""The training loop: it learns, resumes, repeats itself and says when it diverges."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kdbench import train as train_module
from kdbench.average import DECAY
from kdbench.codecs.bitfile import decode_image, encode_image
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.distill import Distiller, Targets
from kdbench.errors import StoreError, TrainingError
from kdbench.losses import estimated_loss, rung_values
from kdbench.records import (
    Architecture,
    Distillation,
    Progress,
    Schedule,
    Training,
    TrialSpec,
)
from kdbench.search.interrupt import Interrupt
from kdbench.train import (
    FINAL_RATE,
    Batch,
    TrainingLog,
    learning_rate,
    levels_of_step,
    step_rng,
    to_tensor,
    train,
)
from tests.support.codecs import RD_LAMBDAS, architecture, crops, finished, started

N_CROPS = 16


def _training(steps: int = 8, learning_rate: float = 3e-3) -> Training:
    return Training(
        steps=steps, batch=4, crop_px=64, rd_lambdas=RD_LAMBDAS, learning_rate=learning_rate
    )


def _spec() -> TrialSpec:
    own = architecture()
    return TrialSpec(
        encoder=own.encoder,
        decoder=own.decoder,
        hyper=own.hyper,
        latent=own.latent,
        distillation=Distillation(),
        training=_training(),
        seed=0,
    )


def _batch(step: int, targets: Callable[[Tensor, Tensor], Targets] | None = None) -> Batch:
    rng = step_rng(0, step)
    indices = rng.choice(N_CROPS, 4, replace=False)
    x, levels = to_tensor(crops(N_CROPS)[indices], "cpu"), levels_of_step(rng, 4, 2)
    return Batch(x, levels, targets and targets(x, levels))


def _run(
    model: Hyperprior,
    training: Training | None = None,
    *,
    batches: Callable[[int], Batch] = _batch,
    distiller: Distiller | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    rungs: Sequence[int] = (),
    at_rung: Callable[[int], object] = lambda _: None,
    precision: str = "fp32",
) -> TrainingLog:
    return train(
        model,
        batches,
        training or _training(),
        distiller=distiller,
        seed=seed,
        device="cpu",
        precision=precision,
        checkpoint=checkpoint,
        on_progress=on_progress,
        rungs=rungs,
        at_rung=at_rung,
        log_every=1,
    )


def _same(a: Hyperprior, b: Hyperprior) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


class _InterruptedError(Exception):
    pass


def _stop_after(n_steps: int) -> Callable[[Progress], None]:
    """Interrupts after the checkpoint of step `n_steps`, as Ctrl-C would."""

    def stop(progress: Progress) -> None:
        if progress.step == n_steps + 1:
            raise _InterruptedError

    return stop


# --- training ----------------------------------------------------------------------------------


def test_transforms_train_in_bf16_but_for_the_last_steps() -> None:
    model, seen = started(architecture()), []
    model.g_s[1].register_forward_hook(lambda *found: seen.append(found[-1].dtype))
    _run(model, _training(steps=10), precision="bf16")
    assert seen == [torch.bfloat16] * 7 + [torch.float32] * 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_training_lowers_the_loss_and_leaves_a_codec_that_codes() -> None:
    model = started(architecture())
    log = _run(model, _training(steps=30))
    assert log.last("loss", 5) < np.mean([row["loss"] for row in log.rows[:5]])
    assert not model.training
    image = crops(1)[0].transpose(1, 2, 0)
    assert decode_image(model, encode_image(model, image, 1)).shape == image.shape


def test_the_same_seed_trains_the_same_weights_and_another_one_others() -> None:
    models = [started(architecture()) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        _run(model, seed=seed)
    assert _same(models[0], models[1])
    assert not _same(models[0], models[2])


def test_a_log_holds_what_the_loss_is_made_of() -> None:
    log = _run(started(architecture()))
    assert [row["step"] for row in log.rows] == list(range(8))
    assert all(row["loss"] == row["rd_loss"] > row["bpp"] > 0 for row in log.rows)
    assert log.seconds > 0
    assert log.schedules == [(0, 8)]
    assert log.last("loss", n=2) == pytest.approx((log.rows[-1]["loss"] + log.rows[-2]["loss"]) / 2)


def test_progress_is_told_after_each_step() -> None:
    told: list[Progress] = []
    _run(started(architecture()), on_progress=told.append)
    assert [p.step for p in told] == list(range(1, 9))
    assert {(p.stage, p.n_steps) for p in told} == {("training", 8)}


def test_distillation_terms_are_added_to_the_loss_and_named_in_the_log() -> None:
    teacher = finished(architecture(12, latent=24), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        out = teacher(x, levels)
        return Targets.of(out)

    plan = Distillation(teacher="teacher:tiny", latent=0.1, output=0.5)
    student = started(architecture())
    distiller = Distiller(plan, student.architecture, teacher.architecture.offer)
    connector: Tensor = distiller.y_connector.weight.detach().clone()  # type: ignore[operator]
    log = _run(student, distiller=distiller, batches=lambda step: _batch(step, targets))
    for row in log.rows:
        assert row["latent"] > 0
        assert row["output"] > 0
        assert row["loss"] == pytest.approx(row["rd_loss"] + row["latent"] + row["output"])
    moved: Tensor = distiller.y_connector.weight  # type: ignore[assignment]
    assert not torch.equal(moved, connector)  # trained beside the student
    assert student.state_dict().keys() == Hyperprior(student.architecture).state_dict().keys()


def test_a_schedule_takes_the_teacher_away_in_the_course_of_the_training() -> None:
    teacher = finished(architecture(), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        return Targets.of(teacher(x, levels))

    def logged(schedule: Schedule) -> list[dict[str, float]]:
        plan = Distillation(teacher="teacher:tiny", output=0.5, schedule=schedule)
        student = started(architecture())
        distiller = Distiller(plan, student.architecture, teacher.architecture.offer)
        return _run(student, distiller=distiller, batches=lambda step: _batch(step, targets)).rows

    constant, decaying, first_half = logged("constant"), logged("decaying"), logged("first_half")
    assert constant[0] == decaying[0]
    assert first_half[:4] == constant[:4]
    assert all("output" not in row and row["loss"] == row["rd_loss"] for row in first_half[4:])
    assert 0 < decaying[7]["output"] < 0.1 * constant[7]["output"]


def test_the_papers_loss_weights_rate_and_distortion_too() -> None:
    """And its output term, beside rd_lambda 255^2 of distortion, is dead."""
    teacher = finished(architecture(), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        return Targets.of(teacher(x, levels))

    plan = Distillation(teacher="teacher:tiny", latent=0.2, output=0.2, rd=0.6, paper_compat=True)
    student = started(architecture())
    distiller = Distiller(plan, student.architecture, teacher.architecture.offer)
    log = _run(student, distiller=distiller, batches=lambda step: _batch(step, targets))
    for row in log.rows:
        parts = 0.6 * row["rd_loss"] + row["latent"] + row["output"]
        assert row["loss"] == pytest.approx(parts)
    assert max(log.gradient_shares[0].shares["output"].values()) < 0.01
    assert log.gradient_shares[0].shares["latent"]["g_a"] > 0.1


# --- shares of the gradient --------------------------------------------------------------------


def test_the_log_has_every_terms_share_of_the_gradient_at_the_first_and_the_last_step() -> None:
    teacher = finished(architecture(), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        return Targets.of(teacher(x, levels))

    plan = Distillation(teacher="teacher:tiny", latent=0.1, entropy=0.1)
    student = started(architecture())
    distiller = Distiller(plan, student.architecture, teacher.architecture.offer)
    log = _run(student, distiller=distiller, batches=lambda step: _batch(step, targets))
    assert [found.step for found in log.gradient_shares] == [0, 7]
    for found in log.gradient_shares:
        assert list(found.shares) == ["rate", "distortion", "latent", "entropy"]
        for part in ("g_a", "h", "g_s"):
            assert sum(of[part] for of in found.shares.values()) == pytest.approx(1)
        assert found.shares["distortion"] == pytest.approx(
            {"g_a": found.shares["distortion"]["g_a"], "h": 0.0, "g_s": 1.0}
        )  # the synthesis learns of nothing else here


@pytest.mark.parametrize("distilled", [False, True])
def test_looking_at_the_gradient_changes_no_bit_of_the_training(
    distilled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = finished(architecture(), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        return Targets.of(teacher(x, levels))

    plan = Distillation(teacher="teacher:tiny", latent=0.1, hyper_latent=0.1, output=0.5)
    models, rows = [started(architecture()) for _ in range(2)], []
    for model, looks in zip(models, (True, False), strict=True):
        if not looks:
            monkeypatch.setattr(train_module, "gradient_shares", lambda terms, parts: {})
        distiller = Distiller(plan, model.architecture, teacher.architecture.offer)
        log = _run(
            model,
            distiller=distiller if distilled else None,
            batches=lambda step: _batch(step, targets if distilled else None),
        )
        assert bool(log.gradient_shares[-1].shares) is looks
        rows.append(log.rows)
    assert _same(*models)
    assert rows[0] == rows[1]


# --- schedule and levels -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 8, 300, 10_000])
def test_the_learning_rate_rises_over_the_first_steps_and_falls_to_one_percent(steps: int) -> None:
    training = _training(steps=steps, learning_rate=1e-3)
    rates = [learning_rate(step, training) for step in range(steps)]
    n_warm = min(100, max(1, steps // 4))
    assert rates[0] == pytest.approx(1e-3 / n_warm, rel=0.01)
    assert all(a < b for a, b in pairwise(rates[:n_warm]))
    assert all(a > b for a, b in pairwise(rates[n_warm:]))
    assert max(rates) <= 1e-3
    assert learning_rate(steps, training) == pytest.approx(1e-3 * FINAL_RATE)


@pytest.mark.parametrize(("batch", "n_levels"), [(8, 5), (5, 5), (10, 5), (3, 1), (4, 2)])
def test_every_level_is_in_every_batch_that_is_large_enough(batch: int, n_levels: int) -> None:
    for step in range(20):
        counts = np.bincount(levels_of_step(step_rng(0, step), batch, n_levels).numpy())
        assert counts.sum() == batch
        assert len(counts) == n_levels
        assert counts.min() >= batch // n_levels
        assert counts.max() <= math.ceil(batch / n_levels)


def test_a_batch_smaller_than_the_levels_meets_each_in_turn() -> None:
    seen = torch.cat([levels_of_step(step_rng(0, step), 2, 5) for step in range(200)])
    counts = np.bincount(seen.numpy(), minlength=5)
    assert counts.min() > 40  # 80 each on average


def test_what_a_step_draws_depends_on_seed_and_step_alone() -> None:
    assert step_rng(3, 7).integers(1 << 30) == step_rng(3, 7).integers(1 << 30)
    draws = {int(step_rng(seed, step).integers(1 << 62)) for seed in range(5) for step in range(5)}
    assert len(draws) == 25


# --- rungs -------------------------------------------------------------------------------------


def test_a_look_at_a_rung_changes_nothing(tmp_path: Path) -> None:
    spec, held_out = _spec(), crops(4)
    plain, watched = started(architecture()), started(architecture())
    _run(plain)
    seen: list[float] = []

    def look(step: int) -> None:
        seen.append(rung_values(watched, held_out, spec)["validation_loss"])

    _run(watched, rungs=(2, 5), at_rung=look)
    assert len(set(seen)) == 2
    assert _same(plain, watched)


def test_at_a_rung_the_model_has_the_mean_of_its_weights() -> None:
    model, seen = started(architecture()), list[list[Tensor]]()

    def keep(_: object) -> None:
        seen.append([p.detach().clone() for p in model.parameters()])

    _run(model, rungs=(2,), at_rung=keep, on_progress=keep)
    after_one, after_two, shown, after_three, *_ = seen
    first, second = DECAY / (1 + DECAY), 1 / (1 + DECAY)
    for a, b, mean in zip(after_one, after_two, shown, strict=True):
        assert_close(mean, first * a + second * b)
    assert any(not torch.equal(a, b) for a, b in zip(after_three, shown, strict=True))


def test_a_training_that_resumes_shows_at_its_rungs_what_the_whole_one_shows(
    tmp_path: Path, at_every_step: None
) -> None:
    path, spec, held_out = tmp_path / "training.checkpoint", _spec(), crops(4)

    def losses(*stops: Callable[[Progress], None]) -> list[float]:
        found: list[float] = []
        for stop in (*stops, lambda _: None):
            model = started(architecture())

            def look(step: int, model: Hyperprior = model) -> None:
                found.append(rung_values(model, held_out, spec)["validation_loss"])

            with suppress(_InterruptedError):
                _run(
                    model,
                    checkpoint=path if stops else None,
                    rungs=(5,),
                    at_rung=look,
                    on_progress=stop,
                )
        return found

    assert losses(_stop_after(3)) == losses()


def test_what_a_rung_shows_is_the_loss_of_the_middle_level() -> None:
    model, spec = finished(architecture()), _spec()
    found = rung_values(model, crops(4), spec)
    assert found == {"validation_loss": estimated_loss(model, crops(4), spec, [1])}


def test_a_training_that_stopped_at_a_rung_asks_again_there(
    tmp_path: Path,
) -> None:
    """Killed after the checkpoint, before the answer: it trains no step twice."""
    path, whole = tmp_path / "training.checkpoint", started(architecture())
    _run(whole, rungs=(2, 5))

    def stop(step: int) -> None:
        raise _InterruptedError

    with pytest.raises(_InterruptedError):
        _run(started(architecture()), checkpoint=path, rungs=(2, 5), at_rung=stop)
    again, asked, told = started(architecture()), list[int](), list[Progress]()
    _run(again, checkpoint=path, rungs=(2, 5), at_rung=asked.append, on_progress=told.append)
    assert asked == [2, 5]
    assert told[0].step == 3
    assert _same(again, whole)


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "CHECKPOINT_S", -1.0)


@pytest.fixture
def checkpoint(tmp_path: Path, at_every_step: None) -> Path:
    """Of a training of 8 steps that was interrupted after 5."""
    path = tmp_path / "training.checkpoint"
    with pytest.raises(_InterruptedError):
        _run(started(architecture()), checkpoint=path, on_progress=_stop_after(5))
    return path


@pytest.mark.parametrize("n_steps", [1, 5, 7])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    n_steps: int, tmp_path: Path, at_every_step: None
) -> None:
    """At a rate at which ten steps move every weight; the noise must go on too."""
    training, path = _training(steps=16), tmp_path / "training.checkpoint"
    whole, resumed = started(architecture()), started(architecture())
    expected = _run(whole, training)
    with pytest.raises(_InterruptedError):
        _run(started(architecture()), training, checkpoint=path, on_progress=_stop_after(n_steps))
    assert path.exists()
    found = _run(resumed, training, checkpoint=path)
    assert _same(resumed, whole)
    assert found.rows == expected.rows
    assert found.gradient_shares == expected.gradient_shares
    assert path.exists()  # until the caller has kept the codec


def _signal_in_step(n_steps: int) -> Callable[[int], Batch]:
    """Sends SIGTERM while step `n_steps` computes."""

    def batches(step: int) -> Batch:
        if step == n_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return _batch(step)

    return batches


def test_a_signal_in_the_middle_of_a_step_loses_none(tmp_path: Path) -> None:
    training, path = _training(steps=12), tmp_path / "training.checkpoint"
    whole, resumed = started(architecture()), started(architecture())
    expected = _run(whole, training)
    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt), interrupt.allowed():
        _run(started(architecture()), training, batches=_signal_in_step(5), checkpoint=path)
    told: list[Progress] = []
    found = _run(resumed, training, checkpoint=path, on_progress=told.append)
    assert [progress.step for progress in told] == list(range(6, 13))
    assert _same(resumed, whole)
    assert found.rows == expected.rows


def test_an_interrupt_that_tears_a_step_keeps_nothing_of_it(tmp_path: Path) -> None:
    """Python's own Ctrl-C does not wait: the step before is what the next training begins with."""
    path = tmp_path / "training.checkpoint"

    def torn(step: int) -> Batch:
        if step == 4:
            raise KeyboardInterrupt
        return _batch(step)

    with pytest.raises(KeyboardInterrupt):
        _run(started(architecture()), batches=torn, checkpoint=path)
    assert not path.exists()


def test_a_finished_training_is_taken_up_without_a_step(tmp_path: Path) -> None:
    path = tmp_path / "training.checkpoint"
    first, again = started(architecture()), started(architecture())
    expected = _run(first, checkpoint=path)
    saved = path.read_bytes()
    told: list[Progress] = []
    found = _run(again, checkpoint=path, on_progress=told.append)
    assert told == []
    assert _same(again, first)
    assert (found.rows, found.gradient_shares) == (expected.rows, expected.gradient_shares)
    assert (found.schedules, found.seconds) == (expected.schedules, expected.seconds)
    assert path.read_bytes() == saved


def test_connectors_and_their_unit_are_resumed_too(tmp_path: Path, at_every_step: None) -> None:
    teacher = finished(architecture(hyper=12), seed=3)

    @torch.no_grad()
    def targets(x: Tensor, levels: Tensor) -> Targets:
        out = teacher(x, levels)
        return Targets.of(out)

    plan = Distillation(
        teacher="teacher:tiny", latent=0.1, hyper_latent=0.1, entropy=0.1, temperature=2.0
    )
    path, models = tmp_path / "training.checkpoint", list[Hyperprior]()
    for stop in (None, 4, None):
        model = started(architecture())
        torch.manual_seed(0)
        distiller = Distiller(plan, model.architecture, teacher.architecture.offer)
        try:
            _run(
                model,
                distiller=distiller,
                batches=lambda step: _batch(step, targets),
                checkpoint=path if models else None,
                on_progress=_stop_after(stop) if stop else lambda _: None,
            )
        except _InterruptedError:
            assert stop is not None
        models.append(model)
    assert _same(models[0], models[2])
    assert not _same(models[0], models[1])


def test_a_resumed_training_may_be_made_longer(checkpoint: Path) -> None:
    log = _run(started(architecture()), _training(steps=12), checkpoint=checkpoint)
    assert [row["step"] for row in log.rows] == list(range(12))
    assert log.schedules == [(0, 8), (5, 12)]


def test_a_checkpoint_of_other_settings_is_refused(checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="other settings") as refused:
        _run(started(architecture()), _training(learning_rate=1e-3), checkpoint=checkpoint)
    assert "learning_rate=0.003" in refused.value.problem
    assert "learning_rate=0.001" in refused.value.problem
    assert checkpoint.exists()


@pytest.mark.parametrize(
    "other", [architecture(12), architecture(kernel=3)], ids=["width", "kernel"]
)
def test_a_checkpoint_of_another_architecture_is_refused(
    other: Architecture, checkpoint: Path
) -> None:
    with pytest.raises(TrainingError, match="another architecture"):
        _run(started(other), checkpoint=checkpoint)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1000])
def test_a_damaged_checkpoint_is_an_error_that_names_it(checkpoint: Path, keep: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"training\.checkpoint cannot be read") as refused:
        _run(started(architecture()), checkpoint=checkpoint)
    assert "remove it" in refused.value.fix


def test_a_checkpoint_that_cannot_be_written_is_an_error(
    tmp_path: Path, at_every_step: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        _run(started(architecture()), checkpoint=tmp_path / "file" / "training.checkpoint")


# --- divergence --------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_training_with_its_step() -> None:
    def batches(step: int) -> Batch:
        batch = _batch(step)
        return batch._replace(x=batch.x * math.nan) if step == 3 else batch

    with pytest.raises(TrainingError, match="the loss became nan at step 3 of 8") as failed:
        _run(started(architecture()), batches=batches)
    assert "learning_rate" in failed.value.fix


def test_a_gradient_that_is_no_number_ends_the_training_with_its_step() -> None:
    model = started(architecture())

    def batches(step: int) -> Batch:
        if step == 2:
            model.g_a[0].bias.register_hook(lambda grad: grad * math.inf)  # type: ignore[operator]
        return _batch(step)

    with pytest.raises(TrainingError, match=r"the gradient became (inf|nan) at step 2 of 8"):
        _run(model, batches=batches)


def test_a_last_step_into_nowhere_is_noticed_before_tables_are_built() -> None:
    """The tables of a prior of NaN are searched for ever."""

    def spoil(progress: Progress) -> None:
        if progress.step == 8:
            with torch.no_grad():
                model.entropy_bottleneck.biases[0].fill_(math.nan)

    model = started(architecture())
    with pytest.raises(TrainingError, match="the weights became nan at step 7 of 8"):
        _run(model, on_progress=spoil)


def test_a_learning_rate_far_too_high_fails_by_name_and_not_by_accident() -> None:
    with pytest.raises(TrainingError, match=r"became (nan|inf|-inf) at step \d+ of 8"):
        _run(started(architecture()), _training(learning_rate=1e30))
