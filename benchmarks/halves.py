"""Whether a library of encoders and decoders that share the teacher's latents orders students.

    python -m benchmarks.halves                           some minutes: trains it
    python -m benchmarks.halves --trained benchmarks/results/halves.json --table ours.jsonl

Each encoder is trained alone: the teacher's g_s, h_a, h_s and gains are frozen, the loss is
R + rd_lambda 255^2 D and the latent term. Each decoder likewise, behind the teacher's g_a, on its
latents with their rounding, without the term. A part of the teacher's width is the teacher's.
What a student of encoder e and decoder d will come to is then said without training it: with t the
teacher's parts,

    loss(e, d) = loss(t, t) + [loss(e, t) - loss(t, t)] + [loss(t, d) - loss(t, t)]

`--table` (`benchmarks.table` makes it) has fully trained students: Kendall's tau with their
validation loss and BD-rate, of all and learning rate by learning rate; 95 %, bootstrap over
students. Beside it what costs nothing (more kMAC/px is better) and what a ladder sees (the loss at
each rung). Then what it would have saved: students that are dominated as predicted (loss, kMAC/px)
are not trained, and some of them may be on the true front (BD-rate, kMAC/px).
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.inherit import RD_LAMBDAS, Room
from benchmarks.order import interval, tau
from benchmarks.publish import add_out, markdown, publish
from benchmarks.setting import spec_of
from benchmarks.table import AXES, TEACHER, load_rows
from kdbench.codecs.learned import LearnedCodec
from kdbench.fronts import non_dominated
from kdbench.losses import estimated_loss
from kdbench.records import Distillation, Transform
from kdbench.teacher import load_teacher

Row = Mapping[str, Any]
WIDTHS = {"g_a": AXES["encoder"], "g_s": AXES["decoder"]}
MIN_STUDENTS = 8  # of one learning rate; fewer have no order worth a number


def only(part: str) -> Callable[[LearnedCodec], None]:
    """What freezes all of a codec but `part`."""

    def freeze(model: LearnedCodec) -> None:
        model.requires_grad_(False)
        model.get_submodule(part).requires_grad_(True)
        model.entropy_bottleneck.requires_grad_(True)  # a rate that nothing moves has no gradient
        model.parts = {part: model.parts[part]}  # the others have no gradient to look at

    return freeze


def trained_alone(room: Room, part: str, width: int, steps: int, rate: float) -> dict[str, Any]:
    """Loss and CPU seconds of the teacher's codec with one part of another width."""
    whole = load_teacher(TEACHER).model.architecture
    spec = spec_of(whole.encoder.width, steps, TEACHER, RD_LAMBDAS)
    spec = replace(
        spec,
        encoder=Transform(width=width) if part == "g_a" else spec.encoder,
        decoder=Transform(width=width) if part == "g_s" else spec.decoder,
        hyper=whole.hyper,
        distillation=Distillation(
            teacher=TEACHER, latent=0.3 if part == "g_a" else 0.0, schedule="decaying"
        ),
        training=replace(spec.training, learning_rate=rate),
    )
    found = room.taught(spec, 0.0, only(part))  # a slice: the rest is the teacher's
    row = {"part": part, "width": width, "steps": steps, "learning_rate": rate, **found}
    print(row, flush=True)
    return row


def library(room: Room, steps: int, rate: float) -> dict[str, Any]:
    """The teacher's loss, and one row for each part and width."""
    teacher = load_teacher(TEACHER).model
    own = {"g_a": teacher.architecture.encoder.width, "g_s": teacher.architecture.decoder.width}
    spec = spec_of(own["g_a"], 1, TEACHER, RD_LAMBDAS)
    loss = estimated_loss(teacher, room.unseen, spec)
    parts = [
        trained_alone(room, part, width, steps, rate)
        for part, widths in WIDTHS.items()
        for width in map(int, widths)
        if width != own[part]
    ]
    whole = [
        {"part": part, "width": own[part], "loss": loss, "start_s": 0.0, "training_s": 0.0}
        for part in WIDTHS
    ]
    return {"teacher_loss": loss, "parts": parts + whole}


def predicted(found: Mapping[str, Any], encoder: int, decoder: int) -> float:
    """The loss of a student of these widths: the teacher's, and what each part adds."""
    losses = {(row["part"], row["width"]): row["loss"] for row in found["parts"]}
    return float(losses["g_a", encoder] + losses["g_s", decoder] - found["teacher_loss"])


