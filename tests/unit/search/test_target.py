"""A device that measures for others: what it answers, and whom it refuses to be or to serve."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import kdbench
from kdbench import config, device, energy, lease
from kdbench.codecs.weights import codec_bytes
from kdbench.data import load_images
from kdbench.energy.replay import ReplayMeter
from kdbench.errors import DataError, KdbenchError, MeterError, StoreError, TargetError
from kdbench.lease import Lease
from kdbench.records import MEASUREMENT_PROTOCOL, CodecEnergy
from kdbench.search import target as module
from kdbench.search.dead import host
from kdbench.search.mailbox import ANSWER, IDENTITY, SEARCH, TARGET, Mailbox
from kdbench.search.storage import connect
from kdbench.search.target import serve
from kdbench.store import Store
from tests.support import processes
from tests.support import search as stub
from tests.support.codecs import architecture, finished

REPLAYED = ("target=board", "energy={meter: replay, window_s: 0.01, windows: 2}")
NOBODY_PID = 2**22 + 1  # above the largest that Linux gives
PATIENCE_S = 120.0


class Board:
    """A mailbox, a device of its own, and a study that asks it."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.store = Store(folder / "board")
        self.url = f"sqlite:///{folder / 'study.db'}"
        self.box = Mailbox(connect(self.url, create=True), "demo", "board")
        self.box.create()
        cfg = stub.study(folder, *REPLAYED, *overrides)
        photo = load_images("builtin", "evaluation").photos[0]
        self.invite(
            kdbench=kdbench.__version__,
            protocol=MEASUREMENT_PROTOCOL,
            settings=config.settings(cfg),
            photo={"name": photo.name, "sha": photo.sha},
        )

    def invite(self, **news: object) -> None:
        """Changes what the coordinator says."""
        self.box.write(SEARCH, {**self.box.letters().get(SEARCH, {}), **news})

    def ask(self, width: int = 8, *, key: str = "started-a", is_trained: bool = False) -> None:
        file = codec_bytes(finished(architecture(width)), {})
        self.box.ask(key, file, is_trained=is_trained)

    def serve(self, name: str = "board", **more: object) -> str:
        return serve("demo", name, self.store, storage=self.url, device="cpu", **more)  # type: ignore[arg-type]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """It serves beside the test until the search is said to have ended."""
        ended: list[object] = []

        def run() -> None:
            try:
                ended.append(self.serve())
            except KdbenchError as why:
                ended.append(why)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(lambda: TARGET in self.box.letters() or bool(ended))
            yield
        finally:
            self.invite(ended="complete")
            thread.join(PATIENCE_S)
        self.ended = ended[0]


def until(condition: Callable[[], bool]) -> None:
    processes.until(condition, PATIENCE_S, 0.01)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(lease, "host_lease", lambda: Lease(tmp_path / "lease"))
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    monkeypatch.setattr(module, "BUSY_S", 0.6)
    return Board(tmp_path)


def read(board: Board, key: str = "started-a") -> CodecEnergy:
    letter = board.box.letters()[ANSWER + key]
    return TypeAdapter(CodecEnergy).validate_python(letter["energy"])


# --- what it measures ------------------------------------------------------------------------


def test_what_is_asked_is_measured_answered_and_its_file_forgotten(board: Board) -> None:
    board.ask()
    board.ask(key="trained-b", is_trained=True)
    board.invite(ended="complete")
    said: list[str] = []
    assert board.serve(say=said.append) == "complete"
    for key in ("started-a", "trained-b"):
        found = read(board, key)
        assert found.target == "board"
        assert found.source == "replay"
        assert found.encode.s_per_mpx > 0
        assert found.peak_memory_bytes is not None
        assert found.peak_memory_bytes > 0
    letters = board.box.letters()
    assert not [key for key in letters if key.startswith("ask:")]
    assert TARGET not in letters  # it has left
    assert letters[IDENTITY]["meter"] == "replay"
    assert letters[IDENTITY]["device.threads"] == "1"
    assert [line.partition(" ")[0] for line in said] == ["target", "architecture", "trained"]


def test_it_knows_an_architecture_that_it_measured_for_another_study(board: Board) -> None:
    """Of a trained student it never takes an old figure."""
    for key, is_trained in (("started-a", False), ("started-b", False), ("trained-c", True)):
        board.ask(key=key, is_trained=is_trained)
    board.invite(ended="complete")
    board.serve()
    first, second, trained = (
        read(board, k).encode for k in ("started-a", "started-b", "trained-c")
    )
    assert first == second
    assert first != trained


def test_a_codec_that_it_cannot_read_is_answered_with_the_problem(board: Board) -> None:
    board.box.ask("started-a", b"rubbish", is_trained=False)
    board.invite(ended="complete")
    board.serve()
    assert "damaged or no safetensors file" in board.box.letters()[ANSWER + "started-a"]["problem"]


def test_a_request_whose_file_is_gone_is_withdrawn(board: Board) -> None:
    board.ask()
    letters = board.box.letters()
    board.box._parcels.remove(letters["ask:started-a"]["sha"])
    board.invite(ended="complete")
    board.serve()
    assert not [key for key in board.box.letters() if key.endswith("started-a")]


def test_it_says_who_it_is_again_where_a_search_begins_anew(board: Board) -> None:
    with board.alive():
        board.box.write(IDENTITY, None)
        board.box.write(TARGET, None)
        until(lambda: {IDENTITY, TARGET} <= board.box.letters().keys())
    assert board.ended == "complete"


