"""What is kept, and where: the only module that knows the paths under `runs/`.

runs/cache/                    teacher outputs, anchor curves, energies: shared by all studies
runs/<study>/study.json        what the study was resolved to, written once
runs/<study>/root.json         by which workers know that they share the study's root, or that this
                               one holds copies of what its workers upload
runs/<study>/optuna.db         Optuna's own memory; can be rebuilt from the folders
runs/<study>/workers/<i>.json  what worker i does just now; <i>.log what it printed
runs/<study>/slurm.json        numbers of the arrays that Slurm was given, of studies it runs
runs/<study>/trials/<n>/       spec.json, then result.json or failure.json; log.jsonl;
                               student.safetensors, or student-<i>.safetensors of rate i where
                               each has its own; of the front's members energy_trained.json and,
                               where the study asks for twins, twin.json; rungs.json of studies
                               with a ladder; reconstruction.json and .png, a cut of a photo;
                               measured-<k>.json, what `measure` found later
runs/<study>/crops/            the same cut of the photo itself and of every level of the anchor
runs/<study>/codecs/<i>.json   figures of codec i, of a study that lists codecs
runs/<study>/notes.json        what people wrote in the dashboard
runs/<study>/reruns/<k>/<n>/   what `rerun` trained again: one run of trial n, or with --seeds and
                               --twin a folder for each training
"""

import os
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Literal

from kdbench.errors import StoreError
from kdbench.files import (
    damaged,
    load,
    require_writable,
    unreadable,
    write_atomic,
    write_json,
    write_once,
    writing,
)
from kdbench.names import PLAIN
from kdbench.records import (
    HASHED_SINCE,
    SCHEMA,
    CodecEnergy,
    Progress,
    Reconstruction,
    Rung,
    TrialResult,
    TrialSpec,
    TwinFigures,
)

