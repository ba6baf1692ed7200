"""The curve that a study's BD-rates are measured against, and any codec by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdbench.codecs.classical import CLASSICAL, classical
from kdbench.codecs.weights import file_sha
from kdbench.data import ImageSet
from kdbench.errors import CodecError
from kdbench.evaluate import Evaluation, evaluate_classical, evaluate_learned
from kdbench.files import cached
from kdbench.lease import host_lease
from kdbench.records import MEASUREMENT_PROTOCOL, RDCurve, content_hash
from kdbench.store import Store
from kdbench.teacher import teacher_path
from kdbench.yamlfile import nearest_first


def codec_path(name: str, store: Store | None = None) -> Path | None:
    """The file of a learned codec by name (`teacher:NAME`, `file:PATH`, `trial:STUDY/N`).

    None for a classical codec.

    Raises:
        CodecError: No codec of this name.
    """
    kind, _, rest = name.partition(":")
    if name in CLASSICAL:
        return None
    if kind == "trial" and store is not None:
        study, _, number = rest.rpartition("/")
        if not study or not number.isdecimal():
            raise CodecError(f"{name!r} names no trial", fix="write trial:STUDY/NUMBER")
        path = store.load_trial(study, int(number)).folder.student
        if not path.is_file():
            raise CodecError(
                f"trial {number} of {study} has no trained student",
                fix=f"`kdbench show --study {study}` lists the trials that have",
            )
        return path
    if kind in ("teacher", "file") and rest:
        return teacher_path(name)
    raise CodecError(
        f"there is no codec {name!r}",
        fix="use teacher:NAME, file:PATH, trial:STUDY/N, "
        + ", ".join(nearest_first(name, sorted(CLASSICAL))),
    )


def located(name: str, store: Store) -> str:
    """`name`, or the file that `trial:STUDY/N` means: a trial itself knows no other trials."""
    if not name.startswith("trial:"):
        return name
    return f"file:{codec_path(name, store)}"


def evaluate_by_name(
    name: str,
    images: ImageSet,
    *,
    device: str,
    store: Store | None = None,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Evaluation:
    """The curve of any codec over `images`, from real bitstreams, while nobody measures energy.

    Raises:
        CodecError: No codec of this name, or its bitstreams do not decode.
    """
    path, lease = codec_path(name, store), host_lease()

    def coded(done: int, n: int) -> None:
        on_progress(done, n)
        lease.yield_if_wanted(device)

    with lease.shared():
        if path is None:
            return evaluate_classical(classical(name), images, on_progress=coded)
        return evaluate_learned(path, images, device=device, on_progress=coded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Name, identity and curve of an anchor; `sha` is the hash of its file, or its name."""

    name: str
    sha: str
    curve: RDCurve


def anchor_sha(name: str, store: Store | None = None) -> str:
    """What identifies the anchor: a better default teacher must not change old BD-rates."""
    path = codec_path(name, store)
    return name if path is None else file_sha(path)


def anchor_curve(
    name: str,
    images: ImageSet,
    *,
    device: str,
    cache: Path,
    store: Store | None = None,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Anchor:
    """The anchor's curve over `images`, measured once per file, photos and device."""
    sha = anchor_sha(name, store)
    key = content_hash([sha, images.sha, images.names, device, MEASUREMENT_PROTOCOL])

    def compute() -> RDCurve:
        found = evaluate_by_name(name, images, device=device, store=store, on_progress=on_progress)
        return found.curve

    return Anchor(name=name, sha=sha, curve=cached(cache / f"curve-{key}.json", RDCurve, compute))
