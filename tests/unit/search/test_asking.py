"""The trainers' side of a target: who is waited for, what is asked once, what a silence costs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench.codecs.weights import codec_bytes, file_sha
from kdbench.errors import MeterError, StoreError, TargetError
from kdbench.records import Bench, CodecEnergy, TrialResult, TrialSpec, plain
from kdbench.search import asking as module
from kdbench.search.asking import Asking, asking, close
from kdbench.search.attributes import INTERRUPTED
from kdbench.search.front import measure_front, unmeasured
from kdbench.search.mailbox import ANSWER, ASK, IDENTITY, SEARCH, TARGET, Mailbox, unanswered
from kdbench.search.parcels import Parcels
from kdbench.search.storage import connect
from kdbench.search.study import begin, join
from kdbench.store import Store
from tests.support import search as stub
from tests.support.codecs import architecture, finished
from tests.unit.search.lab import Lab

IDENTITY_OF_BOARD = {
    "meter": "ina3221",
    "source": "sampled",
    "detail": "VDD_IN",
    "device.cpu": "Cortex-A78AE",
}
ON_BOARD = CodecEnergy(
    encode=stub.reading("encode", 2.0),
    decode=stub.reading("decode", 3.0),
    device="board",
    target="board",
    peak_memory_bytes=1 << 20,
)
TARGETED = ("target=board", "target_timeout_s=0.2", "energy.meter=auto", "trials=2")
ALIVE = {"host": "jetson", "pid": 7, "n": 1, "at": "2026-11-28 20:00:00", "measures": None}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)


def box_of(store: Store, target: str = "board") -> Mailbox:
    return Mailbox(connect(store.database_url("demo"), create=True), "demo", target)


@pytest.fixture
def board(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the target join as soon as it is waited for."""

    def joins() -> None:
        def write(_text: str) -> None:
            box = box_of(lab.store)
            box.write(IDENTITY, IDENTITY_OF_BOARD)
            box.write(TARGET, ALIVE)

        monkeypatch.setattr(
            "tests.unit.search.lab.begin",
            lambda cfg, store, url, ground: begin(cfg, store, url, ground, on_wait=write),
        )

    return joins


def answer_all(store: Store, letter: Mapping[str, Any] | None = None) -> list[str]:
    """Answers what is asked, as a target would; the keys."""
    box = box_of(store)
    requests = unanswered(box.letters())
    given = letter or {"energy": plain(ON_BOARD), "identity": IDENTITY_OF_BOARD}
    for request in requests:
        assert box.file(request) is not None
        box.answer(request, given)
    return [request.key for request in requests]


def asks(lab: Lab) -> Asking:
    storage = connect(lab.store.database_url("demo"), create=False)
    _, cfg, ground = join("demo", storage)
    found = asking(cfg, ground, storage, lab.store.database_url("demo"))
    assert found is not None
    return found


def run(
    answered: Callable[[], object], resumed: list[bool] | None = None
) -> Callable[..., TrialResult]:
    """A stub that has its students measured elsewhere; tells whether it found a checkpoint."""

    def train(
        spec: TrialSpec,
        bench: Bench,
        gate: stub.Gate,
        folder: Path,
        on_progress: stub.Report,
        *,
        elsewhere: Asking,
    ) -> TrialResult:
        assert bench.energy.meter == "none"
        checkpoint = folder / "training.checkpoint"
        if resumed is not None:
            resumed.append(checkpoint.exists())
        checkpoint.touch()
        answer = elsewhere.ask(finished(architecture(8 + spec.encoder.width)))
        answered()
        return replace(stub.run(spec, bench, gate, folder, on_progress), energy=answer())

    return train


# --- when a study begins ---------------------------------------------------------------------


