"""Notes in Markdown: what a study found and stands on, and each trial beside its teacher."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdbench.bench import CodecFigures
from kdbench.dashboard.artifacts import Artifact
from kdbench.records import CodecEnergy, Complexity, TrialSpec, plain
from kdbench.report.gather import Gathered
from kdbench.report.overview import Overview, dead_terms
from kdbench.report.paper import energy_change_pct
from kdbench.report.tables import MODEL_NOTE
from kdbench.report.units import (
    UNKNOWN,
    bd_rate_cell,
    change_pct,
    count,
    duration,
    figure,
    mebibytes,
    percent,
    span,
)
from kdbench.report.verdicts import verdict
from kdbench.store import StoredTrial

FRONT_HEADS = ("trial", "BD-rate % [95 %]", "kMAC/px", "Δ%", "decoder", "Δ%", "J/Mpx", "Δ%")
STANDS_ON = ("anchor", "crops", "meter", "protocol", "device.device", "device.cpu")
PARTS = ("encoder", "decoder", "hyper", "latent", "codec", "distillation", "training")


# --- of a study ------------------------------------------------------------------------------


def study_note(whole: Gathered, url: str) -> str:
    """The front against the anchor, where its energies come from, what to run.

    Args:
        whole: The study.
        url: Of the page that shows one trial, but for its number.
    """
    found, fixed = whole.found, whole.stored.fixed
    n_complete = found.n("complete")
    states = ("stopped", "refused", "infeasible", "failed", "running")
    others = ", ".join(f"{n} {state}" for state in states if (n := found.n(state)))
    parts = [
        f"## {found.study}",
        f"{len(found.front)} on the front of {n_complete} complete trial"
        f"{'' if n_complete == 1 else 's'}"
        + (f" ({others})" if others else "")
        + f"; minimised: {', '.join(map(_code, found.objectives))}; BD-rate and Δ% against "
        f"{_code(found.anchor_name)}.",
    ]
    if n_complete:
        parts += [_front(found, url), *_sources(found), *map(_plain, whole.left_out)]
    else:
        parts.append("No trial is complete yet; the page comes up to date by itself.")
    known = [(key, fixed[key]) for key in STANDS_ON if key in fixed]
    if known:
        parts.append(_table(("stands on", ""), [(key, _short(value)) for key, value in known]))
    study = f"--study {found.study}"
    commands = [f"kdbench show {study} --all"]
    commands += [f"kdbench rerun {study} --trial best"] if found.front else []
    return "\n\n".join([*parts, _block([*commands, f"kdbench search {study}"])]) + "\n"


def _front(found: Overview, url: str) -> str:
    reference = found.anchor
    rows = []
    for number, result in found.front_results.items():
        costs = result.complexity
        theirs = _part(reference, "complexity")
        energy = result.energy
        rows.append(
            (
                f"[{number}]({url}{number})",
                bd_rate_cell(result.bd_rate, " "),
                figure(costs.kmac_per_px),
                percent(change_pct(costs.kmac_per_px, _part(theirs, "kmac_per_px"))),
                figure(costs.decoder_kmac_per_px),
                percent(
                    change_pct(costs.decoder_kmac_per_px, _part(theirs, "decoder_kmac_per_px"))
                ),
                UNKNOWN if energy is None else f"{figure(energy.j_per_mpx)} ({energy.origin})",
                percent(energy_change_pct(energy, _part(reference, "energy"))),
            )
        )
    return _table(FRONT_HEADS, rows)


def _sources(found: Overview) -> list[str]:
    energies = [result.energy for result in found.results.values() if result.energy]
    if not energies:
        return ["Energy was not measured."]
    text = f"Energy: {', '.join(sorted({energy.origin for energy in energies}))}."
    modelled = any(energy.source == "model" for energy in energies)
    return [f"{text} {MODEL_NOTE[0].upper()}{MODEL_NOTE[1:]}" if modelled else text]


def not_fresh(problem: str) -> str:
    """What stands above the note of a study that cannot be read any more."""
    return f"> **This page is not up to date**: {_plain(problem)}\n\n"


# --- of a trial ------------------------------------------------------------------------------


def trial_note(
    found: Overview, trial: StoredTrial, pictures: Sequence[tuple[Artifact, str]]
) -> str:
    """What became of it, beside its anchor; how it was made and how to make it again.

    Args:
        found: Its study.
        trial: Complete or not.
        pictures: Artifacts that are shown here, with their addresses.
    """
    parts = [_fate(found, trial)]
    if trial.result is not None:
        parts.append(_against(found, trial))
        parts += _energy(trial.result.energy)
        parts += _dead(trial)
    parts += [f"![{_plain(one.name)}]({url})" for one, url in pictures]
    if trial.twin is not None:
        twin = trial.twin
        parts.append(f"**Twin**: {verdict(twin.equal_steps, twin.n_seeds, twin.why_not)}.")
    parts.append("\n".join(f"- {line}" for line in described(trial.spec)))
    which = f"--study {found.study} --trial {trial.number}"
    commands = [f"kdbench rerun {which}"]
    if trial.result is not None and not trial.spec.distillation.is_off:
        commands.append(f"kdbench rerun {which} --twin --seeds 3")
    if trial.result is not None:
        commands.append(f"kdbench export {which} --to trial-{trial.number}")
    return "\n\n".join([*parts, _block(commands)]) + "\n"


def duplicate_note(of: int, url: str) -> str:
    """Of a trial that was not trained, since its spec had been."""
    return f"**The same spec as trial [{of}]({url}{of})**, whose values it repeats.\n"


def _fate(found: Overview, trial: StoredTrial) -> str:
    if trial.state == "running":
        return "**Running**, or its process died: no result yet."
    if trial.failure is not None:
        return f"**{trial.state.capitalize()}**: {_plain(trial.failure.problem)}"
    if trial.number in found.front:
        return "**On the front**: no other trial is as good in every objective and better in one."
    return "**Complete**, and others beat it in every objective, or equal it and beat it in one."


def _against(found: Overview, trial: StoredTrial) -> str:
    result, anchor = trial.result, found.anchor
    assert result is not None
    name = f"{found.anchor_name}" if anchor else f"{found.anchor_name} (not measured)"
    rate = bd_rate_cell(result.bd_rate, " ")
    rows: list[tuple[str, ...]] = [("BD-rate % [95 %]", rate, "", "")]
    rows += _costs(result.complexity, _part(anchor, "complexity"))
    theirs = _part(anchor, "energy")
    rows.append(
        (
            "energy J/Mpx",
            *(figure(one.j_per_mpx) if one else UNKNOWN for one in (result.energy, theirs)),
            percent(energy_change_pct(result.energy, theirs)),
        )
    )
    for side in ("encode", "decode"):
        ours_s = getattr(result.rd, f"{side}_s_per_mpx")
        theirs_s = getattr(anchor.rd, f"{side}_s_per_mpx") if anchor else None
        change = percent(change_pct(ours_s, theirs_s))
        rows.append((f"{side} s/Mpx", figure(ours_s), figure(theirs_s), change))
    rows += [
        (
            head,
            span([getattr(p, key) for p in result.rd.points], digits),
            _span(anchor, key, digits),
            "",
        )
        for head, key, digits in (("PSNR dB", "psnr_db", 1), ("bpp", "bpp", 2))
    ]
    rows.append(("training", duration(result.seconds.get("training")), "", ""))
    return _table(("", f"trial {trial.number}", name, "Δ%"), rows)


def _span(anchor: CodecFigures | None, key: str, digits: int) -> str:
    return UNKNOWN if anchor is None else span([getattr(p, key) for p in anchor.rd.points], digits)


def _costs(ours: Complexity, theirs: Complexity | None) -> list[tuple[str, ...]]:
    columns: list[tuple[str, str, Callable[[Any], str]]] = [
        ("params", "params", count),
        ("kMAC/px", "kmac_per_px", figure),
        ("encoder kMAC/px", "encoder_kmac_per_px", figure),
        ("decoder kMAC/px", "decoder_kmac_per_px", figure),
        ("decode memory MiB", "peak_memory_bytes", mebibytes),
    ]
    pairs = [(head, form, _part(ours, key), _part(theirs, key)) for head, key, form in columns]
    return [(head, form(a), form(b), percent(change_pct(a, b))) for head, form, a, b in pairs]


def _part(whole: object, name: str) -> Any:
    """A figure of what may not have been measured."""
    return None if whole is None else getattr(whole, name)


def _energy(energy: CodecEnergy | None) -> list[str]:
    if energy is None:
        return ["Energy was not measured."]
    flags = [f"{r.operation}: {flag}" for r in (energy.encode, energy.decode) for flag in r.flags]
    said = "; ".join([f"{energy.decode.meter}, {energy.decode.detail}", *flags])
    text = f"**Energy ({energy.origin})**: {_plain(said)}."
    return [f"{text} {MODEL_NOTE[0].upper()}{MODEL_NOTE[1:]}" if energy.source == "model" else text]


def _dead(trial: StoredTrial) -> list[str]:
    terms = dead_terms(trial.result) if trial.result is not None else {}
    return [f"**Dead terms**, which pulled at nothing: {', '.join(terms)}."] if terms else []


def described(spec: TrialSpec) -> list[str]:
    """A spec in lines: one a part, its settings in their order; what is off is left out."""
    tree = plain(spec)
    lines = [f"**{part}**: {_settings(tree[part])}" for part in PARTS if tree.get(part)]
    return [*lines, f"**seed** {spec.seed}, hash {_code(spec.hash)}"]


def _settings(part: Mapping[str, Any]) -> str:
    """`width 16, kernel 5`; without what is nothing: null, 0 and false."""
    told = {key: value for key, value in part.items() if value not in (None, False, 0)}
    words = [f"{key.replace('_', ' ')} {_value(value)}" for key, value in told.items()]
    return ", ".join(words) or "nothing"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, Mapping):
        return f"({_settings(value)})"
    if isinstance(value, list):
        return " / ".join(map(_value, value))
    return _plain(str(value))


# --- Markdown --------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: names and messages hold what others wrote."""
    for sign in "\\`*_[]<>|#!":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ')}`"


def _short(value: str) -> str:
    """Hashes by their first digits."""
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """GitHub's Markdown; cells but the links of the first column are escaped."""
    aligned = ["---", *["--:"] * (len(heads) - 1)]
    lines = [
        [_plain(heads[0]), *map(_cell, heads[1:])],
        aligned,
        *(
            [row[0] if row[0].startswith("[") else _plain(row[0]), *map(_cell, row[1:])]
            for row in rows
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """With a wide space before it: the page leaves none between columns."""
    return f"\u2003{_plain(text)}"


def _block(commands: Sequence[str]) -> str:
    return "\n".join(["```bash", *commands, "```"])
