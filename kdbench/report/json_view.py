"""The JSON that others read; docs/json.md lists it, docs/schemas/ describe `show` and `bench`."""

from collections.abc import Sequence
from typing import Any

from kdbench.bench import CodecFigures, Comparison, compared
from kdbench.codec_table import CodecTable
from kdbench.records import (
    MEASUREMENT_PROTOCOL,
    SCHEMA,
    BDRate,
    CodecEnergy,
    Complexity,
    EnergyReading,
    RDCurve,
    Rung,
    TwinFigures,
    plain,
)
from kdbench.report.confirm import confirm
from kdbench.report.controls import curse, verdicts
from kdbench.report.overview import Overview
from kdbench.rerun import Reproduction
from kdbench.seeds import FreshSeeds, Run, SeedRuns
from kdbench.store import Measurement, StoredTrial
from kdbench.twin import Control, Match

Json = dict[str, Any]


def study_json(found: Overview) -> Json:
    """Everything known of a study: all trials, whatever their state, by number."""
    return {
        "study": found.study,
        "schema": SCHEMA,
        "protocol": found.protocol,
        "objectives": list(found.objectives),
        "front": list(found.front),
        "anchor": _anchor_json(found),
        "trials": [trial_json(found, trial) for trial in found.trials],
    }


def _anchor_json(found: Overview) -> Json:
    """What BD-rates and savings are against; null for what was not measured."""
    anchor = found.anchor
    return {
        "name": found.anchor_name,
        "sha": anchor and anchor.sha,
        "rd": rd_json(anchor.rd) if anchor else [],
        "complexity": complexity_json(anchor.complexity) if anchor else None,
        "energy": energy_json(anchor.energy) if anchor else None,
    }


def trial_json(found: Overview, trial: StoredTrial) -> Json:
    """One trial; what it never reached is null."""
    result = trial.result
    return {
        "number": trial.number,
        "state": trial.state,
        "on_front": trial.number in found.on_front,
        "objectives": found.values(trial),
        "rungs": [_rung(rung) for rung in trial.rungs],
        "energy": energy_json(result.energy) if result else None,
        "energy_trained": energy_json(trial.trained_energy),
        "measured": [measurement_json(found) for found in trial.measured],
        "twin": trial.twin and _twin_figures(trial.twin),
        "rd": rd_json(result.rd) if result else [],
        "bd_rate": bd_rate_json(result.bd_rate) if result else None,
        "complexity": complexity_json(result.complexity) if result else None,
        "seconds": plain(result.seconds) if result else None,
        "coding_s_per_mpx": _coding_seconds(result.rd) if result else None,
        "losses": plain(result.losses) if result else None,
        "gradient_shares": plain(result.gradient_shares) if result else None,
        "hashes": plain(result.hashes) if result else None,
        "environment": plain(result.environment) if result else None,
        "spec": plain(trial.spec),
        "spec_hash": trial.spec.hash,
        "reason": trial.reason,
        "fix": trial.failure.fix if trial.failure else None,
    }


def measurement_json(found: Measurement) -> Json:
    """Energy and time measured again: when, where, of which file."""
    return {
        "date": found.date,
        "energy": energy_json(found.energy),
        "student": found.student,
        "photo": found.photo,
        "environment": plain(found.environment),
    }


def _rung(rung: Rung) -> Json:
    return {"step": rung.step, "values": plain(rung.values), "seconds": rung.seconds}


def bench_json(
    figures: CodecFigures,
    skipped: Sequence[tuple[str, str]],
    comparison: Comparison,
) -> Json:
    """One codec on one set of images; `skipped` are files that could not be used, and why."""
    costs = complexity_json(figures.complexity)
    return {
        "codec": figures.codec,
        "schema": SCHEMA,
        "protocol": MEASUREMENT_PROTOCOL,
        "images": list(figures.rd.images),
        "skipped": [{"name": name, "why": why} for name, why in skipped],
        "rd": rd_json(figures.rd),
        "bd_rate": bd_rate_json(comparison.bd_rate),
        "anchor": comparison.anchor,
        "why_no_bd_rate": comparison.why_not,
        "params": costs and costs["params"],
        "kmac_per_px": costs and costs["kmac_per_px"],
        "peak_memory_bytes": costs and costs["peak_memory_bytes"],
        "energy": energy_json(figures.energy),
        "coding_s_per_mpx": _coding_seconds(figures.rd),
        "sha": figures.sha,
    }


