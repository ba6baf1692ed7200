"""What `rerun --twin` and `rerun --seeds` print: the controls of a study's claims."""

from collections.abc import Mapping, Sequence

from kdbench.records import WEIGHTS, BDRate, Distillation, plain
from kdbench.report.details import LABEL
from kdbench.report.text import table, wrapped
from kdbench.report.units import UNKNOWN, bd_rate_cell, duration, figure, percent
from kdbench.report.verdicts import verdict
from kdbench.seeds import FreshSeeds, Run
from kdbench.twin import SAME_SECONDS, Control, Match

# --- twins -----------------------------------------------------------------------------------


def twin_text(controls: Sequence[Control], width: int) -> str:
    """Student against twin of every trial, seed by seed, with verdicts and what it cost."""
    return "\n\n".join(_control(control, width) for control in controls) + "\n"


def _control(control: Control, width: int) -> str:
    spec = control.equal_steps.student.runs[0].spec
    head = f"trial {control.number} and its twin, which has the teacher's start and no distillation"
    parts = [head, _match_table(control.equal_steps)]
    if control.equal_seconds is not None:
        parts.append(_match_table(control.equal_seconds))
    entries = [
        *verdicts(control).items(),
        ("distillation", _terms(spec.distillation)),
        ("learning rates", _rates(control)),
        ("seconds", _seconds(control)),
        *_broken(control),
    ]
    lines = [wrapped(label, text, width, indent=LABEL) for label, text in entries]
    return "\n\n".join([*parts, "\n".join(lines)])


def verdicts(control: Control) -> dict[str, str]:
    """What distillation did, in a sentence each, at equal steps and at equal seconds."""
    longer = control.equal_seconds
    return {
        "equal steps": _of(control.equal_steps),
        "equal seconds": _no_longer(control) if longer is None else _of(longer),
    }


def _of(match: Match) -> str:
    return verdict(match.bd_rate, match.n_seeds, match.why_not)


def _no_longer(control: Control) -> str:
    student_s, twin_s = control.student_s, control.equal_steps.twin.training_s
    if student_s is None or twin_s is None:
        return "cannot be told: no training of the student or of the twin finished"
    seconds = f"{duration(student_s)} with distillation, {duration(twin_s)} without"
    if SAME_SECONDS * student_s < twin_s:
        return f"the student took fewer than the twin: {seconds}"
    return f"equal steps are equal seconds: {seconds}"


def _match_table(match: Match) -> str:
    n, longer = match.student.steps, match.twin.steps
    steps = f"{n} steps" if n == longer else f"{n} steps, the twin {longer}: equal seconds"
    heads = [
        "seed",
        "student\nBD-rate %",
        "twin\nBD-rate %",
        "student against twin\nBD-rate % [95 %]",
    ]
    rows = [
        [str(one.spec.seed), percent(one.bd_rate_pct), percent(two.bd_rate_pct), _cell(found)]
        for one, two, found in zip(match.student.runs, match.twin.runs, match.by_seed, strict=True)
    ]
    if len(rows) > 1:
        sides = (match.student, match.twin)
        rows += [
            ["all", *(percent(side.mean_pct) for side in sides), _cell(match.bd_rate)],
            ["spread", *(figure(side.spread_pct) for side in sides), ""],
        ]
    return f"{steps}\n\n{table(heads, rows)}"


def _cell(found: BDRate | None) -> str:
    return UNKNOWN if found is None else bd_rate_cell(found, " ")


def _terms(plan: Distillation) -> str:
    """`teacher:default: latent 0.1, output 0.5`, and every setting that is not the default."""
    parts = [f"{name} {figure(weight)}" for name, weight in plan.weights.items()]
    unsaid = {"teacher", *WEIGHTS}
    parts += [
        f"{name} {figure(value) if isinstance(value, float) else value}"
        for name, value in plain(plan).items()
        if name not in unsaid and value != getattr(Distillation(), name)
    ]
    return f"{plan.teacher}: {', '.join(parts)}"


