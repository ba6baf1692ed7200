"""The scripts under benchmarks/ start, and what they compute from their measurements is right."""

import argparse
import copy
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from PIL import Image

from benchmarks import (
    check_front,
    context,
    decoders,
    distillation,
    evaluation,
    frontier,
    halves,
    inherit,
    kodak,
    optimiser,
    precision,
    publish,
    report,
    scale,
    setting,
    step,
    trial_parts,
    workers,
)
from kdbench.bench import CodecFigures
from kdbench.codecs.building import build
from kdbench.codecs.weights import codec_bytes
from kdbench.complexity import measure_complexity
from kdbench.data import load_images
from kdbench.distill import Distiller, Targets
from kdbench.errors import CodecError
from kdbench.files import write_json
from kdbench.records import Distillation, RDCurve, RDPoint
from kdbench.report.json_view import study_json
from kdbench.report.overview import overview
from kdbench.search.attributes import RUNGS, SETTINGS
from kdbench.store import Store
from kdbench.teacher import Teacher, load_teacher
from kdbench.train import Batch
from tests.support.codecs import (
    RD_LAMBDAS,
    architecture,
    as_tensor,
    crops,
    finished,
    started,
    trained,
)
from tests.support.results import STUDY, make_study, result

FOLDER = Path(str(step.__file__)).parent
HELPERS = ("__init__", "publish", "setting")


# --- every script --------------------------------------------------------------------------------


def test_every_script_explains_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = sorted({path.stem for path in FOLDER.glob("*.py")} - set(HELPERS))
    assert "step" in scripts
    for name in scripts:
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as end:
            module.main()
        shown = capsys.readouterr().out
        assert end.value.code == 0
        assert f"benchmarks.{name}" in shown or f"benchmarks/{name}.py" in shown, name


# --- distillation --------------------------------------------------------------------------------


def keep(root: Path, run: distillation.Run, rate: float, bd_rate_pct: float, loss: float) -> None:
    """What a training of `run` at `rate` would have left."""
    found = result(bd_rate_pct, 16, None)
    found = replace(found, losses={"train": 1.0, "validation": loss})
    folder = root / f"{run.student} {run.steps} {run.case} {run.seed} {rate:g}"
    write_json(folder / "result.json", found)


def test_a_case_is_compared_with_the_twin_of_each_seed_at_the_rate_that_suits_the_twin(
    tmp_path: Path,
) -> None:
    twin = distillation.Run("16", distillation.SHORT, distillation.TWIN, 0)
    for rate, loss in zip(distillation.RATES, (0.8, 0.7, 0.9), strict=True):
        keep(tmp_path, twin, rate, 50.0, loss)
    rate = distillation.RATES[1]
    keep(tmp_path, replace(twin, seed=1), rate, 53.0, 0.7)
    for seed, pct in ((0, 20.0), (1, 22.4)):  # a fifth fewer bits than the twin of the seed
        keep(tmp_path, replace(twin, case="latent 0.3", seed=seed), rate, pct, 0.6)
    laboratory = distillation.Laboratory(tmp_path)
    rows = {row["case"]: row for row in distillation.report(laboratory)}
    assert rows.keys() == {"twin", "latent 0.3"}
    row = rows["latent 0.3"]
    assert (row["n_seeds"], row["learning_rate"]) == (2, rate)
    assert row["to_twin"]["pct"] == pytest.approx(-20.0, abs=0.1)
    assert row["to_twin"]["low_pct"] <= row["to_twin"]["pct"] <= row["to_twin"]["high_pct"]
    assert row["to_alone"] is None
    assert row["to_anchor_pct"] == pytest.approx(21.2)
    assert rows["twin"]["spread_over_seeds_pct"] == pytest.approx(3 / 2**0.5)
    assert "latent 0.3" in distillation.table(list(rows.values()))
    distillation.draw(list(rows.values()), tmp_path / "gain.svg")
    assert "latent 0.3 (2)" in (tmp_path / "gain.svg").read_text()