def test_a_study_waits_for_its_target_and_keeps_what_it_is(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    lab.begin(*TARGETED)
    fixed = lab.store.load_study("demo").fixed
    assert fixed["meter"] == "ina3221 (sampled)"
    assert fixed["target.device.cpu"] == "Cortex-A78AE"
    letters = box_of(lab.store).letters()
    assert letters[SEARCH]["photo"]["sha"]
    assert letters[SEARCH]["settings"]["target"] == "board"


def test_going_on_waits_for_nobody_and_tells_a_new_database_who_the_target_is(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    lab.begin(*TARGETED)
    (lab.store.study_folder("demo") / "optuna.db").unlink()
    begin(lab.config(*TARGETED), lab.store, lab.store.database_url("demo"), lambda: stub.GROUND)
    assert box_of(lab.store).letters()[IDENTITY] == IDENTITY_OF_BOARD


def test_a_target_that_nobody_is_leaves_the_study_free_to_name_another(
    lab: Lab, board: Callable[[], None]
) -> None:
    with pytest.raises(
        TargetError,
        match=r"target 'bord' has not answered study 'demo' within 0\.2 s \(`target_timeout_s`\): "
        r"nobody of that name has joined\n  fix: start it where it measures, "
        r"`KDBENCH_STORAGE=URL kdbench worker --role measure --study demo --as bord`",
    ):
        lab.begin(*TARGETED, "target=bord")
    board()
    lab.begin(*TARGETED)


def test_a_target_that_cannot_measure_is_not_waited_for(lab: Lab) -> None:
    def says_why(_text: str) -> None:
        trouble = {"problem": "no meter measures cpu here", "fix": "buy one"}
        box_of(lab.store).write(TARGET, {"trouble": trouble})

    cfg = lab.config(*TARGETED, "target_timeout_s=600")
    with pytest.raises(TargetError, match=r"(?s)'board' cannot measure.*no meter.*fix: buy one"):
        begin(cfg, lab.store, lab.store.database_url("demo"), lambda: stub.GROUND, on_wait=says_why)


def test_the_patience_may_change_and_the_target_may_not(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    lab.begin(*TARGETED)
    lab.begin(*TARGETED, "target_timeout_s=5")
    with pytest.raises(StoreError, match='target: stored "board", now "phone"'):
        lab.begin(*TARGETED, "target=phone")


# --- trials ----------------------------------------------------------------------------------


def test_energies_of_trials_are_the_target_s(lab: Lab, board: Callable[[], None]) -> None:
    board()
    lab.begin(*TARGETED, "objectives=[bd_rate_pct,energy_j_per_mpx]")
    assert lab.work(run(lambda: answer_all(lab.store))) == "complete"
    for trial in lab.store.trials("demo"):
        assert trial.result is not None
        assert trial.result.energy == ON_BOARD
    assert (
        Parcels(connect(lab.store.database_url("demo"), create=False), "demo@board:").known() == []
    )


def test_an_architecture_is_measured_once(lab: Lab, board: Callable[[], None]) -> None:
    board()
    lab.begin(*TARGETED)
    student = finished(architecture())
    first, second = asks(lab).ask(student), asks(lab).ask(student)
    assert len(answer_all(lab.store)) == 1
    assert first() == second() == asks(lab).ask(finished(architecture()))() == ON_BOARD
    assert answer_all(lab.store) == []


def test_a_silent_target_ends_the_worker_and_its_trial_waits(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    study = lab.begin(*TARGETED, "trials=5")  # all that are queued
    with pytest.raises(TargetError, match=r"within 0\.2 s .*last heard of 2026-11-28 20:00:00 UTC"):
        lab.work(run(lambda: None))
    assert study.get_trials()[0].user_attrs[INTERRUPTED] is True
    (trial,) = lab.store.trials("demo")
    assert trial.reason == "interrupted"
    assert trial.failure is not None
    assert "target 'board' has not answered" in trial.failure.fix
    answer_all(lab.store)  # it comes back, and its letters are there
    resumed: list[bool] = []
    assert lab.work(run(lambda: answer_all(lab.store), resumed)) == "complete"
    assert [found.state for found in lab.store.find_by_spec_hash("demo", trial.spec.hash)] == [
        "failed",
        "complete",
    ]
    assert resumed.count(True) == 1  # what was trained is not trained again


def test_what_a_target_cannot_measure_fails_its_trial_and_is_asked_anew(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    lab.begin(*TARGETED)
    student = finished(architecture())
    answer = asks(lab).ask(student)
    answer_all(lab.store, {"problem": "out of memory", "fix": "a larger board"})
    with pytest.raises(MeterError, match="on target 'board': out of memory\n  fix: a larger board"):
        answer()
    answer = asks(lab).ask(student)
    assert len(answer_all(lab.store)) == 1
    assert answer() == ON_BOARD


def test_an_answer_of_another_device_is_refused(lab: Lab, board: Callable[[], None]) -> None:
    board()
    lab.begin(*TARGETED)
    answer = asks(lab).ask(finished(architecture()))
    other = {**IDENTITY_OF_BOARD, "device.cpu": "Cortex-A53"}
    answer_all(lab.store, {"energy": plain(ON_BOARD), "identity": other})
    with pytest.raises(TargetError, match=r"device\.cpu: then Cortex-A78AE, now Cortex-A53"):
        answer()


@pytest.mark.parametrize(
    ("override", "before"),
    [
        ("trials=2", False),
        ("constraints.energy_j_per_mpx_max=9", True),
        ("cost_first=true", True),
        ("ladder={rungs: [0.5]}", True),
    ],
)
def test_a_figure_is_waited_for_before_training_only_where_something_hangs_on_it(
    lab: Lab, board: Callable[[], None], override: str, before: bool
) -> None:
    board()
    lab.begin(*TARGETED, override)
    assert asks(lab).before_training is before


# --- the front -------------------------------------------------------------------------------


def test_trained_members_of_the_front_are_sent_to_the_target(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    study = lab.begin(*TARGETED)
    lab.work(run(lambda: answer_all(lab.store)))
    cfg = lab.config(*TARGETED)
    for number, trial in enumerate(lab.store.trials("demo")):
        trial.folder.student.write_bytes(codec_bytes(finished(architecture(8 + 8 * number)), {}))
    left = unmeasured(study, cfg, lab.store)
    assert left
    _, _, ground = join("demo", connect(lab.store.database_url("demo"), create=False))
    elsewhere = asks(lab)
    with pytest.raises(TargetError):
        measure_front(study, cfg, ground, lab.store, lambda *_: None, elsewhere=elsewhere)
    assert unmeasured(study, cfg, lab.store) == left
    trained = [lab.store.trial("demo", number).student for number in left]
    assert set(answer_all(lab.store)) == {f"trained-{file_sha(path)}" for path in trained}
    measure_front(study, cfg, ground, lab.store, lambda *_: None, elsewhere=elsewhere)
    assert unmeasured(study, cfg, lab.store) == []
    assert lab.store.load_trial("demo", left[0]).trained_energy == ON_BOARD


# --- letters ---------------------------------------------------------------------------------


def test_files_of_trainers_that_died_while_they_sent_them_are_swept(
    lab: Lab, board: Callable[[], None]
) -> None:
    board()
    lab.begin(*TARGETED)
    storage = connect(lab.store.database_url("demo"), create=False)
    parcels = Parcels(storage, "demo@board:")
    lost = parcels.put(b"x" * 100_000)
    asks(lab).ask(finished(architecture()))
    assert len(parcels.known()) == 2
    lab.begin(*TARGETED)
    assert len(parcels.known()) == 1
    assert parcels.get(lost) is None


def test_a_file_travels_whole_or_not_at_all(tmp_path: Path) -> None:
    parcels = Parcels(connect(f"sqlite:///{tmp_path}/study.db", create=True), "demo@board:")
    file = bytes(range(256)) * 1000
    sha = parcels.put(file)
    assert parcels.get(sha) == file
    parcels.remove(sha)
    parcels.remove(sha)
    assert parcels.get(sha) is None


def test_the_end_of_a_search_is_told_to_its_target(lab: Lab, board: Callable[[], None]) -> None:
    board()
    lab.begin(*TARGETED)
    close(lab.config(*TARGETED), lab.store.database_url("demo"), "complete")
    assert box_of(lab.store).letters()[SEARCH]["ended"] == "complete"
    lab.begin(*TARGETED)
    assert "ended" not in box_of(lab.store).letters()[SEARCH]


def test_a_letter_is_answered_by_its_key() -> None:
    letters = {
        ASK + "a": {"sha": "1", "is_trained": False},
        ASK + "b": {"sha": "2", "is_trained": True},
        ANSWER + "a": {},
        TARGET: {},
    }
    assert [request.key for request in unanswered(letters)] == ["b"]
