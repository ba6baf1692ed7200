"""Every file of a study damaged at every range of its bytes: noticed, named, made again if may be.

A file is changed at `N_RANGES` places, each flipped and each zeroed, and cut at some; what is read
then is an error that names the file, or exactly what was there.
"""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

from kdbench import cards, cli, lesson, package, teacher, trial
from kdbench.anchor import recorded_students
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.config import StudyConfig
from kdbench.data import draw_crops, load_images
from kdbench.errors import KdbenchError
from kdbench.lease import Lease
from kdbench.once import cached
from kdbench.records import Bench, Data, EnergyPlan, RDCurve, Reconstruction
from kdbench.samples import png
from kdbench.seals import unseal
from kdbench.search.study import begin
from kdbench.store import Notes, Store
from kdbench.teacher import TeacherCache, load_teacher
from kdbench.train import damage
from tests.support import search as stub
from tests.support.codecs import architecture, finished, started
from tests.support.results import STUDY, curve, make_study
from tests.support.students import make_study_with_student
from tests.unit.data.files import picture
from tests.unit.search.lab import Lab
from tests.unit.test_train import _run as _train_a_little
from tests.unit.test_train import _spec, _training

N_RANGES = 64
N_CUTS = 16
RD_LAMBDAS = (0.002, 0.01)


