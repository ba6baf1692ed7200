"""What this machine can run and measure, and why not the rest. Looks, changes nothing."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from kdbench import __version__
from kdbench.errors import KdbenchError
from kdbench.store import Store

Verdict = Literal["ok", "missing", "broken"]
LOW_DISK_BYTES = 3 << 30  # a default study: 2 GiB of teacher outputs, crops, students


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What, e.g. `nvml`.
        verdict: `missing` is no fault, `broken` needs a hand.
        detail: What was found, or why not and what to do.
    """

    name: str
    verdict: Verdict
    detail: str


Sections = dict[str, list[Finding]]


def examine(store: Store) -> Sections:
    """Every finding by section, in the order in which it is read."""
    looks: dict[str, Callable[[], list[Finding]]] = {
        "versions": _versions,
        "devices": _devices,
        "meters": _meters,
        "teachers": _teachers,
        "packages": _brought,
        "photos": _photos,
        "studies": _studies,
        "storage": lambda: _storage(store),
    }
    found = {section: look() for section, look in looks.items()}
    return {section: findings for section, findings in found.items() if findings}


def doctor_json(sections: Sections) -> dict[str, Any]:
    """The findings as JSON: `{section: [{name, verdict, detail}]}`."""
    return {section: [f._asdict() for f in findings] for section, findings in sections.items()}


def _attempt(name: str, look: Callable[[], str]) -> Finding:
    """What `look` says, or why it could not."""
    try:
        return Finding(name, "ok", look())
    except KdbenchError as why:
        return Finding(name, "broken", f"{why.problem} ({why.fix})")


def _versions() -> list[Finding]:
    from kdbench.device import environment

    found = {"kdbench": __version__} | environment()
    return [Finding(name, "ok", version) for name, version in found.items()]


def _devices() -> list[Finding]:
    from kdbench.device import fingerprint, resolve, supports_bf16

    here = fingerprint("cpu", threads=1)
    bf16 = "bf16 in hardware" if supports_bf16("cpu") else "no bf16: trains in fp32"
    cpu = Finding("cpu", "ok", f"{here['cpu']}, {os.cpu_count()} cores, {bf16}")
    try:
        device = resolve("cuda")
    except KdbenchError as why:
        return [cpu, Finding("cuda", "missing", why.problem)]
    gpu = fingerprint(device, threads=1)
    return [cpu, Finding("cuda", "ok", f"{gpu['gpu']}, CUDA {gpu.get('cuda', '?')}")]


def _meters() -> list[Finding]:
    from kdbench.device import resolve
    from kdbench.energy import available

    findings = []
    device = resolve("auto")
    for status in available(device):
        if status.meter is None:
            findings.append(Finding(status.name, "missing", str(status.why_not)))
        else:
            detail = f"{status.meter.source}: {status.meter.detail}, on {device}"
            findings.append(Finding(status.name, "ok", detail))
    return findings


def _teachers() -> list[Finding]:
    from kdbench.cards import list_teachers

    known = list_teachers()
    own = [_attempt(f"teacher:{name}", partial(_card, path)) for name, path in known.items()]
    if not own:
        fix = "`kdbench teach NAME --images builtin` trains one, in hours"
        own = [Finding("teacher:default", "missing", fix)]
    return own + _zoo() + _plugins()


def _plugins() -> list[Finding]:
    """The teachers that installed packages bring, each loaded."""
    from kdbench import plugins
    from kdbench.foreign import OneRate, from_plugin

    def said(teacher: OneRate) -> str:
        offer = teacher.offer
        has = [f"M={offer.channels}"]
        has += [f"z of {offer.hyper_width}"] if offer.hyper_width else ["no z"]
        has += [f"Gaussians ({offer.prior})"] if offer.prior else ["no Gaussians"]
        return f"rd_lambda {teacher.rd_lambda:g}: {', '.join(has)}"

    def look(name: str) -> str:
        return "; ".join(map(said, from_plugin(name))) + "; no curve to check"

    names = [plugins.KIND + name for name in plugins.known()]
    return [_attempt(name, partial(look, name)) for name in names]


def _brought() -> list[Finding]:
    """Codec families and metrics that installed packages bring, each loaded; none without any."""
    from kdbench import families, metrics, plugins

    def axes(name: str) -> str:
        names = ", ".join(families.find(name).axes)
        return f"axes {names}; `kdbench check --codec {name}` tries it"

    def lambdas(name: str) -> str:
        return f"to train for; its rd_lambda is {metrics.find(name).lambdas_per_mse:g} of the MSE's"

    codecs = [_attempt(n, partial(axes, n)) for n in plugins.known(plugins.CODECS)]
    return codecs + [_attempt(n, partial(lambdas, n)) for n in plugins.known(plugins.METRICS)]