State = Literal["complete", "stopped", "refused", "infeasible", "failed", "running"]
CACHE = "cache"
_RESULT = "result.json"
_FAILURE = "failure.json"
_RUNGS = "rungs.json"
_TRAINED = "energy_trained.json"
_TWIN = "twin.json"
_MEASURED = re.compile(r"measured-\d+\.json")
_NEWS = (".json", ".png", ".safetensors")
PNG_HEAD, PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
STUDY_NAME = re.compile(rf"(?!{CACHE}$){PLAIN}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """What a study was resolved to when it began.

    Attributes:
        settings: As `config.settings` gives them.
        fixed: What the machine added and a resume must find again: `anchor`, `teacher` (file
            hashes), `device` (fingerprint), `meter`, ...
    """

    name: str
    settings: Mapping[str, Any]
    fixed: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class RootMark:
    """Which study a folder belongs to, more surely than by its name.

    Attributes:
        token: Of the study; its database has the same.
        is_copy: Whether others have the study's own folder, and workers here upload to it.
    """

    token: str
    is_copy: bool = False
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a trial has no result.

    Attributes:
        state: `infeasible` if the student breaks a rule of the study, `stopped` if others were
            better at a rung of the ladder, `refused` if its costs left it no hope of the front,
            `failed` if the trial broke.
        values: What was known by then, e.g. the costs that a constraint refused.
    """

    state: Literal["stopped", "refused", "infeasible", "failed"]
    problem: str
    fix: str
    values: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """What one worker process last said of itself.

    Attributes:
        trial: Number of the trial it runs; None between trials.
        updated_s: When it said so [s since 1970].
        host: Name of its machine; None where an older kdbench wrote it.
        job: Its task of a Slurm array; None elsewhere.
    """

    index: int
    pid: int
    trial: int | None
    progress: Progress
    updated_s: float
    host: str | None = None
    job: str | None = None
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpecFile:
    """A spec with its hash, so that a spec changed by hand is noticed."""

    hash: str
    spec: TrialSpec
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class _EnergyFile:
    """Energy of a trained student."""

    energy: CodecEnergy
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Energy and time of a trained student, measured again, here or elsewhere.

    Attributes:
        date: When it was measured, ISO 8601 in UTC.
        student: SHA-256 of the codec file.
        environment: Versions and the device's fingerprint, as a result has them.
        photo: What was coded, by its name.
    """

    energy: CodecEnergy
    date: str
    student: str
    environment: Mapping[str, str]
    photo: str
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class _RungsFile:
    """What a trial showed on its way."""

    rungs: tuple[Rung, ...]
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class _TwinFile:
    """A student against its twin."""

    twin: TwinFigures
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What people wrote about a study, in Markdown.

    Attributes:
        study: None where nobody wrote about the study as a whole.
        trials: By the number of the trial.
    """

    study: str | None = None
    trials: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class _CropsFile:
    """What is written beside cuts of a photo."""

    crops: tuple[Reconstruction, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class TrialFolder:
    """The files of one trial."""

    path: Path

    @cached_property
    def number(self) -> int:
        """Optuna's number of the trial."""
        return int(self.path.name)

    @property
    def spec(self) -> Path:
        """What the trial was told."""
        return self.path / "spec.json"

    @property
    def result(self) -> Path:
        """What it found."""
        return self.path / _RESULT

    @property
    def failure(self) -> Path:
        """Why it found nothing."""
        return self.path / _FAILURE

    @property
    def log(self) -> Path:
        """Losses while it trained, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def student(self) -> Path:
        """The trained codec."""
        return self.path / "student.safetensors"

    def student_of(self, i: int, n: int) -> Path:
        """Model `i` of `n`, one a rate; the trained codec itself where it is one."""
        return self.student if n == 1 else self.path / f"student-{i}.safetensors"

    @property
    def students(self) -> tuple[Path, ...]:
        """Every trained model that is here, by ascending rate."""
        if self.student.is_file():
            return (self.student,)
        found = self.path.glob("student-*.safetensors")
        return tuple(sorted(found, key=lambda path: int(path.stem.rpartition("-")[2])))

    @property
    def kept(self) -> tuple[Path, ...]:
        """Files for people to look into or to take away; those that are not there yet, too."""
        told = (self.spec, self.result, self.failure, self.rungs, self.trained_energy, self.twin)
        return (*told, *self.measured, self.log, *self.students)

    @property
    def whole(self) -> tuple[Path, ...]:
        """All that is worth a copy elsewhere and is here: no checkpoints."""
        here = (*self.kept, self.crop, self.crop.with_suffix(".json"))
        return tuple(path for path in here if path.is_file())

    @property
    def rungs(self) -> Path:
        """What it showed at each rung, of studies with a ladder."""
        return self.path / _RUNGS

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Of the models in training and, until the trial has a result, of the finished ones."""
        return tuple(self.path.glob("*.checkpoint"))

    def forget_checkpoints(self) -> None:
        """Remove them: nobody will go on from them."""
        for checkpoint in self.checkpoints:
            with writing(checkpoint):
                checkpoint.unlink(missing_ok=True)

    @property
    def trained_energy(self) -> Path:
        """Energy of the trained codec, of members of the front only."""
        return self.path / _TRAINED

    @property
    def measured(self) -> tuple[Path, ...]:
        """What `measure` found later, first one first."""
        return self.measured_of(os.listdir(self.path) if self.path.is_dir() else ())

    def measured_of(self, names: Iterable[str]) -> tuple[Path, ...]:
        """The same, where the names of all files here are known."""
        found = [self.path / name for name in names if _MEASURED.fullmatch(name)]
        return tuple(sorted(found, key=lambda path: int(path.stem.rpartition("-")[2])))

    @property
    def crop(self) -> Path:
        """A cut of the first evaluation photo, as the trained codec gives it back."""
        return self.path / "reconstruction.png"

    def save_crop(self, what: Reconstruction, png: bytes) -> None:
        """Keep that cut, and what is written beside it."""
        write_atomic(self.crop, png)
        write_json(self.crop.with_suffix(".json"), _CropsFile(crops=(what,)))

    def load_crop(self) -> tuple[Reconstruction, bytes] | None:
        """That cut; None of trials that kept none.

        Raises:
            StoreError: A damaged file.
        """
        said = self.crop.with_suffix(".json")
        if not said.is_file():
            return None
        (what,) = load(said, _CropsFile).crops
        return what, _png(self.crop)

    @property
    def twin(self) -> Path:
        """What distillation gave, of members of the front whose study asks for twins."""
        return self.path / _TWIN


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrial:
    """One trial as its folder tells it, no database asked.

    Attributes:
        trained_energy: Measured again after training; `result.energy` is from before. None of
            trials that were not on the front when their search ended.
        twin: The student against its twin, likewise, where the study asks for twins.
        rungs: What it showed on its way, of studies with a ladder.
        measured: Energy and time again, first one first (see `save_measurement`).
        spec_hash: Of the spec, as the search that ran the trial knew it; None of those from when
            specs had other hashes.
    """

    folder: TrialFolder
    spec: TrialSpec
    spec_hash: str | None = None
    result: TrialResult | None = None
    failure: Failure | None = None
    trained_energy: CodecEnergy | None = None
    twin: TwinFigures | None = None
    rungs: tuple[Rung, ...] = ()
    measured: tuple[Measurement, ...] = ()

    @property
    def number(self) -> int:
        """Optuna's number of the trial."""
        return self.folder.number

    @property
    def state(self) -> State:
        """`running` also where the process died: a folder cannot tell."""
        if self.result is not None:
            return "complete"
        return "running" if self.failure is None else self.failure.state

    @property
    def energy_shift_pct(self) -> float | None:
        """Energy after training over that before [%]; None where one is missing."""
        before = None if self.result is None else self.result.energy
        if before is None or self.trained_energy is None:
            return None
        return 100 * (self.trained_energy.j_per_mpx / before.j_per_mpx - 1)

    @property
    def reason(self) -> str | None:
        """Why a stopped, refused, infeasible or failed trial has no result."""
        return None if self.failure is None else self.failure.problem


class Store:
    """Studies, trials and caches under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @classmethod
    def locate(cls, root: str | Path | None = None) -> "Store":
        """The store at `root` (`--root`), else at KDBENCH_ROOT, else at ./runs."""
        return cls(Path(root or os.environ.get("KDBENCH_ROOT") or "runs"))

    @property
    def cache(self) -> Path:
        """Folder of what studies and trials share: KDBENCH_CACHE, say on a disk of this machine."""
        return Path(os.environ.get("KDBENCH_CACHE") or self.root / CACHE).absolute()

    def require_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StoreError: The root cannot be written, or its disk is full.
        """
        require_writable(self.root)

    # --- studies

    def studies(self) -> tuple[str, ...]:
        """Names of the studies that have begun here."""
        return tuple(sorted(path.parent.name for path in self.root.glob("*/study.json")))

    def study_folder(self, study: str) -> Path:
        """Folder of a study, which need not be there yet."""
        if not STUDY_NAME.fullmatch(study):
            raise StoreError(
                f"{study!r} cannot name a study",
                fix=f"use letters, digits, `-`, `_` and `.`, 100 at most; `{CACHE}` is taken",
            )
        return self.root / study

    def database_url(self, study: str) -> str:
        """Where Optuna keeps the study unless `--storage` says otherwise."""
        return f"sqlite:///{self.study_folder(study) / 'optuna.db'}"

    def create_study(self, study: StoredStudy) -> bool:
        """Write study.json; False, and nothing is changed, if the study has begun before."""
        return write_once(self.study_folder(study.name) / "study.json", study)

    def load_study(self, study: str) -> StoredStudy:
        """What the study was resolved to when it began.

        Raises:
            StoreError: No such study here (known ones nearest first), or a damaged study.json.
        """
        path = self.study_folder(study) / "study.json"
        if not path.is_file():
            known = self.studies()
            near = get_close_matches(study, known, n=max(len(known), 1), cutoff=0.0)
            listed = f"studies here, nearest first: {', '.join(near)}" if near else "none is here"
            raise StoreError(
                f"no study {study!r} has begun in {self.root}",
                fix=f"{listed}; start it with `kdbench search --study {study}`, or name another "
                "folder with `--root`",
            )
        return load(path, StoredStudy)

    def mark_root(self, study: str, mark: RootMark) -> RootMark:
        """Write whose root this is, unless it is written; what is written then."""
        path = self.study_folder(study) / "root.json"
        write_once(path, mark)
        return load(path, RootMark)

    def root_mark(self, study: str) -> RootMark | None:
        """Whose root this is; None where nobody said so.

        Raises:
            StoreError: A damaged file.
        """
        path = self.study_folder(study) / "root.json"
        return load(path, RootMark) if path.is_file() else None

    def anchor_file(self, study: str) -> Path:
        """Where a study keeps the figures of its anchor."""
        return self.study_folder(study) / "anchor.json"

    def save_anchor_crops(
        self, study: str, original: bytes, crops: Mapping[Reconstruction, bytes]
    ) -> None:
        """Keep a cut of the first evaluation photo, itself and as the anchor gives it back."""
        folder = self.study_folder(study) / "crops"
        write_atomic(folder / "original.png", original)
        for crop, png in crops.items():
            write_atomic(folder / f"anchor-{crop.level}.png", png)
        write_json(folder / "anchor.json", _CropsFile(crops=tuple(crops)))

    def has_anchor_crops(self, study: str) -> bool:
        """Whether they are kept."""
        return (self.study_folder(study) / "crops" / "anchor.json").is_file()

    def load_anchor_crops(self, study: str) -> tuple[bytes, dict[Reconstruction, bytes]] | None:
        """The cut itself, and every level of the anchor; None where none were kept.

        Raises:
            StoreError: A damaged file.
        """
        if not self.has_anchor_crops(study):
            return None
        folder = self.study_folder(study) / "crops"
        crops = load(folder / "anchor.json", _CropsFile).crops
        pngs = {crop: _png(folder / f"anchor-{crop.level}.png") for crop in crops}
        return _png(folder / "original.png"), pngs

    def anchor_files(self, study: str) -> tuple[Path, ...]:
        """What there is of the anchor: its figures, and cuts of a photo."""
        folder = self.study_folder(study)
        found = (self.anchor_file(study), *sorted((folder / "crops").glob("*.*")))
        return tuple(path for path in found if path.is_file() and path.suffix in _NEWS)

    def codec_file(self, study: str, i: int) -> Path:
        """Where a study that lists codecs keeps the figures of the one at `i`."""
        return self.study_folder(study) / "codecs" / f"{i}.json"

    def load_notes(self, study: str) -> Notes:
        """What people wrote; nothing where nobody did.

        Raises:
            StoreError: A damaged file.
        """
        path = self.study_folder(study) / "notes.json"
        return load(path, Notes) if path.is_file() else Notes()

    def save_notes(self, study: str, notes: Notes) -> None:
        """Keep what people wrote."""
        write_json(self.study_folder(study) / "notes.json", notes)

    def new_rerun(self, study: str) -> Path:
        """A folder of its own for trials that are run again.

        Raises:
            StoreError: The root cannot be written.
        """
        self.require_writable()
        reruns = self.study_folder(study) / "reruns"
        for k in count():
            folder = reruns / str(k)
            with writing(folder), suppress(FileExistsError):  # another worker may be faster
                folder.mkdir(parents=True)
                break
        return folder

    # --- trials

    def trial(self, study: str, number: int) -> TrialFolder:
        """Files of one trial, which need not be there yet."""
        return TrialFolder(self.study_folder(study) / "trials" / str(number))

    def begin_trial(self, study: str, number: int, spec: TrialSpec) -> TrialFolder:
        """Make the folder of a new trial, spec first.

        Raises:
            StoreError: There is a trial of this number: the database is older than the folders.
        """
        folder = self.trial(study, number)
        if not keep_spec(folder, spec):
            raise StoreError(
                f"{folder.path} holds a trial already, which the database does not know",
                fix="keep the database and the folders of a study together: restore optuna.db, or "
                f"move {self.study_folder(study)} away and start afresh",
            )
        return folder

    def save_result(self, study: str, number: int, result: TrialResult) -> None:
        """Keep what a trial found; from here on it is complete."""
        keep_result(self.trial(study, number), result)

    def save_rungs(self, study: str, number: int, rungs: tuple[Rung, ...]) -> None:
        """Keep what a trial showed at the rungs it has reached."""
        write_json(self.trial(study, number).rungs, _RungsFile(rungs=rungs))

    def save_failure(self, study: str, number: int, failure: Failure) -> None:
        """Keep why a trial has no result."""
        write_json(self.trial(study, number).failure, failure)

    def save_trained_energy(self, study: str, number: int, energy: CodecEnergy) -> None:
        """Keep the energy of a trained member of the front, beside the one from before."""
        write_json(self.trial(study, number).trained_energy, _EnergyFile(energy=energy))

    def save_measurement(self, study: str, number: int, found: Measurement) -> Path:
        """Keep energy and time measured again in a file of their own, over nothing; its path."""
        folder = self.trial(study, number)
        for k in count(len(folder.measured)):
            path = folder.path / f"measured-{k}.json"
            if write_once(path, found):
                break
        return path

    def save_twin(self, study: str, number: int, twin: TwinFigures) -> None:
        """Keep what distillation gave a member of the front."""
        write_json(self.trial(study, number).twin, _TwinFile(twin=twin))

    def load_trial(self, study: str, number: int) -> StoredTrial:
        """One trial.

        Raises:
            StoreError: No such study or trial, or a damaged file.
        """
        folder = self.trial(study, number)
        if not folder.spec.is_file():
            numbers = [f.number for f in self._folders(study)]
            raise StoreError(
                f"study {study!r} has no trial {number}",
                fix=f"`kdbench show --study {study} --all` lists its {len(numbers)} trials",
            )
        return _load_trial(folder)

    def trials(self, study: str) -> list[StoredTrial]:
        """Every trial that has begun, by number.

        Raises:
            StoreError: No such study, or a damaged file.
        """
        return [_load_trial(folder) for folder in self._folders(study)]

    def stamp(self, study: str) -> frozenset[tuple[str, int, int]]:
        """Path, time and size of every file of the trials: another one when a trial has news.

        Logs and checkpoints, which grow with every step, are left out.
        """
        pattern = "trials/*/*.*"
        files = [p for p in self.study_folder(study).glob(pattern) if p.suffix in _NEWS]
        found = set()
        for path in files:
            with suppress(FileNotFoundError):  # replaced while we looked
                stat = path.stat()
                found.add((str(path), stat.st_mtime_ns, stat.st_size))
        return frozenset(found)

    def find_by_spec_hash(self, study: str, spec_hash: str) -> list[StoredTrial]:
        """Trials that were told the same: attempts at one spec, first one first."""
        return [trial for trial in self.trials(study) if trial.spec.hash == spec_hash]

    def _folders(self, study: str) -> list[TrialFolder]:
        self.load_study(study)
        begun = (self.study_folder(study) / "trials").glob("*/spec.json")
        folders = [TrialFolder(path.parent) for path in begun if path.parent.name.isdecimal()]
        return sorted(folders, key=lambda folder: folder.number)

    # --- workers

    def slurm_file(self, study: str) -> Path:
        """Where a study keeps what Slurm was given for it."""
        return self.study_folder(study) / "slurm.json"

    def save_worker(self, study: str, state: WorkerState) -> None:
        """Tell the live display what a worker does."""
        path = self.study_folder(study) / "workers" / f"{state.index}.json"
        write_json(path, state, durable=False)

    def workers(self, study: str) -> list[WorkerState]:
        """What every worker last said, by index."""
        paths = (self.study_folder(study) / "workers").glob("[0-9]*.json")
        return sorted((load(path, WorkerState) for path in paths), key=lambda w: w.index)

    def clear_workers(self, study: str) -> None:
        """Forget the workers of an earlier run."""
        folder = self.study_folder(study) / "workers"
        with writing(folder):
            for path in folder.glob("*.json"):
                path.unlink(missing_ok=True)


def keep_spec(folder: TrialFolder, spec: TrialSpec) -> bool:
    """Write what a training is told; False, and nothing is changed, if the folder has a spec."""
    return write_once(folder.spec, _SpecFile(hash=spec.hash, spec=spec))


def keep_result(folder: TrialFolder, result: TrialResult) -> None:
    """Write what a training found; its checkpoints, until then the way back, are removed."""
    write_json(folder.result, result)
    folder.forget_checkpoints()


def load_rungs(folder: TrialFolder) -> tuple[Rung, ...]:
    """What a trial showed on its way; nothing where it has been at no rung.

    Raises:
        StoreError: A damaged file.
    """
    return load(folder.rungs, _RungsFile).rungs if folder.rungs.is_file() else ()


def load_failure(folder: TrialFolder) -> Failure:
    """Why a trial has no result.

    Raises:
        StoreError: A damaged file, or none.
    """
    return load(folder.failure, Failure)


def _png(path: Path) -> bytes:
    """A PNG file whole.

    Raises:
        StoreError: It is not there or is none.
    """
    try:
        data = path.read_bytes()
    except OSError:
        raise damaged(path, "it is missing") from None
    if not _is_whole_png(data):
        raise damaged(path, "it is no whole PNG file")
    return data


def _is_whole_png(data: bytes) -> bool:
    """Whether every chunk has its checksum, and the last one is the end."""
    if not (data.startswith(PNG_HEAD) and data.endswith(PNG_TAIL)):
        return False
    at = len(PNG_HEAD)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return at == len(data)


def _load_trial(folder: TrialFolder) -> StoredTrial:
    stored = load(folder.spec, _SpecFile)
    if stored.schema >= HASHED_SINCE and stored.spec.hash != stored.hash:
        raise damaged(folder.spec, "its spec is not the one its hash names")
    try:
        here = set(os.listdir(folder.path))  # asking for each file takes longer than reading
    except OSError as err:
        raise unreadable(folder.path, err) from None
    done = _RESULT in here
    return StoredTrial(
        folder=folder,
        spec=stored.spec,
        spec_hash=stored.hash if stored.schema >= HASHED_SINCE else None,
        result=load(folder.result, TrialResult) if done else None,
        failure=load_failure(folder) if _FAILURE in here and not done else None,
        trained_energy=load(folder.trained_energy, _EnergyFile).energy
        if _TRAINED in here
        else None,
        twin=load(folder.twin, _TwinFile).twin if _TWIN in here else None,
        rungs=load_rungs(folder) if _RUNGS in here else (),
        measured=tuple(load(path, Measurement) for path in folder.measured_of(here)),
    )