def codec_table_json(found: CodecTable) -> Json:
    """The codecs that a study lists, each as `bench_json` has it; null: not measured yet."""
    measured = {
        name: bench_json(figures, [], _comparison(found, figures))
        for name, figures in found.figures.items()
    }
    return {
        "study": found.study,
        "schema": SCHEMA,
        "protocol": MEASUREMENT_PROTOCOL,
        "anchor": found.anchor,
        "codecs": {name: measured.get(name) for name in found.codecs},
    }


def _comparison(found: CodecTable, figures: CodecFigures) -> Comparison:
    if found.reference is None:
        why = f"{found.anchor} is not measured yet"
        return Comparison(anchor=found.anchor, bd_rate=None, why_not=why)
    return compared(figures, found.anchor, found.reference.rd)


def rerun_json(runs: Sequence[Reproduction], study: str) -> Json:
    """What `rerun --json` prints."""
    return {
        "study": study,
        "reruns": [
            {
                "number": run.number,
                "reproduced": run.identical,
                "within_interval": run.within_interval,
                "verdict": run.verdict,
                "steps": run.steps and {"then": run.steps[0], "now": run.steps[1]},
                "expected": run.expected,
                "same": dict(run.same),
                "changed": {k: {"then": a, "now": b} for k, (a, b) in run.changed.items()},
                "bd_rate_pct": {"then": run.first.bd_rate_pct, "now": run.second.bd_rate_pct},
                "bd_rate": {
                    "then": bd_rate_json(run.first.bd_rate),
                    "now": bd_rate_json(run.second.bd_rate),
                },
                "energy": {
                    "then": energy_json(run.first.energy),
                    "now": energy_json(run.second.energy),
                },
                "training_s": {
                    "then": run.first.seconds.get("training"),
                    "now": run.second.seconds.get("training"),
                },
                "difference": bd_rate_json(run.difference) if run.difference else None,
                "why_no_difference": run.why_not,
                "hashes": {"then": dict(run.first.hashes), "now": dict(run.second.hashes)},
            }
            for run in runs
        ],
    }


def seeds_json(found: Sequence[FreshSeeds], study: Overview) -> Json:
    """What `rerun --seeds --json` prints."""
    return {
        "study": study.study,
        "confirmation": plain(confirm(found, study)) if len(found) > 1 else None,
        "seeds": [
            {
                "number": fresh.number,
                "recorded": bd_rate_json(fresh.recorded.bd_rate),
                "runs": [_run_json(run) for run in fresh.runs],
                "mean_pct": fresh.mean_pct,
                "spread_pct": fresh.spread_pct,
                "winners_curse_pct": fresh.winners_curse_pct,
                "changed": {k: {"then": a, "now": b} for k, (a, b) in fresh.changed.items()},
                "verdict": curse(fresh),
                "wall_s": fresh.wall_s,
            }
            for fresh in found
        ],
    }


def _twin_figures(twin: TwinFigures) -> Json:
    """What distillation gave a member of the front."""
    return {
        "n_seeds": twin.n_seeds,
        "learning_rate": twin.learning_rate,
        "equal_steps": twin.equal_steps and bd_rate_json(twin.equal_steps),
        "equal_seconds": twin.equal_seconds and bd_rate_json(twin.equal_seconds),
        "why_not": twin.why_not,
        "wall_s": twin.wall_s,
    }


def twin_json(controls: Sequence[Control], study: str) -> Json:
    """What `rerun --twin --json` prints."""
    return {"study": study, "twins": [_control_json(control) for control in controls]}