def predictors(found: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, list[float]]:
    """What each predictor says of every row; lower is better."""
    said = {
        "library": [predicted(found, *map(int, row["params_of"][:2])) for row in rows],
        "kMAC/px": [-float(row["kmac_per_px"]) for row in rows],
        "decoder kMAC/px": [-float(row["decoder_kmac_per_px"]) for row in rows],
    }
    for i, rung in enumerate(rows[0]["rungs"]):
        losses = [fmean(row["rungs"][i]["losses"]) for row in rows]
        said[f"rung of {rung['step']} steps"] = losses
    return said


def compared(found: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Tau of each predictor with loss and BD-rate: of all rows, and of each learning rate's."""
    figures = []
    for rate in (None, *sorted({row["params_of"][2] for row in rows})):
        group = [row for row in rows if rate in (None, row["params_of"][2])]
        if len(group) < MIN_STUDENTS:
            continue
        truths = {"loss": [fmean(row["validation_losses"]) for row in group]}
        if all(row["bd_rate_pct"] is not None for row in group):
            truths["BD-rate"] = [row["bd_rate_pct"] for row in group]
        for name, said in predictors(found, group).items():
            for truth, values in truths.items():
                figures.append(
                    {
                        "learning_rate": rate,
                        "students": len(group),
                        "predictor": name,
                        "truth": truth,
                        "tau": tau(said, values),
                        "interval": interval(said, values),
                    }
                )
    return figures


def refusals(found: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By each cost: students that the prediction leaves untrained, and those of the true front."""
    counted = []
    known = [row for row in rows if row["bd_rate_pct"] is not None]
    said = predictors(found, known)["library"]
    for cost in ("kmac_per_px", "decoder_kmac_per_px"):
        costs = [row[cost] for row in known]
        truth = [row["bd_rate_pct"] for row in known]
        kept, front = (
            non_dominated([list(pair) for pair in zip(values, costs, strict=True)])
            for values in (said, truth)
        )
        lost = sum(best and not stays for best, stays in zip(front, kept, strict=True))
        counted.append(
            {
                "cost": cost,
                "students": len(known),
                "untrained": kept.count(False),
                "front": sum(front),
                "front_lost": lost,
            }
        )
    return counted


def text_of(found: Mapping[str, Any], figures: Sequence[Row], rows: Sequence[Row]) -> str:
    """The library, what it cost, and the taus."""
    parts = [
        [row["part"], str(row["width"]), f"{row['loss']:.4f}", f"{row['training_s']:.0f}"]
        for row in sorted(found["parts"], key=lambda row: (row["part"], row["width"]))
    ]
    taus = [
        [
            "any" if at["learning_rate"] is None else f"{at['learning_rate']:g}",
            at["truth"],
            at["predictor"],
            str(at["students"]),
            f"{at['tau']:.2f} [{at['interval'][0]:.2f}, {at['interval'][1]:.2f}]",
        ]
        for at in figures
    ]
    cost_s = sum(row["start_s"] + row["training_s"] for row in found["parts"])
    said = [
        markdown(["part", "width", "loss", "CPU s"], parts),
        f"The library cost {cost_s:.0f} CPU s; loss of the teacher {found['teacher_loss']:.4f}.",
    ]
    if rows:
        row_s = fmean(row["seconds"]["start"] + row["seconds"]["training"] for row in rows)
        said += [
            markdown(["rate", "truth", "predictor", "students", "tau [95 %]"], taus, left=3),
            f"Start and training of one of these {len(rows)} students: {row_s:.0f} CPU s.",
            *(
                f"By {at['cost']}: {at['untrained']} of {at['students']} students untrained, "
                f"{at['front_lost']} of {at['front']} of the true front lost."
                for at in refusals(found, rows)
            ),
        ]
    return "\n\n".join(said)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="students to order")
    parser.add_argument("--trained", type=Path, help="a library that was trained: trains nothing")
    parser.add_argument("--steps", type=int, default=60, help="of each part")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--crops", type=int, default=768, help="training crops, built-in photos")
    add_out(parser, "halves")
    arguments = parser.parse_args(given)
    rows = [] if arguments.table is None else load_rows(arguments.table)
    if arguments.trained is not None:
        found = json.loads(arguments.trained.read_text())["library"]
    else:
        with tempfile.TemporaryDirectory(prefix="kdbench-halves-") as folder:
            room = Room.in_folder(Path(folder), arguments.crops)
            found = library(room, arguments.steps, arguments.rate)
    figures = compared(found, rows)
    refused = refusals(found, rows) if rows else []
    kept = {"library": found, "taus": figures, "refused": refused}
    publish(arguments, text_of(found, figures, rows), kept)


if __name__ == "__main__":
    main()
