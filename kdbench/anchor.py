"""The curve that a study's BD-rates are measured against, and any codec by its name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench import package, zoo
from kdbench.adopt import adopted
from kdbench.codecs.base import Image
from kdbench.codecs.classical import CLASSICAL, classical
from kdbench.codecs.weights import file_sha
from kdbench.data import ImageSet
from kdbench.errors import CodecError
from kdbench.evaluate import (
    Evaluation,
    classical_samples,
    evaluate_classical,
    evaluate_files,
    learned_samples,
)
from kdbench.guides import joined_sha
from kdbench.lease import host_lease
from kdbench.names import nearest_first
from kdbench.once import cached
from kdbench.records import MEASUREMENT_PROTOCOL, Bench, RDCurve, content_hash
from kdbench.samples import Sample
from kdbench.store import Store, StoredTrial
from kdbench.teacher import teacher_path


def codec_files(
    name: str, *, cache: Path | None = None, store: Store | None = None
) -> tuple[Path, ...]:
    """The file of a learned codec by name, or one a rate; none for a classical codec.

    The folder of a package, `teacher:NAME`, `file:PATH`, `trial:STUDY/N`, `zoo:MODEL/QUALITY`,
    `zoo:MODEL/FIRST-LAST`. Where `cache` is given the zoo's models are written there as codecs
    (`adopt`).

    Raises:
        CodecError: No codec of this name.
    """
    kind, _, rest = name.partition(":")
    if name in CLASSICAL:
        return ()
    if kind == "trial" and store is not None:
        return _students(name, rest, store)
    if kind == "zoo" and cache is not None:
        return tuple(adopted(model, cache) for model in zoo.parse(name))
    if kind in ("teacher", "file") and rest:
        return (teacher_path(name),)
    if Path(name).is_dir():
        return (package.codec_file(Path(name)),)
    raise CodecError(
        f"there is no codec {name!r}",
        fix="use the folder of a package, teacher:NAME, file:PATH, trial:STUDY/N, "
        "zoo:MODEL/QUALITY, " + ", ".join(nearest_first(name, sorted(CLASSICAL))),
    )


def _students(name: str, rest: str, store: Store) -> tuple[Path, ...]:
    study, _, number = rest.rpartition("/")
    if not study or not number.isdecimal() or len(number) > 18:
        raise CodecError(f"{name!r} names no trial", fix="write trial:STUDY/NUMBER")
    paths = recorded_students(store.load_trial(study, int(number)))
    if not paths:
        raise CodecError(
            f"trial {number} of {study} has no trained student",
            fix=f"`kdbench show --study {study}` lists the trials that have",
        )
    return paths


def recorded_students(trial: StoredTrial) -> tuple[Path, ...]:
    """The trained models of `trial`, by ascending rate; none where it has none.

    Raises:
        CodecError: They are not the files that its result names.
    """
    paths = trial.folder.students
    known = None if trial.result is None else trial.result.hashes.get("weights")
    if paths and known is not None and joined_sha([file_sha(path) for path in paths]) != known:
        which = str(paths[0]) if len(paths) == 1 else f"one of the students in {trial.folder.path}"
        raise CodecError(
            f"{which} is not the file that the trial's result names",
            fix="restore it from a copy; or train it again with "
            f"`kdbench rerun --study {trial.folder.path.parents[1].name} --trial {trial.number}`",
        )
    return paths


def located(name: str, store: Store) -> str:
    """`name`, or the file that `trial:STUDY/N` means: a trial itself knows no other trials.

    Raises:
        CodecError: No such trial, or one of several files.
    """
    if not name.startswith("trial:"):
        return name
    study, _, number = name.removeprefix("trial:").rpartition("/")
    if number.isdecimal() and len(each := store.trial(study, int(number)).students) > 1:
        raise CodecError(
            f"{name} has a model for each of {len(each)} rates, and one file is needed",
            fix=f"name one of them, file:{each[0]}",
        )
    (path,) = codec_files(name, store=store)
    return f"file:{path}"


def at_home(bench: Bench, store: Store) -> Bench:
    """`bench`, whose anchor and start are files where they are trials of `store`.

    Raises:
        CodecError: See `located`.
    """
    start = None if bench.start is None else located(bench.start, store)
    return replace(bench, anchor=located(bench.anchor, store), start=start)


def evaluate_by_name(
    name: str,
    images: ImageSet,
    *,
    device: str,
    cache: Path | None = None,
    store: Store | None = None,
    on_progress: Callable[[int, int], None] = lambda done, n: None,
) -> Evaluation:
    """The curve of any codec over `images`, from real bitstreams, while nobody measures energy.

    Raises:
        CodecError: No codec of this name, or its bitstreams do not decode.
    """
    paths, lease = codec_files(name, cache=cache, store=store), host_lease()

    def coded(done: int, n: int) -> None:
        on_progress(done, n)
        lease.yield_if_wanted(device)

    with lease.shared():
        if not paths:
            return evaluate_classical(classical(name), images, on_progress=coded)
        return evaluate_files(paths, images, device=device, on_progress=coded)


def samples_by_name(
    name: str, image: Image, *, device: str, cache: Path, store: Store
) -> tuple[Sample, ...]:
    """One photo as any codec gives it back, at every level, while nobody measures energy.

    Raises:
        CodecError: No codec of this name, or a damaged one.
    """
    paths = codec_files(name, cache=cache, store=store)
    with host_lease().shared():
        if not paths:
            return classical_samples(classical(name), image)
        found = [learned_samples(path, image, device) for path in paths]
    if len(found) == 1:
        return found[0]
    every = (sample for one in found for sample in one)
    return tuple(replace(sample, level=level) for level, sample in enumerate(every))


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Name, identity and curve of an anchor; `sha` is the hash of its file, or its name."""

    name: str
    sha: str
    curve: RDCurve


def anchor_sha(name: str, *, cache: Path, store: Store | None = None) -> str:
    """What identifies the anchor: a better default teacher must not change old BD-rates."""
    shas = [file_sha(path) for path in codec_files(name, cache=cache, store=store)]
    return joined_sha(shas) if shas else name


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
    sha = anchor_sha(name, cache=cache, store=store)
    key = content_hash([sha, images.sha, images.names, device, MEASUREMENT_PROTOCOL])

    def compute() -> RDCurve:
        found = evaluate_by_name(
            name, images, device=device, cache=cache, store=store, on_progress=on_progress
        )
        return found.curve

    return Anchor(name=name, sha=sha, curve=cached(cache / f"curve-{key}.json", RDCurve, compute))