def _rates(control: Control) -> str:
    tried = ", ".join(
        f"{run.spec.training.learning_rate:.3g} ({figure(run.validation_loss)})"
        for run in control.tried
    )
    own = control.equal_steps.student.runs[0].spec.training.learning_rate
    text = (
        f"student {own:.3g}, twin {control.learning_rate:.3g}, the best of {tried} "
        "by validation loss"
    )
    if control.kept_an_end:
        text += "; it is at an end of those tried: one beyond might suit the twin better"
    return text


def _seconds(control: Control) -> str:
    sides = (control.equal_steps.student, control.equal_steps.twin)
    student, twin = (duration(side.training_s) for side in sides)
    return (
        f"training of the student {student}, of the twin {twin}; "
        f"the teacher's cache {duration(control.cache_s)}, once; "
        f"tuning of the twin {duration(control.tuning_s)}; all of this {duration(control.wall_s)}"
    )


def _broken(control: Control) -> list[tuple[str, str]]:
    """Every training that broke, and how."""
    matches = [control.equal_steps, *filter(None, [control.equal_seconds])]
    named: dict[str, Sequence[Run]] = {
        "student": control.equal_steps.student.runs,
        "tuning": control.tried,
        **{f"twin, {m.twin.steps} steps": m.twin.runs for m in matches},
    }
    return [
        ("broken", f"{name}, seed {run.spec.seed}: {run.why_not}")
        for name, runs in named.items()
        for run in runs
        if run.why_not is not None
    ]


# --- fresh seeds -----------------------------------------------------------------------------


def seeds_text(found: Sequence[FreshSeeds], width: int) -> str:
    """Recorded against fresh seeds, trial by trial."""
    return "\n\n".join(_fresh(fresh, width) for fresh in found) + "\n"


def _fresh(fresh: FreshSeeds, width: int) -> str:
    rows = [_row("recorded", fresh.recorded.bd_rate, fresh.recorded.seconds["training"])]
    for run in fresh.runs:
        rate = run.result.bd_rate if run.result else None
        rows.append(_row(f"seed {run.spec.seed}", rate, run.training_s))
    heads = [f"trial {fresh.number}", "BD-rate % [95 %]", "train s"]
    entries = [("winner's curse", curse(fresh))]
    entries += [("changed", change) for change in _changes(fresh.changed)]
    entries += [
        ("broken", f"seed {run.spec.seed}: {run.why_not}") for run in fresh.runs if run.why_not
    ]
    entries.append(("seconds", f"all of this {duration(fresh.wall_s)}"))
    lines = [wrapped(label, text, width, indent=LABEL) for label, text in entries]
    return "\n\n".join([table(heads, rows, left=1), "\n".join(lines)])


def _row(name: str, found: BDRate | None, seconds: float | None) -> list[str]:
    return [name, _cell(found), UNKNOWN if seconds is None else f"{seconds:.0f}"]


def _changes(changed: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    return [f"{name}: {a or UNKNOWN} -> {b or UNKNOWN}" for name, (a, b) in changed.items()]


def curse(fresh: FreshSeeds) -> str:
    """One sentence on how lucky the recorded trial was."""
    lost, n = fresh.winners_curse_pct, sum(run.result is not None for run in fresh.runs)
    if lost is None:
        return "cannot be told: the training of every fresh seed broke"
    spread = UNKNOWN if fresh.spread_pct is None else f"{figure(fresh.spread_pct)} points"
    text = (
        f"{percent(lost)} points: recorded {percent(fresh.recorded.bd_rate_pct)} %, "
        f"mean of {n} fresh seed{'' if n == 1 else 's'} {percent(fresh.mean_pct)} %, "
        f"spread {spread}"
    )
    if fresh.changed:
        text += f"; not luck alone: {', '.join(fresh.changed)} changed since"
    return text