def _control_json(control: Control) -> Json:
    longer, said = control.equal_seconds, verdicts(control)
    return {
        "number": control.number,
        "verdict": {name.replace(" ", "_"): text for name, text in said.items()},
        "equal_steps": _match_json(control.equal_steps),
        "equal_seconds": None if longer is None else _match_json(longer),
        "tuning": [_run_json(run) for run in control.tried],
        "learning_rate": control.learning_rate,
        "training_s": {
            "student": control.equal_steps.student.training_s,
            "twin": control.equal_steps.twin.training_s,
            "tuning": control.tuning_s,
        },
        "cache_s": control.cache_s,
        "wall_s": control.wall_s,
    }


def _match_json(match: Match) -> Json:
    return {
        "outcome": match.outcome,
        "bd_rate": bd_rate_json(match.bd_rate),
        "why_no_bd_rate": match.why_not,
        "by_seed": [found and bd_rate_json(found) for found in match.by_seed],
        "student": _side_json(match.student),
        "twin": _side_json(match.twin),
    }


def _side_json(side: SeedRuns) -> Json:
    return {
        "steps": side.steps,
        "mean_pct": side.mean_pct,
        "spread_pct": side.spread_pct,
        "training_s": side.training_s,
        "runs": [_run_json(run) for run in side.runs],
    }


def _run_json(run: Run) -> Json:
    return {
        "seed": run.spec.seed,
        "learning_rate": run.spec.training.learning_rate,
        "spec_hash": run.spec.hash,
        "bd_rate": bd_rate_json(run.result.bd_rate) if run.result else None,
        "validation_loss": run.validation_loss,
        "training_s": run.training_s,
        "why_not": run.why_not,
    }


def rd_json(curve: RDCurve) -> list[Json]:
    """The points of a curve by ascending bpp."""
    return [plain(point) for point in sorted(curve.points, key=lambda point: point.bpp)]


def bd_rate_json(bd_rate: BDRate | None) -> Json | None:
    """BD-rate and its 95 % interval [%], and the common quality [dB]; null where there is none."""
    values: Json | None = plain(bd_rate)
    return values


def complexity_json(complexity: Complexity | None) -> Json | None:
    """Parameters, kMAC per pixel by part and by side, peak memory of a decode."""
    if complexity is None:
        return None
    return {
        "params": complexity.params,
        "kmac_per_px": {
            "total": complexity.kmac_per_px,
            "encoder": complexity.encoder_kmac_per_px,
            "decoder": complexity.decoder_kmac_per_px,
            "g_a": complexity.g_a,
            "h_a": complexity.h_a,
            "h_s": complexity.h_s,
            "g_s": complexity.g_s,
            "entropy_model": complexity.entropy_model,
        },
        "peak_memory_bytes": complexity.peak_memory_bytes,
    }


def energy_json(energy: CodecEnergy | None) -> Json | None:
    """Energy of encode and decode with its origin; null where there is none."""
    if energy is None:
        return None
    memory = energy.peak_memory_bytes
    return {
        "source": energy.source,
        "meter": energy.decode.meter,
        "j_per_mpx": energy.j_per_mpx,
        "encode": _reading_json(energy.encode),
        "decode": _reading_json(energy.decode),
        "device": energy.device,
        **({} if energy.target is None else {"target": energy.target}),
        **({} if memory is None else {"peak_memory_bytes": memory}),
        "protocol": energy.decode.protocol,
    }


def _reading_json(reading: EnergyReading) -> Json:
    return {
        "source": reading.source,
        "detail": reading.detail,
        "mean_j_per_mpx": reading.mean_j_per_mpx,
        "spread_j_per_mpx": reading.spread_j_per_mpx,
        "gross_j_per_mpx": list(reading.gross_j_per_mpx),
        "net_j_per_mpx": plain(reading.net_j_per_mpx),
        "idle_before_w": reading.idle_before_w,
        "idle_after_w": reading.idle_after_w,
        "window_s": reading.window_s,
        "images_per_window": reading.images_per_window,
        "s_per_mpx": reading.s_per_mpx,
        "flags": list(reading.flags),
    }


def _coding_seconds(curve: RDCurve) -> Json:
    return {"encode": curve.encode_s_per_mpx, "decode": curve.decode_s_per_mpx}