# --- whom it refuses -------------------------------------------------------------------------


def test_a_target_that_nobody_asks_is_told_whom_the_study_asks(board: Board) -> None:
    with pytest.raises(
        TargetError, match=r"'demo' asks no target 'phone' .*; it asks board\n  fix"
    ):
        board.serve("phone")


def test_another_meter_is_refused_with_both_named(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    with board.alive():
        pass
    monkeypatch.setattr(energy, "ReplayMeter", lambda: ReplayMeter([1.0]))
    with pytest.raises(TargetError, match=r"detail: then 3 fixed values, now 1 fixed values"):
        board.serve()
    assert "trouble" not in board.box.letters().get(TARGET, {})  # the right one may still come


def test_another_device_is_refused_with_both_named(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    with board.alive():
        pass
    then = device.fingerprint("cpu", threads=1)["cpu"]
    monkeypatch.setattr(device, "_cpu_model", lambda: "Cortex-A53")
    with pytest.raises(TargetError) as caught:
        board.serve()
    assert f"device.cpu: then {then}, now Cortex-A53" in caught.value.problem


@pytest.mark.parametrize("news", [{"kdbench": "0.0.1"}, {"protocol": 1}])
def test_another_kdbench_is_refused_with_both_named(board: Board, news: dict[str, object]) -> None:
    board.invite(**news)
    with pytest.raises(
        StoreError,
        match=rf"kdbench .*, protocol .*; this is kdbench {kdbench.__version__}, protocol "
        rf"{MEASUREMENT_PROTOCOL}\n  fix: install the same",
    ):
        board.serve()


def test_a_search_that_goes_on_with_another_kdbench_ends_its_target(board: Board) -> None:
    with board.alive():
        board.invite(kdbench="99.0")
        until(lambda: TARGET not in board.box.letters())
    assert "is searched by kdbench 99.0" in str(board.ended)


def test_a_model_is_refused_where_the_study_asks_for_a_measurement_and_trainers_hear_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(ReplayMeter):
        name, source = "codecarbon", "model"

    def missing() -> energy.EnergyMeter:
        raise MeterError("no such counter", fix="buy one")

    openers = dict.fromkeys(("powercap", "ina3221", "pi5", "apple", "nvml"), missing)
    monkeypatch.setattr(energy, "_openers", lambda _: {**openers, "codecarbon": Model})
    asks = Board(tmp_path, "energy={meter: auto, require: measured}")
    with pytest.raises(MeterError, match=r"no meter measures cpu here.*\n  fix: .*require: any"):
        asks.serve()
    trouble = asks.box.letters()[TARGET]["trouble"]
    assert trouble["problem"] == "no meter measures cpu here (`energy.meter: auto`)"
    assert "codecarbon: only a model" in trouble["fix"]


def test_the_photo_is_found_by_its_pixels_or_missed_by_name(board: Board, tmp_path: Path) -> None:
    settings = board.box.letters()[SEARCH]["settings"]
    folder = tmp_path / "photos"
    settings["data"]["evaluation"] = str(folder)
    board.invite(settings=settings)
    with pytest.raises(DataError, match=r"is not here: no folder .*\n  fix: copy .* into "):
        board.serve()
    folder.mkdir()
    photos = load_images("builtin", "evaluation").photos
    (folder / "other.png").write_bytes(photos[1].path.read_bytes())
    with pytest.raises(DataError, match=r"none of the 1 photos .* shows the pixels of "):
        board.serve()
    (folder / "under another name.png").write_bytes(photos[0].path.read_bytes())
    board.invite(ended="complete")
    assert board.serve() == "complete"


# --- who is it ---------------------------------------------------------------------------------


def test_two_of_one_name_on_one_host_are_refused(board: Board) -> None:
    with (
        board.alive(),
        pytest.raises(TargetError, match=r"'board' runs already, as process \d+ on"),
    ):
        board.serve()


def test_one_of_another_host_that_lives_is_left_alone(board: Board) -> None:
    letter = {"host": "elsewhere", "pid": 7, "n": 1, "at": "", "measures": None}
    board.box.write(TARGET, letter)
    done = threading.Event()

    def beat() -> None:
        box = Mailbox(connect(board.url, create=False), "demo", "board")
        for n in range(2, 1000):
            if done.wait(0.05):
                return
            box.write(TARGET, letter | {"n": n})

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(TargetError, match="runs already, as process 7 on elsewhere"):
        board.serve()
    done.set()
    thread.join()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("measures", [None, "started-a"])
def test_one_that_was_killed_is_followed_by_another_who_answers_what_it_left(
    board: Board, where: str, measures: str | None
) -> None:
    seen_on = host() if where == "here" else where
    letter = {"host": seen_on, "pid": NOBODY_PID, "n": 3, "at": "", "measures": measures}
    board.box.write(TARGET, letter)
    board.ask()
    board.invite(ended="complete")
    assert board.serve() == "complete"
    assert read(board).target == "board"


def test_a_study_without_a_meter_cannot_name_a_target(tmp_path: Path) -> None:
    with pytest.raises(KdbenchError, match=r"energy\.meter: got \"none\"; target needs a meter"):
        stub.study(tmp_path, "target=board", "energy.meter=none")


def test_energies_of_two_targets_are_told_apart() -> None:
    here = CodecEnergy(
        encode=stub.reading("encode", 2.0), decode=stub.reading("decode", 3.0), device="x"
    )
    assert here.origin == "replay"
    assert replace(here, target="jetson-1").origin == "replay, jetson-1"
