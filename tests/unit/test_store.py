"""Files first: what is written comes back, whole or not at all, and damage names its file."""

import dataclasses
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.errors import StoreError
from kdbench.files import append_log, read_log, write_atomic
from kdbench.records import (
    SCHEMA,
    BDRate,
    CodecEnergy,
    Complexity,
    Distillation,
    EnergyReading,
    Hyper,
    Latent,
    Operation,
    Progress,
    RDCurve,
    RDPoint,
    Training,
    Transform,
    TrialResult,
    TrialSpec,
)
from kdbench.store import Failure, Store, StoredStudy, WorkerState
from tests.support.edits import without_checksum

SPEC = TrialSpec(
    encoder=Transform(width=32),
    decoder=Transform(width=16, kernel=3, activation="relu"),
    hyper=Hyper(width=16),
    latent=Latent(channels=192),
    distillation=Distillation(teacher="teacher:default", latent=0.1),
    training=Training(
        steps=10, batch=4, crop_px=64, rd_lambdas=(0.01, 0.02), learning_rate=7.745966692414833e-4
    ),
    seed=3,
    stands_on={"teacher": "ab12"},
)
FAILURE = Failure(
    state="infeasible", problem="params 4e6 > 3e6", fix="none", values={"params": 4e6}
)


def reading(operation: Operation) -> EnergyReading:
    return EnergyReading(
        operation=operation,
        source="model",
        meter="codecarbon",
        detail="cpu_load x 8 W (process)",
        gross_j_per_mpx=(1.5, 1.7),
        net_j_per_mpx=None,
        idle_before_w=None,
        idle_after_w=2.0,
        window_s=1.0,
        images_per_window=4,
        s_per_mpx=0.2,
        flags=("noisy: 8 % interval",),
    )