def test_a_run_whose_twin_is_missing_waits_for_it(tmp_path: Path) -> None:
    run = distillation.Run("16", distillation.SHORT, "latent 0.3", 1)
    laboratory = distillation.Laboratory(tmp_path)
    assert laboratory.found(run) is None
    assert distillation.report(laboratory) == []


def test_every_case_is_run_once_from_every_seed() -> None:
    every = list(distillation.runs(None))
    assert len(every) == len(set(every))
    assert set(every) == {
        run for steps in (distillation.SHORT, distillation.LONG) for run in distillation.runs(steps)
    }
    assert {run.case for run in every} == set(distillation.CASES)


# --- check_front ---------------------------------------------------------------------------------


def shown_trial(number: int, decoder: float = 1.0, **changes: Any) -> dict[str, Any]:
    trial = {
        "number": number,
        "state": "complete",
        "on_front": False,
        "spec_hash": f"{number:x}",
        "complexity": {"kmac_per_px": {"decoder": decoder}},
        "bd_rate": {"pct": 50.0, "low_pct": 40.0, "high_pct": 60.0, "overlap_db": 5.0},
    }
    return trial | changes


def good_show() -> dict[str, Any]:
    front = [shown_trial(i, decoder, on_front=True) for i, decoder in enumerate((2, 1, 1.5, 3))]
    unfinished = shown_trial(99, state="failed", complexity=None, bd_rate=None)
    return {"trials": [*front, *(shown_trial(i, 9.0) for i in range(4, 16)), unfinished]}


def missed(show: dict[str, Any], seconds: float = 1500) -> list[str]:
    return check_front.reasons(check_front.figures_of(show), seconds)


def test_a_search_that_just_keeps_every_promise_passes() -> None:
    assert check_front.figures_of(good_show()) == check_front.Figures(
        n_trials=17, n_complete=16, n_front=4, span=3.0, without_interval=()
    )
    assert missed(good_show()) == []


def test_each_promise_that_is_broken_has_its_reason() -> None:
    assert missed(good_show(), 1501) == ["it took 1501 s, more than 1500 s"]

    show = good_show()
    show["trials"][8]["state"] = "infeasible"
    assert missed(show) == ["15 complete trials, fewer than 16"]

    show = good_show()
    show["trials"][0]["on_front"] = False
    assert missed(show) == ["3 students on the front, fewer than 4"]

    show = good_show()
    show["trials"][3]["complexity"]["kmac_per_px"]["decoder"] = 2.9
    assert missed(show) == ["the front spans 2.90x in decoder kMAC/px, less than 3x"]

    for end in (None, float("inf")):
        show = good_show()
        show["trials"][2]["bd_rate"]["high_pct"] = end
        assert missed(show) == ["no finite BD-rate interval on the front: trial 2"]


def test_two_trials_of_one_spec_are_one_student_of_the_front() -> None:
    show = good_show()
    show["trials"][2]["spec_hash"] = show["trials"][0]["spec_hash"]
    assert missed(show) == ["3 students on the front, fewer than 4"]


def test_a_study_without_any_result_is_missed_and_not_a_crash() -> None:
    assert missed({"trials": []}) == [
        "0 complete trials, fewer than 16",
        "0 students on the front, fewer than 4",
    ]