def damaged(data: bytes, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """What happened, and the bytes then."""
    rng = random.Random(seed)
    size = max(1, len(data) // N_RANGES)
    for start in range(0, len(data), size):
        end = min(start + size, len(data))
        at = rng.randrange(start, end)
        flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        yield f"a bit at {at} of {len(data)}", flipped
        zeroed = data[:start] + bytes(end - start) + data[end:]
        if zeroed != data:
            yield f"zeros from {start} to {end} of {len(data)}", zeroed
    for end in sorted({0, 1, *(len(data) * i // N_CUTS for i in range(N_CUTS)), len(data) - 1}):
        yield f"cut at {end} of {len(data)}", data[:end]


def assert_noticed(path: Path, read: Callable[[], object], *, names: str | None = None) -> None:
    """`read` after each damage: an error that names the file, or what it gave before."""
    whole, before, n_errors = path.read_bytes(), read(), 0
    for what, data in damaged(whole):
        path.write_bytes(data)
        now, problem = tried(read)
        n_errors += problem is not None
        assert problem is None or (names or str(path)) in problem, (what, problem)
        assert problem is not None or now == before, f"{path.name}, {what}: read as if whole"
    path.write_bytes(whole)
    assert read() == before
    assert n_errors > N_RANGES


def tried(read: Callable[[], object]) -> tuple[object, str | None]:
    """What it gives, or the problem that it ends with."""
    try:
        return read(), None
    except KdbenchError as why:
        return None, str(why)


# --- records -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A study with every kind of file."""
    make_study(tmp_path / "runs")
    made = Store(tmp_path / "runs")
    made.save_notes(STUDY, Notes(study="ours", trials={"0": "good"}))
    return made


def records(store: Store) -> dict[str, tuple[Path, Callable[[], object]]]:
    folder = store.study_folder(STUDY)
    complete = next(t for t in store.trials(STUDY) if t.result is not None)
    failed = next(t for t in store.trials(STUDY) if t.failure is not None)

    def one() -> object:
        return store.load_trial(STUDY, complete.number)

    return {
        "study": (folder / "study.json", lambda: store.load_study(STUDY)),
        "notes": (folder / "notes.json", lambda: store.load_notes(STUDY)),
        "spec": (complete.folder.spec, one),
        "result": (complete.folder.result, one),
        "failure": (failed.folder.failure, lambda: store.load_trial(STUDY, failed.number)),
    }


@pytest.mark.parametrize("name", ["study", "notes", "spec", "result", "failure"])
def test_a_damaged_record_is_noticed_and_named(name: str, store: Store) -> None:
    path, read = records(store)[name]
    assert_noticed(path, read)


def test_rungs_and_what_was_measured_later_are_noticed_and_named(
    store: Store, tmp_path: Path
) -> None:
    complete = next(t for t in store.trials(STUDY) if t.trained_energy is not None)
    spec = complete.spec
    store.save_rungs(STUDY, complete.number, (stub.shown(spec, 2), stub.shown(spec, 5)))
    for path in (complete.folder.rungs, complete.folder.trained_energy):
        assert_noticed(path, lambda: store.load_trial(STUDY, complete.number))


def test_a_record_of_before_there_were_checksums_is_read(store: Store) -> None:
    path, read = records(store)["result"]
    before, text = read(), path.read_text()
    head, comma, checksum = text.rpartition(",\n")
    assert (comma, checksum[:21]) == (",\n", ' "checksum": "sha256:')
    path.write_text(f"{head}\n}}\n")
    assert read() == before


def test_a_damaged_cut_of_a_photo_is_noticed_and_named(store: Store) -> None:
    complete = next(t for t in store.trials(STUDY) if t.result is not None)
    what = Reconstruction(image="a.png", level=0, bpp=0.1, psnr_db=30.0)
    folder = complete.folder
    folder.save_crop(what, png(picture()))
    assert_noticed(folder.crop, folder.load_crop)
    assert_noticed(folder.crop.with_suffix(".json"), folder.load_crop)


# --- codecs ------------------------------------------------------------------------------------


def weights_in(path: Path) -> dict[str, list[float]]:
    """What a codec computes with, and its card."""
    model, card = load_codec(path)
    state = {k: v.flatten().tolist() for k, v in model.state_dict().items()}
    return {**state, "card": [str(card)]}


def test_a_damaged_student_is_not_the_one_that_its_result_names(tmp_path: Path) -> None:
    taught = make_study_with_student(tmp_path, evaluated=False).load_trial(STUDY, 0)
    (student,) = taught.folder.students
    assert_noticed(student, lambda: [path.read_bytes() for path in recorded_students(taught)])


def test_a_damaged_teacher_is_noticed_and_named(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    card = {"training": {"rd_lambdas": list(RD_LAMBDAS)}, "licence": "CC0-1.0"}
    path.write_bytes(codec_bytes(finished(architecture(n_levels=2)), card, summed=True))
    assert_noticed(path, lambda: weights_in(path))


def test_a_damaged_teacher_of_ours_is_noticed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cards.BUILTIN, tmp_path / "teachers")
    monkeypatch.setattr("kdbench.teacher.BUILTIN", tmp_path / "teachers")
    monkeypatch.setattr("kdbench.cards.BUILTIN", tmp_path / "teachers")
    monkeypatch.chdir(tmp_path)  # where teachers/ is found first, and is the same folder
    path = tmp_path / "teachers" / "small.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(teacher, "list_teachers", lambda: {"small": path})
    with pytest.raises(KdbenchError, match="not the file that came with kdbench"):
        load_teacher("teacher:small")


# --- checkpoints -------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_noticed_and_named(tmp_path: Path) -> None:
    path = tmp_path / "training.checkpoint"
    _train_a_little(started(architecture()), _training(2), checkpoint=path)
    whole, n_bad = path.read_bytes(), 0
    for what, data in damaged(whole):
        path.write_bytes(data)
        why = damage(path)
        if why is None:  # what the checksum is of is whole, and the checksum is gone
            assert data.startswith(unseal(whole)), what
        else:
            n_bad += 1
            assert str(path) in str(why), what
    assert n_bad > N_RANGES


def test_a_trial_starts_again_from_its_first_step_where_its_checkpoint_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the hinge does with one; `tests/e2e/test_killed_trial.py` has whole trials."""
    path = tmp_path / "training.checkpoint"
    _train_a_little(started(architecture()), _training(2), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    asked: list[Any] = []

    def stop(*_: object, checkpoint: Path, **__: object) -> None:
        asked.append(checkpoint.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "train", stop)
    bench = Bench(
        data=Data(), anchor="jpeg", energy=EnergyPlan(meter="none"), device="cpu",
        precision="fp32", threads=1, cache=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        trial._trained(
            lesson.Lesson(_spec(), "cpu", np.zeros((1, 3, 64, 64), np.uint8)),
            started(architecture()),
            bench,
            tmp_path / "student.safetensors",
            on_progress=lambda _: None,
            lease=Lease(tmp_path / "lease"),
            at_rung=lambda _: None,
        )
    assert asked == [False]
    assert f"note: the checkpoint {path} cannot be read" in capsys.readouterr().err


# --- caches ------------------------------------------------------------------------------------


def test_a_damaged_figure_in_the_cache_is_computed_again_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, n = tmp_path / "curve.json", [0]

    def compute() -> RDCurve:
        n[0] += 1
        return curve()

    first = cached(path, RDCurve, compute)
    whole, asked = path.read_bytes(), 0
    for what, data in damaged(whole):
        path.write_bytes(data)
        capsys.readouterr()
        assert cached(path, RDCurve, compute) == first, what
        asked += 1
        assert f"note: {path} is damaged" in capsys.readouterr().err, what
        assert path.read_bytes() == whole
    assert n[0] == asked + 1


def test_a_damaged_cache_of_a_teacher_or_of_crops_is_built_again_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture(96, 80)).save(tmp_path / "photos" / "a.png")
    crops = draw_crops(load_images(tmp_path / "photos", "train", crop_px=64), 4, 64, 0)
    path = tmp_path / "teacher.safetensors"
    card = {"training": {"rd_lambdas": list(RD_LAMBDAS)}}
    path.write_bytes(codec_bytes(finished(architecture(n_levels=2)), card))
    known = load_teacher(f"file:{path}")
    cache = tmp_path / "cache"

    def targets() -> list[Any]:
        opened = TeacherCache.open(known, crops, RD_LAMBDAS, cache, cache_gib=1.0)
        found = opened.targets(np.arange(4), torch.tensor([0, 1, 0, 1]), "cpu")
        pixels = crops.crops(cache)
        return [*(None if each is None else each.tolist() for each in found), pixels.tolist()]

    before = targets()
    for file in sorted(p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"):
        whole = file.read_bytes()
        for what, data in list(damaged(whole))[:: 8 if len(whole) > 5000 else 4]:
            file.unlink()
            file.write_bytes(data)
            capsys.readouterr()
            assert targets() == before, (file.name, what)
            said = capsys.readouterr().err
            assert re.match(r"note: .+ again\n", said), (file.name, what)
    assert targets() == before
    assert capsys.readouterr().err == ""


# --- databases ---------------------------------------------------------------------------------


def told(study: optuna.Study) -> list[tuple[Any, ...]]:
    """What matters of every finished trial."""
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs["spec_hash"])
        for t in study.get_trials()
        if t.state.is_finished()
    ]


def test_a_damaged_database_is_noticed_and_named_and_made_again_from_the_folders(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, Store(tmp_path / "runs"))
    url, cfg = lab.store.database_url("demo"), lab.config()
    before = told(lab.begin())
    assert before == []
    lab.work()
    path = lab.store.study_folder("demo") / "optuna.db"
    before = told(_begun(cfg, lab.store, url))
    whole, n_errors = path.read_bytes(), 0
    for what, data in damaged(whole):
        path.write_bytes(data)
        now, problem = tried(lambda: told(_begun(cfg, lab.store, url)))
        if problem is None:
            assert now == before, what
        else:
            n_errors += 1
            assert re.search(r"(optuna\.db|'demo').*\n  fix: ", problem, re.DOTALL), (what, problem)
        for left in path.parent.glob("optuna.db-*"):
            left.unlink()
    assert n_errors > N_RANGES // 2
    path.unlink()
    assert told(_begun(cfg, lab.store, url)) == before


def _begun(cfg: StudyConfig, store: Store, url: str) -> optuna.Study:
    return begin(cfg, store, url, lambda: stub.GROUND)[0]


# --- packages ----------------------------------------------------------------------------------


def test_a_damaged_package_is_noticed_and_named(tmp_path: Path) -> None:
    store, out = make_study_with_student(tmp_path), tmp_path / "out"
    words = ["export", "--study", STUDY, "--trial", "0", "--to", str(out)]
    assert cli.main([*words, "--root", str(store.root)]) == 0
    for name in ("card.json", "codec.safetensors"):
        assert_noticed(
            out / name,
            lambda: [str(package.read_card(out)), package.codec_file(out).read_bytes()],
        )


def test_a_whole_file_is_read_without_a_word(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, read in records(store).values():
        read()
        assert path.is_file()
    assert capsys.readouterr().err == ""