RESULT = TrialResult(
    rd=RDCurve(
        images=("a.png", "b.png"),
        points=(RDPoint(level=0, bpp=0.1, psnr_db=28.0), RDPoint(level=1, bpp=0.2, psnr_db=30.0)),
        image_bpp=((0.1, 0.1), (0.2, 0.2)),
        image_psnr_db=((28.0, 28.0), (30.0, 30.0)),
        estimated_over_real_bits=0.999,
    ),
    bd_rate=BDRate(pct=12.5, low_pct=10.0, high_pct=15.0, overlap_db=3.0),
    complexity=Complexity(params=1000, g_a=1.0, h_a=0.1, h_s=0.1, g_s=1.0, entropy_model=0.1),
    energy=CodecEnergy(encode=reading("encode"), decode=reading("decode"), device="cpu"),
    seconds={"training": 3.0},
    hashes={"weights": "aa"},
    losses={"train": 1.0, "validation": 1.1},
    environment={"torch": "2"},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which the study `demo` has begun."""
    made = Store(tmp_path / "runs")
    made.create_study(StoredStudy(name="demo", settings={"trials": 2}, fixed={"meter": "nvml"}))
    return made


def message(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    return str(caught.value)


# --- round trips -----------------------------------------------------------------------------


def test_a_trial_comes_back_as_it_was(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    store.save_result("demo", 0, RESULT)
    trial = store.load_trial("demo", 0)
    assert (trial.spec, trial.result) == (SPEC, RESULT)
    assert trial.spec.hash == SPEC.hash
    assert (trial.number, trial.state, trial.reason) == (0, "complete", None)


def test_the_result_file_is_the_record_and_nothing_else(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    store.save_result("demo", 0, dataclasses.replace(RESULT, energy=None))
    tree = json.loads(store.trial("demo", 0).result.read_text())
    assert set(tree) == {f.name for f in dataclasses.fields(TrialResult)} | {"checksum"}
    assert (tree["schema"], tree["energy"]) == (SCHEMA, None)


def test_the_state_of_a_trial_is_read_from_its_folder_alone(store: Store) -> None:
    for number in (2, 0, 10, 1):
        store.begin_trial("demo", number, SPEC)
    store.save_result("demo", 0, RESULT)
    store.save_failure("demo", 1, FAILURE)
    store.save_failure("demo", 2, dataclasses.replace(FAILURE, state="failed", problem="NaN"))
    found = [(trial.number, trial.state, trial.reason) for trial in store.trials("demo")]
    assert found == [
        (0, "complete", None),
        (1, "infeasible", "params 4e6 > 3e6"),
        (2, "failed", "NaN"),
        (10, "running", None),
    ]
    assert store.load_trial("demo", 1).failure == FAILURE


def test_a_folder_without_a_spec_is_no_trial(store: Store) -> None:
    store.trial("demo", 3).path.mkdir(parents=True)
    assert store.trials("demo") == []


def test_attempts_at_one_spec_are_found_by_its_hash(store: Store) -> None:
    other = dataclasses.replace(SPEC, seed=4)
    for number, spec in enumerate([SPEC, other, SPEC]):
        store.begin_trial("demo", number, spec)
    assert [t.number for t in store.find_by_spec_hash("demo", SPEC.hash)] == [0, 2]
    assert store.find_by_spec_hash("demo", "0" * 16) == []


def test_a_study_is_written_once(store: Store) -> None:
    again = StoredStudy(name="demo", settings={"trials": 99})
    assert not store.create_study(again)
    assert store.load_study("demo").settings == {"trials": 2}
    assert store.load_study("demo").fixed == {"meter": "nvml"}
    assert store.studies() == ("demo",)


def test_of_many_who_begin_a_study_at_once_one_does(tmp_path: Path) -> None:
    store, won = Store(tmp_path), []
    start = threading.Barrier(8)

    def begin(i: int) -> None:
        start.wait()
        won.append(store.create_study(StoredStudy(name="demo", settings={"worker": i})))

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert os.listdir(tmp_path / "demo") == ["study.json"]


def test_a_trial_number_is_taken_once(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    folder = store.study_folder("demo")
    assert message(lambda: store.begin_trial("demo", 0, SPEC)) == (
        f"{folder}/trials/0 holds a trial already, which the database does not know\n"
        "  fix: keep the database and the folders of a study together: restore optuna.db, or move "
        f"{folder} away and start afresh"
    )


def test_workers_say_what_they_do_and_are_forgotten(store: Store) -> None:
    states = [
        WorkerState(
            index=i, pid=9, trial=t, progress=Progress(stage="training", loss=1.5), updated_s=1e9
        )
        for i, t in [(0, 4), (1, None), (10, 5)]
    ]
    for state in reversed(states):
        store.save_worker("demo", state)
    assert store.workers("demo") == states
    store.clear_workers("demo")
    assert store.workers("demo") == []


# --- places ----------------------------------------------------------------------------------


def test_the_root_is_the_option_then_the_environment_then_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDBENCH_ROOT", raising=False)
    assert Store.locate().root == tmp_path / "runs"
    monkeypatch.setenv("KDBENCH_ROOT", "elsewhere")
    assert Store.locate().root == tmp_path / "elsewhere"
    assert Store.locate("/here").root == Path("/here")


def test_files_lie_where_the_design_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.trial("demo", 7)
    assert store.database_url("demo") == f"sqlite:///{tmp_path}/demo/optuna.db"
    assert store.cache == tmp_path / "cache"
    names = [folder.spec, folder.result, folder.failure, folder.log, folder.student]
    assert [str(path.relative_to(tmp_path / "demo/trials/7")) for path in names] == [
        "spec.json", "result.json", "failure.json", "log.jsonl", "student.safetensors",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/b", "/etc", "", ".", "..", "cache", "a b", "a\0b", "a\nb", "a\n"),
        *("C:\\x", "..\\x", "a.", "con", "NUL.txt", "Lpt1", "a" * 300),
    ],
)
def test_a_name_that_leaves_the_root_is_refused(tmp_path: Path, name: str) -> None:
    assert message(lambda: Store(tmp_path).study_folder(name)) == (
        f"{name!r} cannot name a study\n  fix: use letters, digits, `-`, `_` and `.`, 100 at most; "
        "`cache` is taken"
    )


# --- damage and refusal ----------------------------------------------------------------------


def test_an_unknown_study_lists_those_that_are_here(store: Store) -> None:
    store.create_study(StoredStudy(name="kd_pareto", settings={}))
    assert message(lambda: store.trials("kd_parto")) == (
        f"no study 'kd_parto' has begun in {store.root}\n"
        "  fix: studies here, nearest first: kd_pareto, demo; start it with `kdbench search "
        "--study kd_parto`, or name another folder with `--root`"
    )


def test_an_empty_root_says_that_nothing_has_begun(tmp_path: Path) -> None:
    assert message(lambda: Store(tmp_path).load_study("demo")) == (
        f"no study 'demo' has begun in {tmp_path}\n"
        "  fix: none is here; start it with `kdbench search --study demo`, or name another folder "
        "with `--root`"
    )


def test_an_unknown_trial_says_how_to_list_them(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    assert message(lambda: store.load_trial("demo", 5)) == (
        "study 'demo' has no trial 5\n  fix: `kdbench show --study demo --all` lists its 1 trials"
    )


def with_losses(text: str, losses: dict[str, float], *, own: int | None) -> str:
    """With a part whose lines are indented as those of the record itself."""
    rest = {k: v for k, v in json.loads(text).items() if k not in ("losses", "schema")}
    tree = ({} if own is None else {"schema": own}) | rest | {"losses": losses}
    return "\n".join(" " + line.lstrip() for line in json.dumps(tree, indent=1).splitlines())


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "truncated": (
        lambda text: text[:4],
        "is damaged: EOF while parsing a string at line 2 column 2",
    ),
    "empty": (lambda _: "", "is damaged: EOF while parsing a value at line 1 column 0"),
    "a list": (lambda _: "[]", "is damaged: it has no schema number"),
    "no schema": (lambda _: "{}", "is damaged: it has no schema number"),
    "unknown field": (
        lambda text: json.dumps(json.loads(text) | {"bd_rat": 1}),
        "is damaged: bd_rat: unexpected keyword argument",
    ),
    "missing field": (
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "rd"}),
        "is damaged: rd: field required",
    ),
    "number as text": (
        lambda text: text.replace('"pct": 12.5', '"pct": "12.5"'),
        "is damaged: bd_rate.pct: input should be a valid number",
    ),
    "newer schema": (
        lambda text: text.replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'),
        f"has schema {SCHEMA + 1}, this kdbench reads up to {SCHEMA}",
    ),
    "newer schema on one line": (
        lambda text: json.dumps(json.loads(text) | {"schema": SCHEMA + 1}),
        f"has schema {SCHEMA + 1}, this kdbench reads up to {SCHEMA}",
    ),
    "no schema on one line": (
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "schema"}),
        "is damaged: it has no schema number",
    ),
    "no schema of its own": (
        lambda text: with_losses(text, {"schema": 4}, own=None),
        "is damaged: it has no schema number",
    ),
    "newer schema than that of a part": (
        lambda text: with_losses(text, {"schema": 4}, own=SCHEMA + 1),
        f"has schema {SCHEMA + 1}, this kdbench reads up to {SCHEMA}",
    ),
    "another checksum": (
        lambda text: json.dumps(json.loads(text) | {"checksum": "md5:1"}, indent=1) + "\n",
        "is damaged: its checksum cannot be read",
    ),
    "text behind it": (
        lambda text: "{}" + text,
        "is damaged: trailing characters at line 1 column 3",
    ),
}


def test_a_result_from_before_gradients_were_looked_at_still_loads(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    store.save_result("demo", 0, RESULT)
    path = store.trial("demo", 0).result
    tree = json.loads(without_checksum(path))
    del tree["gradient_shares"]
    path.write_text(json.dumps(tree))
    assert store.load_trial("demo", 0).result == RESULT


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_names_its_file_and_what_to_do(store: Store, damage: str) -> None:
    store.begin_trial("demo", 0, SPEC)
    store.save_result("demo", 0, RESULT)
    path = store.trial("demo", 0).result
    change, text = DAMAGE[damage]
    path.write_text(change(without_checksum(path)))
    fix = (
        "use the newer kdbench that wrote it: `pip install --upgrade kdbench`"
        if damage.startswith("newer schema")
        else "restore it from a copy, or move its folder away; the rest of the study is intact"
    )
    assert message(lambda: store.trials("demo")) == f"{path} {text}\n  fix: {fix}"


def test_a_spec_changed_by_hand_is_noticed(store: Store) -> None:
    path = store.begin_trial("demo", 0, SPEC).spec
    path.write_text(without_checksum(path).replace('"seed": 3', '"seed": 4'))
    assert message(lambda: store.load_trial("demo", 0)).startswith(
        f"{path} is damaged: its spec is not the one its hash names\n"
    )


def test_nan_is_no_result(store: Store) -> None:
    store.begin_trial("demo", 0, SPEC)
    broken = dataclasses.replace(RESULT, losses={"train": float("nan")})
    path = store.trial("demo", 0).result
    assert message(lambda: store.save_result("demo", 0, broken)) == (
        f"{path} would hold NaN or infinity, which are no results\n"
        "  fix: report this with the spec of the trial: a measurement is broken"
    )
    assert store.load_trial("demo", 0).state == "running"


# --- writing ---------------------------------------------------------------------------------

FULL = (
    "cannot be written: the disk is full\n  fix: free some space and run the same command again, "
    "what is finished is kept; or name a folder that can be written with `--root FOLDER` or "
    "KDBENCH_ROOT"
)
ELSEWHERE = "fix: name a folder that can be written with `--root FOLDER` or KDBENCH_ROOT"
OS_ERRORS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EACCES: f"cannot be written: permission denied\n  {ELSEWHERE}",
    errno.EROFS: f"cannot be written: the file system is read-only\n  {ELSEWHERE}",
    errno.EIO: f"cannot be written: input/output error\n  {ELSEWHERE}",
}


@pytest.mark.parametrize("number", OS_ERRORS, ids=errno.errorcode.get)
def test_a_write_that_fails_says_why_and_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"old")

    def broken(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    assert message(lambda: write_atomic(path, b"new")) == f"{path} {OS_ERRORS[number]}"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_log_on_a_full_disk_says_so() -> None:
    path = Path("/dev/full")  # the kernel's own full disk
    assert message(lambda: append_log(path, {"step": 1})) == f"/dev/full {FULL}"


def test_a_root_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "runs")
    assert message(store.require_writable) == (
        f"{store.root} cannot be written: a file is where a folder should be\n  {ELSEWHERE}"
    )


def test_a_writable_root_is_left_as_it_was(tmp_path: Path) -> None:
    Store(tmp_path).require_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    contents = {bytes([65 + i]) * 200_000 for i in range(8)}
    write_atomic(path, b"A" * 200_000)
    done = threading.Event()

    def rewrite() -> None:
        for content in sorted(contents) * 5:
            write_atomic(path, content, durable=False)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    writer.join()


def test_a_log_keeps_its_lines_and_loses_only_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    entries = [{"step": i, "loss": 0.5 / (i + 1)} for i in range(3)]
    for entry in entries:
        append_log(path, entry)
    assert read_log(path) == entries
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_log(path) == entries


def test_a_log_damaged_in_the_middle_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    assert message(lambda: read_log(path)).startswith(f"{path} is damaged: ")
