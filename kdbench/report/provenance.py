"""Where a study's figures come from: what was searched, how long, on what, measured how."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdbench.records import CodecEnergy
from kdbench.report.courses import busy_s
from kdbench.report.document import Entries
from kdbench.report.gather import Gathered
from kdbench.report.units import duration, figure

PARTS = ("cost", "cache", "start", "energy", "training", "evaluation", "score")


def searched(study: Gathered) -> Entries:
    """The space, the sampler and what every trial has in common."""
    settings = study.stored.settings
    pairs = [
        ("minimised", ", ".join(study.found.objectives)),
        ("space", str(settings.get("space", {}).get("name", "not recorded"))),
        *((name, text) for name, text in _axes(settings.get("space", {}))),
    ]
    limits = {k: v for k, v in settings.get("constraints", {}).items() if v is not None}
    if limits:
        pairs.append(("limits", ", ".join(f"{k} {v:,.0f}" for k, v in limits.items())))
    if "sampler" in settings:
        sampler = settings["sampler"]
        text = f"{sampler['name']}, seed {settings.get('seed')}"
        if sampler.get("enqueue"):
            text += f"; first the {sampler['enqueue']}"
        pairs.append(("sampler", text))
    if "training" in settings:
        plan = settings["training"]
        pairs.append(
            (
                "training",
                f"{plan['steps']} steps of {plan['batch']} crops of {plan['crop_px']} px, "
                f"rd_lambda {', '.join(map(str, plan['rd_lambdas']))}, "
                f"distortion {plan['distortion']}",
            )
        )
    if "data" in settings:
        data = settings["data"]
        roles = ("train", "validation", "evaluation")
        pairs.append(("photos", ", ".join(f"{role}: {data[role]}" for role in roles)))
    return Entries(pairs=tuple(pairs))


def _axes(space: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Every choice that the space leaves open, with what it may be."""
    for key, value in space.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, list) and len(value) > 1:
            yield name, ", ".join(map(str, value))
        elif isinstance(value, Mapping) and {"low", "high"} <= value.keys():
            scale = ", by its logarithm" if value.get("log") else ""
            yield name, f"{figure(value['low'])} to {figure(value['high'])}{scale}"
        elif isinstance(value, Mapping):
            yield from _axes(value, f"{name} ")


def took(study: Gathered) -> Entries:
    """Seconds of all finished trials, by part."""
    results = study.found.results.values()
    states = Counter(str(trial.state) for trial in study.found.trials)
    pairs = [("trials", ", ".join(f"{n} {state}" for state, n in states.items()) or "none")]
    if results:
        total = Counter[str]()
        for result in results:
            total.update(result.seconds)
        parts = [f"{name} {duration(total[name])}" for name in PARTS if total[name] >= 0.5]
        busy = sum(busy_s(result) for result in results)
        pairs.append(("finished trials", f"{duration(busy)} of one thread each"))
        pairs.append(("of these", ", ".join(parts)))
        if total["waiting"] >= 0.5:
            pairs.append(("waited besides", f"{duration(total['waiting'])} for measurements"))
    return Entries(pairs=tuple(pairs))


def machine(study: Gathered) -> Entries:
    """Device and versions; each value once, with how many trials had it where they differ."""
    results = study.found.results
    values: dict[str, Counter[str]] = {}
    for result in results.values():
        for name, value in result.environment.items():
            values.setdefault(name, Counter())[value] += 1
    pairs = []
    for name, found in values.items():
        n = sum(found.values())
        alike = len(found) == 1 and n == len(results)
        text = "; ".join(v if alike else f"{v} ({k} of {len(results)})" for v, k in found.items())
        pairs.append((name.replace("_", " "), text))
    target = {
        key.removeprefix("target.device."): value
        for key, value in study.stored.fixed.items()
        if key.startswith("target.device.")
    }
    if target:
        text = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in target.items())
        head = f"target {study.stored.settings.get('target')}, which measured energy"
        pairs.append((head, text))
    return Entries(pairs=tuple(pairs) or (("not known", "no trial has finished"),))


def measuring(study: Gathered) -> Entries:
    """Protocol, photos, anchor, and where joules come from."""
    found, photos = study.found, study.photos
    protocol = "not known yet" if found.protocol is None else str(found.protocol)
    sha = study.anchor_sha
    pairs = [
        ("protocol", f"{protocol}; figures of two protocols do not compare"),
        ("anchor", f"{found.anchor_name}, sha256 {sha or 'not recorded'}"),
        ("evaluation photos", f"{len(photos)}: {', '.join(photos)}" if photos else "not known yet"),
        ("BD-rate", "Akima, real bitstreams, 95 % by a paired bootstrap over the photos"),
        *_energies([r.energy for r in found.results.values() if r.energy is not None]),
    ]
    if study.codecs_from:
        pairs.append(("other codecs", f"measured by study {', '.join(study.codecs_from)}"))
    pairs += [("note", text) for text in study.left_out]
    return Entries(pairs=tuple(pairs))


def _energies(energies: Sequence[CodecEnergy]) -> list[tuple[str, str]]:
    if not energies:
        return [("energy", "not measured")]
    readings = [reading for energy in energies for reading in (energy.encode, energy.decode)]
    meters = Counter(
        f"{r.source}: {r.meter}, {r.detail}" + (f"; on {e.target}" if e.target else "")
        for e in energies
        for r in (e.encode, e.decode)
    )
    windows = sorted({len(r.gross_j_per_mpx) for r in readings})
    shortest = min(reading.window_s for reading in readings)
    flagged = sum(bool(energy.encode.flags or energy.decode.flags) for energy in energies)
    return [
        ("energy", "; ".join(meters)),
        (
            "windows",
            f"{' or '.join(map(str, windows))} an operation, {shortest:.1f} s at least, of one "
            "photo; before training, on the started student",
        ),
        ("flagged", f"{flagged} of {len(energies)} (noisy, quick or drifting; see the JSON)"),
    ]
