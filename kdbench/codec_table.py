"""A study that lists codecs: each is measured once, on the same photos, and kept as soon as it is.

Nothing is searched or trained. `kdbench search` measures what is not kept yet, `kdbench show`
prints the tables from what is.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench.bench import CodecFigures, load_anchor
from kdbench.errors import KdbenchError, StoreError
from kdbench.files import load, write_json
from kdbench.records import MEASUREMENT_PROTOCOL
from kdbench.store import Store, StoredStudy

if TYPE_CHECKING:  # who only asks whether a study lists codecs needs no settings
    from kdbench.config import CodecList

Watch = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecTable:
    """What is kept of such a study.

    Attributes:
        codecs: Names, in the order of the study file.
        figures: Of those that are measured, by name.
        reference: What they are compared with; None until it is measured.
    """

    study: str
    codecs: tuple[str, ...]
    anchor: str
    figures: dict[str, CodecFigures]
    reference: CodecFigures | None


def is_codec_table(stored: StoredStudy) -> bool:
    """Whether a stored study lists codecs."""
    return "codecs" in stored.settings


def load_codec_table(store: Store, study: str) -> CodecTable:
    """What is kept of `study`.

    Raises:
        StoreError: No such study, or a damaged file.
        KdbenchError: It was measured by other procedures than today's.
    """
    from kdbench.config import codec_list_from_settings

    stored = store.load_study(study)
    if (then := stored.fixed.get("protocol")) != str(MEASUREMENT_PROTOCOL):
        raise KdbenchError(
            f"study {study!r} was measured by procedure {then}, this kdbench has "
            f"{MEASUREMENT_PROTOCOL}",
            fix="begin another one with this kdbench: `--set name=NAME`",
        )
    cfg = codec_list_from_settings(stored.settings, f"study.json of {study}")
    found = {}
    for i, name in enumerate(cfg.codecs):
        path = store.codec_file(study, i)
        if path.is_file():
            found[name] = load(path, CodecFigures)
    return CodecTable(
        study=study,
        codecs=cfg.codecs,
        anchor=cfg.anchor,
        figures=found,
        reference=load_anchor(store, study),
    )


def measure(
    cfg: "CodecList", store: Store, *, device: str | None = None, watch: Watch
) -> CodecTable:
    """Measures every codec of `cfg` that is not kept yet, the reference first.

    Args:
        cfg: What to measure, on which photos.
        store: Where figures are kept, and trials are found.
        device: Where codecs run; None: as `cfg` says.
        watch: Shows the progress of the codec it is given the name of.

    Raises:
        StoreError: The study began with other settings.
        KdbenchError: A codec is not here or cannot be measured; those before it are kept.
    """
    from kdbench.anchor import codec_files, located
    from kdbench.bench import bench_codec, keep_anchor
    from kdbench.data import load_images
    from kdbench.device import resolve
    from kdbench.records import Bench

    store.require_writable()
    images = load_images(cfg.data.evaluation, "evaluation")
    for name in (cfg.anchor, *cfg.codecs):
        codec_files(name, cache=store.cache, store=store)  # one that is not here is told first
    _begin(cfg, store)
    bench: Bench = Bench(
        data=cfg.data,
        anchor=located(cfg.anchor, store),
        energy=cfg.energy,
        device=resolve(device or cfg.device),
        precision="fp32",
        threads=1,
        cache=str(store.cache),
    )
    with watch(cfg.anchor) as told:
        reference = keep_anchor(store, cfg.name, bench, told)
    for i, name in enumerate(cfg.codecs):
        path = store.codec_file(cfg.name, i)
        if path.is_file():
            _require_same_codec(name, load(path, CodecFigures), store)
            continue
        with watch(name) as told:
            write_json(path, bench_codec(name, images, bench, store, on_progress=told))
    _require_same_photos(cfg, store, reference)
    return load_codec_table(store, cfg.name)


def _begin(cfg: "CodecList", store: Store) -> None:
    from kdbench.config import codec_list_settings

    settings: dict[str, Any] = codec_list_settings(cfg)
    fixed = {"protocol": str(MEASUREMENT_PROTOCOL)}
    if store.create_study(StoredStudy(name=cfg.name, settings=settings, fixed=fixed)):
        return
    stored = store.load_study(cfg.name)
    if dict(stored.settings) != settings or stored.fixed.get("protocol") != fixed["protocol"]:
        raise StoreError(
            f"study {cfg.name!r} in {store.study_folder(cfg.name)} began with other settings",
            fix="go on with the settings it began with, or begin another one: `--set name=NAME`",
        )


def _require_same_codec(name: str, kept: CodecFigures, store: Store) -> None:
    from kdbench.anchor import anchor_sha

    if kept.sha != anchor_sha(name, cache=store.cache, store=store):
        raise StoreError(
            f"{name} is another one than that which this study measured",
            fix="begin another study, `--set name=NAME`, or bring the first one back",
        )


def _require_same_photos(cfg: "CodecList", store: Store, reference: CodecFigures) -> None:
    for name, figures in load_codec_table(store, cfg.name).figures.items():
        if figures.rd.images != reference.rd.images:
            raise KdbenchError(
                f"{name} was measured on other photos than {cfg.anchor}: {cfg.data.evaluation} "
                "changed since the study began",
                fix="begin another one, `--set name=NAME`",
            )