def test_check_front_runs_by_its_path_and_says_why_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "show.json"
    file.write_text(json.dumps(study_json(overview(make_study(tmp_path / "runs"), STUDY))))
    run = subprocess.run(
        [sys.executable, str(check_front.__file__), str(file), "--seconds", "60"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 1
    assert run.stdout == (
        "60 s, 3 of 6 trials complete, 2 students on the front, 4.0x in decoder kMAC/px\n"
    )
    assert run.stderr == (
        "check_front: 3 complete trials, fewer than 16\n"
        "check_front: 2 students on the front, fewer than 4\n"
    )


# --- step ----------------------------------------------------------------------------------------


def test_the_typical_step_is_the_median_of_blocks_without_the_first() -> None:
    seconds = [9.0] * 10 + [0.001] * 9 + [0.011] + [0.003] * 10 + [5.0] * 10 + [70.0] * 3
    assert setting.typical_ms(seconds) == pytest.approx(3.0)
    assert setting.typical_ms(seconds[:20]) == pytest.approx(2.0)  # the slow tenth step counts


def test_a_step_of_ours_is_what_a_whole_training_takes_a_step() -> None:
    bf16, fp32 = [0.002] * 9 + [0.012], [0.004] * 9 + [0.014]
    seconds = [9.0] * 10 + 6 * bf16 + 3 * fp32  # the last 3 of 10
    assert step.ours_ms(seconds) == pytest.approx(0.7 * 3.0 + 0.3 * 5.0)


def naive_loop(*, gradients: bool) -> tuple[step.NaiveLoop, Teacher]:
    plan = architecture()
    teacher = Teacher(
        name="tiny",
        path=Path(),
        sha="",
        model=finished(plan).requires_grad_(False),
        card={"training": {"rd_lambdas": RD_LAMBDAS}},
    )
    spec = setting.spec_of(8, 20, "tiny", RD_LAMBDAS)
    x, levels = as_tensor(crops(2)), torch.tensor([0, 1])
    batches = step.live(lambda _: Batch(x, levels, None), teacher, spec, gradients=gradients)
    student = started(plan, seed=1)
    distiller = Distiller(spec.distillation, plan, plan.offer)
    return step.NaiveLoop(student, distiller, spec, batches), teacher


def test_only_the_paper_s_loop_trains_through_its_teacher() -> None:
    for gradients in (True, False):
        loop, teacher = naive_loop(gradients=gradients)
        loop.step(0)
        transforms = [getattr(teacher.model, name) for name in ("g_a", "g_s", "h_a", "h_s")]
        reached = {p.grad is not None for part in transforms for p in part.parameters()}
        assert reached == {gradients}


def test_the_naive_loop_learns_from_the_loss_that_kdbench_trains_on() -> None:
    loop, teacher = naive_loop(gradients=False)
    plan, spec = architecture(), setting.spec_of(8, 20, "tiny", RD_LAMBDAS)
    student = started(plan, seed=1)
    batch = step.live(
        lambda _: Batch(as_tensor(crops(2)), torch.tensor([0, 1]), None),
        teacher,
        spec,
        gradients=False,
    )(0)
    assert isinstance(batch.targets, Targets)
    with torch.no_grad():
        out = student(batch.x, batch.levels)
        distiller = Distiller(spec.distillation, plan, plan.offer)
        rd_lambda = torch.tensor(RD_LAMBDAS)
        terms = distiller(out, batch.targets, rd_lambda)
        naive = step.terms_through_teacher(distiller, out, batch.targets, rd_lambda)
    assert set(terms) == {"latent", "hyper_latent", "output", "entropy"}
    assert float(naive) == pytest.approx(float(sum(terms.values())), rel=1e-5)
    losses = [loop.step(i) for i in range(8)]
    assert losses[-1] < losses[0]


def test_the_naive_loop_is_made_of_compressai_s_layers_and_computes_the_same() -> None:
    student = started(architecture(), seed=1)
    naive = step.plain(student)
    kinds = [{type(module) for module in model.modules()} for model in (student, naive)]
    assert set(step.PLAIN) <= kinds[0]  # a layer that is no longer used would be compared unseen
    assert not {kind for kind in kinds[1] if kind in step.PLAIN}
    x, out = as_tensor(crops(2)), []
    for model in (student, naive):
        torch.manual_seed(0)
        out.append(model.train()(x)["x_hat"])
    torch.testing.assert_close(*out)


def test_the_untaught_loop_learns() -> None:
    spec = setting.spec_of(8, 20, "tiny", RD_LAMBDAS)
    batch = Batch(as_tensor(crops(2)), torch.tensor([0, 1]), None)
    loop = step.UntaughtLoop(spec, lambda _: batch)
    losses = [loop.step(i) for i in range(8)]
    assert losses[-1] < losses[0]


def test_a_step_counts_three_forward_passes() -> None:
    spec = setting.spec_of(8, 20, "tiny", RD_LAMBDAS)
    macs = measure_complexity(build(spec.architecture)).kmac_per_px * 1000 * 8 * 128 * 128
    assert step.step_gflop(spec) == pytest.approx(6 * macs / 1e9)


# --- inherit -------------------------------------------------------------------------------------


def test_a_start_that_costs_more_than_the_klt_has_fewer_steps() -> None:
    assert inherit.steps_left(150, 2.0, 0.1) == 130
    assert inherit.steps_left(150, -1.0, 0.1) == 160
    assert inherit.steps_left(4, 100.0, 0.1) == 1


def test_a_start_is_compared_with_the_klt_of_its_seed() -> None:
    common = {"student": "8/8", "asked": 4, "learning_rate": 1e-3, "steps": 4, "start_s": 1.0}
    rows = [
        common | {"start": start, "seed": seed, "loss": loss, "loss_at_start": 2.0}
        for start, losses in ((inherit.KLT, (1.0, 2.0)), ("slice", (0.9, 2.2)))
        for seed, loss in enumerate(losses)
    ]
    last = inherit.table(rows).splitlines()[-1]
    assert "| +0.0 % " in last
    assert "-10.0 +10.0" in last


def test_students_are_named_by_the_widths_of_encoder_and_decoder() -> None:
    assert inherit.student("64/16") == (64, 16)
    assert inherit.student("32") == (32, 32)


# --- context -------------------------------------------------------------------------------------


def some_coded(n_levels: int = 2) -> context.Coded:
    symbols = torch.randn(2, 3, 6, 8).mul(3).round()
    return context.Coded(symbols, torch.rand(2, 3, 6, 8) + 0.5, torch.arange(2) % n_levels, 0.0)


@pytest.mark.parametrize("kind", [kind for kind in context.HEADS if kind != "full"])
def test_a_context_head_starts_as_the_codec_is(kind: str) -> None:
    given = some_coded()
    own = context.bits(given.symbols, torch.zeros(()), given.scales)
    second = own * (1 - context.anchors(6, 8))
    found = context.second_half_bits(context.Head(kind, 3, 2), given)
    torch.testing.assert_close(found, second)


@pytest.mark.parametrize("kind", context.HEADS)
def test_the_second_half_is_predicted_from_nothing_that_is_decoded_after_it(kind: str) -> None:
    given, is_first = some_coded(), context.anchors(6, 8)
    head = context.Head(kind, 3, 2)
    with torch.no_grad():
        for values in head.parameters():
            values.add_(0.1 * torch.randn_like(values))
        other = given.symbols + (1 - is_first) * 5
        means, _ = head(given.symbols * is_first, given.scales, given.levels)
        again, _ = head(other * is_first, given.scales, given.levels)
    assert torch.equal(means, again)
    assert bool((means != 0).any()) == (kind != "refit")


def test_bits_are_those_of_the_bin_whatever_the_mean() -> None:
    symbols = torch.arange(-30.0, 31.0)
    for mean in (0.0, 0.4):
        found = context.bits(symbols, torch.tensor(mean), torch.tensor(2.0))
        assert float((2**-found).sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(context.bits(torch.zeros(1), torch.zeros(1), torch.tensor(0.1))) < 1e-5


def test_a_head_learns_what_a_neighbour_tells() -> None:
    torch.manual_seed(0)
    rows = torch.randn(32, 1, 1, 8).mul(4).round().expand(32, 2, 8, 8)  # all of a column alike
    given = context.Coded(rows, torch.full_like(rows, 4.0), torch.zeros(32).long(), 100.0)
    head = context.trained("depthwise", [given], 80, 0)
    (row,) = context.saved(head, [[given]])
    assert row["second_half_pct"] > 20
    assert row["y_pct"] == pytest.approx(row["second_half_pct"] / 2, rel=0.05)
    assert 0 < row["file_pct"] < row["y_pct"]


# --- halves -------------------------------------------------------------------------------------

LIBRARY = {
    "teacher_loss": 0.5,
    "parts": [
        {"part": part, "width": width, "loss": loss}
        for part, losses in (
            ("g_a", {16: 0.8, 32: 0.63, 48: 0.57, 64: 0.5}),
            ("g_s", {16: 0.9, 48: 0.6}),
        )
        for width, loss in losses.items()
    ],
}


def full(encoder: int, decoder: int, loss: float) -> dict[str, Any]:
    """A row of a table whose rung shows the order upside down."""
    return {
        "params_of": [encoder, decoder, 1e-3],
        "validation_losses": [loss, loss],
        "bd_rate_pct": None,
        "kmac_per_px": encoder + decoder,
        "decoder_kmac_per_px": decoder,
        "rungs": [{"step": 26, "losses": [-loss]}],
    }


def test_a_student_loses_what_its_encoder_and_its_decoder_lose_alone() -> None:
    assert halves.predicted(LIBRARY, 16, 48) == pytest.approx(0.5 + 0.3 + 0.1)
    assert halves.predicted(LIBRARY, 64, 16) == pytest.approx(0.9)


def test_predictions_are_compared_with_what_training_gave() -> None:
    rows = [full(e, d, halves.predicted(LIBRARY, e, d)) for e in (16, 32, 48, 64) for d in (16, 48)]
    taus = {at["predictor"]: at["tau"] for at in halves.compared(LIBRARY, rows)}
    assert taus["library"] == pytest.approx(1.0)
    assert taus["rung of 26 steps"] == pytest.approx(-1.0)
    assert {at["truth"] for at in halves.compared(LIBRARY, rows)} == {"loss"}  # no BD-rate there
    assert halves.compared(LIBRARY, rows[:3]) == []


def test_a_student_that_is_dominated_as_predicted_is_not_trained() -> None:
    rows = [full(16, 48, 0.9) | {"bd_rate_pct": 1.0}, full(64, 16, 0.9) | {"bd_rate_pct": 5.0}]
    by_all, by_decoder = halves.refusals(LIBRARY, rows)  # both are said to reach 0.9
    assert (by_all["untrained"], by_all["front"], by_all["front_lost"]) == (1, 1, 0)
    assert (by_decoder["untrained"], by_decoder["front"], by_decoder["front_lost"]) == (1, 2, 1)


def test_of_a_part_that_learns_alone_all_others_are_frozen() -> None:
    model = started(architecture())
    halves.only("g_s")(model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    decoder = {f"g_s.{name}" for name, _ in model.g_s.named_parameters()}
    assert learning >= decoder
    assert all(name.startswith("entropy_bottleneck.") for name in learning - decoder)


# --- optimiser -----------------------------------------------------------------------------------


def test_equal_seconds_are_as_many_steps_as_fit() -> None:
    assert optimiser.steps_within(30.0, 15.0, 300) == 600
    assert optimiser.steps_within(30.0, 60.0, 300) == 150
    assert optimiser.steps_within(1.0, 1000.0, 300) == 1


def test_every_optimiser_starts_from_the_same_student_and_moves_it() -> None:
    spec = replace(setting.spec_of(8, 3, "", RD_LAMBDAS), distillation=Distillation())
    batch = Batch(as_tensor(crops(2)), torch.tensor([0, 1]), None)
    start = started(architecture())
    before = copy.deepcopy(start.state_dict())
    course = optimiser.Course(start=start, spec=spec, batches=lambda _: batch, precision="fp32")
    assert list(optimiser.optimisers())[:2] == ["kdbench SOAP", "Adam"]
    for name in ("kdbench SOAP", "Adam"):
        model, seconds = optimiser.trained(course, optimiser.optimisers()[name])
        assert seconds > 0
        assert not torch.equal(model.state_dict()["g_a.0.weight"], before["g_a.0.weight"])
        assert torch.equal(start.state_dict()["g_a.0.weight"], before["g_a.0.weight"])


# --- kodak ---------------------------------------------------------------------------------------


def test_bd_rates_are_against_each_reference_and_none_without_common_quality() -> None:
    bpp, psnr_db = [0.1, 0.2, 0.4, 0.8], [27.0, 30.0, 33.0, 36.0]
    points = tuple(
        RDPoint(level=i, bpp=b, psnr_db=p)
        for i, (b, p) in enumerate(zip(bpp, psnr_db, strict=True))
    )
    curve = RDCurve(images=(), points=points, image_bpp=(), image_psnr_db=())
    reference = {
        "itself": {"bpp": bpp, "psnr_db": psnr_db},
        "twice the bits": {"bpp": [2 * b for b in bpp], "psnr_db": psnr_db},
        "far better": {"bpp": bpp, "psnr_db": [p + 20 for p in psnr_db]},
    }
    found = kodak.bd_rates(curve, reference)
    assert found["itself"] == pytest.approx(0.0, abs=1e-9)
    assert found["twice the bits"] == pytest.approx(-50.0)
    assert found["far better"] is None
    text = kodak.tables({"x": {"rd": [], "bd_rate_pct": found}}, reference)
    assert "| twice the bits    | -50.00 |" in text
    assert "| far better        |      - |" in text


# --- frontier -----------------------------------------------------------------------------------


def figures(name: str, bd_rate_pct: float, width: int) -> CodecFigures:
    found = result(bd_rate_pct, width, None)
    return CodecFigures(codec=name, sha=name, rd=found.rd, complexity=found.complexity, energy=None)


def test_a_student_is_told_by_its_share_of_the_teachers_decoder_and_the_bits_it_needs_more() -> (
    None
):
    teacher = figures("teacher:default", 0.0, 64)
    points = teacher.rd.points
    reference = {
        name: {"bpp": [p.bpp for p in points], "psnr_db": [p.psnr_db for p in points]}
        for name in (frontier.ANCHOR, *frontier.CLASSICAL)
    }
    codecs = {"teacher:default": teacher, "file:small": figures("file:small", 20.0, 8)}
    found = frontier.measured(codecs, teacher, reference)
    small = found["file:small"]
    assert small["share_of_teacher"] == pytest.approx(8 / 64)
    assert small["bd_rate_teacher"]["pct"] == pytest.approx(20.0)
    assert small["bd_rate_pct"] == pytest.approx(20.0)
    text = frontier.tables(found, "teacher:default", reference)
    assert "+20.0 [+20.0, +20.0] |" in text
    assert "| 0.125 |".replace(" ", "") in text.replace(" ", "")
    assert "arXiv 2304.06244" in text


def test_a_codec_that_nobody_counts_is_refused() -> None:
    teacher = figures("teacher:default", 0.0, 64)
    jpeg = replace(teacher, codec="jpeg", complexity=None)
    with pytest.raises(CodecError, match="nobody counts the multiply-accumulates of jpeg"):
        frontier.measured({"jpeg": jpeg}, teacher, {})


# --- decoders -----------------------------------------------------------------------------------


def test_live_latents_are_those_that_are_coded() -> None:
    model = finished(architecture(latent=16))
    every = decoders.live_latents(model, crops(4))
    with torch.no_grad():
        last = dict(model.g_a[-1].named_parameters())
        last["weight"][3:8] = 0.0
        last["bias"][3:8] = 0.4 / model.gain(1)[0, 3:8, 0, 0]  # rounds to 0
    assert 8 < every <= 16
    assert decoders.live_latents(model, crops(4)) == every - 5


def test_every_decoder_on_trial_is_about_a_tenth_of_its_teachers() -> None:
    teacher = load_teacher(decoders.TEACHER).model
    limit = measure_complexity(teacher).decoder_kmac_per_px / 10
    for name, structure in decoders.STRUCTURES.items():
        spec = decoders.student(structure, 136, 1, 1e-3)
        costs = measure_complexity(build(spec.architecture)).decoder_kmac_per_px
        assert 0.6 * limit < costs < (1.1 if "192" in name else 1.0) * limit


# --- trial_parts ---------------------------------------------------------------------------------


def test_seconds_that_are_no_part_of_their_own_are_overhead_and_waiting_is_not_added() -> None:
    stored = {"cost": 1.0, "cache": 2.0, "start": 3.0, "training": 50.0, "waiting": 40.0}
    assert trial_parts.by_part(stored) == {
        "training": 50.0,
        "evaluation": 0.0,
        "energy": 0.0,
        "overhead": 6.0,
    }


def test_shares_are_of_the_seconds_of_all_trials(tmp_path: Path) -> None:
    show = study_json(overview(make_study(tmp_path), STUDY))
    rows = trial_parts.figures_of(show)
    assert [row["number"] for row in rows] == [0, 1, 3]  # complete ones, by parameters
    shares = trial_parts.shares_pct(rows)
    total = 38.4 + 61.0 + 104.7 + 3 * 12.5
    assert shares["evaluation"] == pytest.approx(100 * 36 / total)
    assert sum(shares.values()) == pytest.approx(100)
    assert [row["overfit_pct"] for row in rows] == pytest.approx([20.0] * 3)
    assert "median +20.0" in trial_parts.table(rows).splitlines()[-1]


# --- evaluation ----------------------------------------------------------------------------------


def test_eval_model_finds_what_kdbench_finds(tmp_path: Path) -> None:
    """On photos of two shapes, one of which is cut to multiples of 64 px; gains and all."""
    photo = load_images("builtin", "validation").image(0)
    (tmp_path / "given").mkdir()
    for i, (height, width) in enumerate(((192, 256), (200, 199))):
        Image.fromarray(photo[:height, :width]).save(tmp_path / "given" / f"{i}.png")
    images = evaluation.cut(load_images(tmp_path / "given", "evaluation"), None, tmp_path / "cut")
    assert images.shapes.tolist() == [[192, 256], [192, 192]]
    codec = trained(architecture(), 5)
    assert codec.gain(1).std() > 0
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_bytes(codec, {}))
    found = evaluation.compare(path, images, n_rounds=1)
    assert found["bpp_off"] < 1e-3
    assert found["psnr_db_off"] < 1e-3
    low, high = found["points"][evaluation.OURS]
    assert low[0] < high[0]
    assert low[2] == pytest.approx(found["points"][evaluation.THEIRS][0][2], abs=1e-4)
    assert all(s > 0 for clock in ("wall_s", "cpu_s") for s in found[clock].values())
    assert found["start_cpu_s"] > 0.5  # importing torch
    rows = evaluation.table({"a codec": found}).splitlines()
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["kdbench", "eval_model"]


def test_only_codecs_that_compressai_has_are_compared() -> None:
    for other in (architecture(8, 16), architecture(kernel=3), architecture(prior="mean_scale")):
        with pytest.raises(ValueError, match="of one width"):
            evaluation.as_compressai(finished(other), 0)


# --- scale ---------------------------------------------------------------------------------------


def test_asking_and_telling_is_timed_in_a_study_that_knows_the_trials(tmp_path: Path) -> None:
    rows = scale.ask_and_tell([3, 5], 2, tmp_path)
    assert [(row["trials"], row["sampler"]) for row in rows] == [
        (size, sampler) for size in (3, 5) for sampler in scale.SAMPLERS
    ]
    for row in rows:
        for name in scale.PARTS:
            assert 0 < row[f"{name}_cpu_p50_ms"] <= row[f"{name}_cpu_p95_ms"]
    for sampler in scale.SAMPLERS:  # the last size lies here: 5 known ones, and 3 that were asked
        store = Store(tmp_path / f"runs-{sampler}")
        url = store.database_url("kd_pareto")
        study = optuna.load_study(study_name="kd_pareto", storage=url)
        assert len(study.trials) == 5 + 3
        assert all(len(trial.user_attrs[RUNGS]) == 2 for trial in study.trials)
        assert study.user_attrs[SETTINGS]["sampler"]["name"] == sampler
    assert scale.table(rows).count("| random") == 2


# --- workers -------------------------------------------------------------------------------------


def test_workers_count_from_their_own_first_trial_on() -> None:
    cores = workers.Cores()
    until = time.time() + 1.0
    began = time.time()
    while time.time() < until:
        sum(range(10_000))
    time.sleep(3 * workers.LOOK_S)  # it looks once more
    spans = [(2, began - 7.0, until + 5.0), (3, began, until), (1, began - 2.0, until + 0.1)]
    rate = workers.Rate.of(spans, cores)
    each = [3600 * n / (ended - first) for n, first, ended in spans]
    assert rate.trials_per_hour == pytest.approx(sum(each))
    assert 0.3 < rate.cores_busy < (os.cpu_count() or 1) + 0.5


def test_what_several_workers_do_is_compared_within_a_round() -> None:
    def rate(trials_per_hour: float) -> workers.Rate:
        return workers.Rate(trials_per_hour=trials_per_hour, cores_busy=1.5)

    found = {
        ("search", 1): [rate(100.0), rate(50.0), rate(80.0)],
        ("search", 2): [rate(180.0), rate(95.0), rate(160.0)],
    }
    one, two = (
        [c.strip() for c in row.split("|")] for row in workers.table(found).splitlines()[2:]
    )
    assert one[1:-1] == ["search", "1", "80", "", "1.50"]
    assert two[1:-1] == ["search", "2", "160", "1.90", "1.50"]


# --- publish -------------------------------------------------------------------------------------


def test_pairs_of_precisions_have_a_mean_an_interval_and_a_row_of_all() -> None:
    assert precision.interval([1.0]) == "+1.00"
    assert precision.interval([1.0, 3.0]) == "+2.00 [-10.71, +14.71]"  # t of 1 is 12.706
    pairs = [
        precision.Pair(width=width, seed=0, bd_rate_pct=pct, loss_pct=0.5, cpu_s=(30.0, 20.0))
        for width, pct in ((16, 1.0), (32, 3.0))
    ]
    *_, first, second, of_all = precision.table(pairs).splitlines()
    assert [row.split("|")[1].strip() for row in (first, second, of_all)] == ["16", "32", "all"]
    assert "+2.00 [-10.71, +14.71]" in of_all
    assert "1.50" in of_all


def test_a_table_is_markdown_and_reads_as_text() -> None:
    assert publish.markdown(["loop", "ms"], [["a", "1.5"], ["long name", "12.25"]]) == (
        "| loop      |    ms |\n| --------- | ----: |\n| a         |   1.5 |\n| long name | 12.25 |"
    )


def test_what_is_kept_names_commit_and_machine_but_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(
        images=tmp_path / "kodak",
        codecs=[f"file:{tmp_path}/best.safetensors", "jpeg"],
        steps=20,
        out=tmp_path / "new" / "figures.json",
    )
    publish.publish(arguments, "| a |", {"ms": 1.5})
    text = (tmp_path / "new" / "figures.json").read_text()
    kept = json.loads(text)
    assert kept["ms"] == 1.5
    assert kept["arguments"] == {
        "images": "kodak",
        "codecs": ["file:best.safetensors", "jpeg"],
        "steps": 20,
    }
    assert kept["machine"]["torch"] == torch.__version__
    assert {"date", "commit", "load_average"} <= set(kept)
    assert str(tmp_path) not in text
    note = (tmp_path / "new" / "figures.md").read_text()
    assert note.startswith("| a |\n\n")
    assert kept["date"] in note
    assert note in capsys.readouterr().out


def test_the_commit_says_when_the_checkout_differs_and_is_none_outside_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert publish.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "a"], check=True)
    clean = publish.commit()
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "step.json").write_text("{}")
    assert publish.commit() == clean  # results of this very commit are no change
    (tmp_path / "new.py").write_text("")
    assert publish.commit() == clean + "+"


def test_a_folder_for_figures_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    publish.add_out(parser, "step")
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", str(tmp_path)])
    assert "is a folder, name a file in it" in capsys.readouterr().err


def test_a_study_made_of_a_small_one_has_trials_that_differ(tmp_path: Path) -> None:
    make_study(tmp_path / "runs")
    store = Store(tmp_path / "many")
    n_front = report.make_many(tmp_path / "runs" / STUDY, store, 40)
    found = overview(store, report.NAME)
    assert found.n("complete") == 40
    assert len(found.front) == n_front > 2
    assert len({result.complexity.params for result in found.results.values()}) == 40
    assert found.anchor is not None