def _zoo() -> list[Finding]:
    """The files of CompressAI's zoo that are here, each read against its hash."""
    from kdbench import zoo

    def look(model: zoo.ZooModel) -> str:
        data, _ = zoo.read(model)
        rd_lambda = f"rd_lambda {model.rd_lambda:g}"
        return (
            f"{zoo.zoo_file(model).path}, {len(data) / 1e6:.1f} MB, {rd_lambda}, no curve to check"
        )

    found = [_attempt(str(model), partial(look, model)) for model in zoo.files_here()]
    folder = zoo.zoo_file(zoo.ZooModel("mbt2018-mean", 1)).path.parent
    return found or [Finding("zoo:MODEL/QUALITY", "missing", f"no file of the zoo in {folder}")]


def _card(path: Path) -> str:
    """One line on a teacher, once the whole file has been read and its weights fitted."""
    from kdbench.codecs.weights import load_codec

    model, card = load_codec(path)
    a = model.architecture
    parts = [
        f"N={a.encoder.width}/{a.decoder.width}, M={a.latent.channels}, {a.n_levels} levels, "
        f"prior {a.hyper.prior}"
        + (f", context {a.hyper.context}" if a.hyper.context != "none" else ""),
        f"{path.stat().st_size / 1e6:.1f} MB",
    ]
    training, photos = card.get("training", {}), card.get("photos", {})
    if "steps" in training and "n" in photos:
        parts.append(f"{training['steps']} steps on {photos['n']} photos")
    if card.get("rd"):
        low, high = card["rd"][0], card["rd"][-1]
        parts.append(
            f"{low['psnr_db']:.1f} dB at {low['bpp']:.2f} bpp to "
            f"{high['psnr_db']:.1f} dB at {high['bpp']:.2f} bpp"
        )
    else:
        parts.append("no curve in its card: not checked before it teaches")
    parts.append(str(card.get("licence") or "no licence named"))
    return ", ".join(parts)


def _photos() -> list[Finding]:
    from kdbench.data import Role, load_images, summary

    def look(role: Role) -> str:
        images = load_images("builtin", role)
        skipped = f"; skipped {summary(images.skipped)}" if images.skipped else ""
        return f"{images.n} photos, {images.pixels / 1e6:.1f} megapixels{skipped}"

    return [_attempt(f"builtin {role}", partial(look, role)) for role in get_args(Role)]


def _studies() -> list[Finding]:
    from kdbench import recipes
    from kdbench.check import check_files

    findings = []
    for name, path in recipes.known("studies").items():
        problems = check_files([name])
        detail = (
            f"{len(problems)} problem(s), see `kdbench check {name}`" if problems else str(path)
        )
        findings.append(Finding(name, "broken" if problems else "ok", detail))
    return findings or [Finding("studies", "broken", "none found: kdbench is not installed whole")]


def _storage(store: Store) -> list[Finding]:
    return [
        _attempt("root", lambda: _writable(store.root)),
        _attempt("cache", lambda: _writable(store.cache)),
        _attempt("temporary files", lambda: _writable(Path(tempfile.gettempdir()))),
        _attempt("sqlite", lambda: _sqlite(store.root)),
        _attempt("stored studies", lambda: ", ".join(store.studies()) or "none yet"),
    ]


def _writable(folder: Path) -> str:
    """The folder and its free space, once a file was written there or in what will hold it."""
    holder = _existing(folder)
    Store(holder).require_writable()
    free = shutil.disk_usage(holder).free
    short = (
        f", less than the {LOW_DISK_BYTES >> 30} GiB of a study" if free < LOW_DISK_BYTES else ""
    )
    made = "" if holder == folder else ", made when needed"
    return f"{folder}, {free / 2**30:.1f} GiB free{short}{made}"


def _existing(folder: Path) -> Path:
    """`folder`, or what is nearest above it and there: a folder, or a file in its way."""
    return next(f for f in (folder, *folder.parents) if f.exists())


def _sqlite(folder: Path) -> str:
    """SQLite's version, once a database was written and locked beside the studies."""
    holder = _existing(folder)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".kdbench-doctor-", dir=holder) as made,
            closing(sqlite3.connect(Path(made) / "probe.db", timeout=5)) as database,
            database,
        ):
            database.execute("CREATE TABLE probe (value INTEGER)")
            database.execute("INSERT INTO probe VALUES (1)")
    except (sqlite3.Error, OSError) as why:
        raise KdbenchError(
            f"no SQLite database can be kept in {holder}: {why}",
            fix="choose a local disk with --root, or a server with --storage postgresql://...",
        ) from None
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{sqlite3.sqlite_version} works in {holder} (Python {python})"
