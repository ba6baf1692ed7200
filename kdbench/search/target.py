"""`kdbench worker --role measure`: a device that measures students for trainers elsewhere.

Joins a study through its database alone, takes codec files out of it, measures each under the one
procedure (`energy.measure`) and answers. It knows nothing of trials and trains nothing: torch runs
the codecs, and no module that trains is loaded.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import kdbench
from kdbench import config
from kdbench.errors import DataError, KdbenchError, StoreError, TargetError
from kdbench.records import MEASUREMENT_PROTOCOL, Bench, CodecEnergy, plain
from kdbench.search.asking import require_same
from kdbench.search.dead import host
from kdbench.search.interrupt import Interrupt
from kdbench.search.locks import Lock
from kdbench.search.mailbox import (
    IDENTITY,
    SEARCH,
    TARGET,
    Letters,
    Mailbox,
    Request,
    unanswered,
)
from kdbench.search.patience import Patience
from kdbench.search.storage import connect, storage_errors
from kdbench.store import Store

if TYPE_CHECKING:
    from kdbench.data import ImageSet

POLL_S = 0.5
BEAT_S = 5.0
SILENT_S = 30.0  # a target elsewhere that has not said anything for so long is gone ...
BUSY_S = 600.0  # ... or, while it measured, for so long
THREADS = 1


def serve(
    study: str,
    target: str,
    store: Store,
    *,
    storage: str | None = None,
    device: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Measure what the study's trainers ask for until its search has ended; says how that ended.

    Args:
        study: Its name.
        target: What this device is called there.
        store: For caches and locks of this device; the study's own folder is not needed.
        storage: URL of the study's database; None: the file in its folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; None: `auto`.
        say: Told what is measured.

    Raises:
        TargetError: The study asks no such target, another process is it, or meter or device are
            not what the study began with.
        MeterError: No meter here that the study accepts.
        StoreError: The study is searched by another kdbench, or its database does not answer.
        DataError: The photo that is measured is not here.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    url = storage or store.database_url(study)
    store.require_writable()
    with (
        Interrupt() as interrupt,
        storage_errors(url),
        closing(
            connect(url, create=False, patience=Patience(sleep=interrupt.sleep, tell=say))
        ) as database,
    ):
        box = Mailbox(database, study, target)
        letters = box.letters()
        _require_same_kdbench(letters, study)
        lock = Lock(Path(store.root) / "targets" / f"{study}@{target}.lock")
        if not lock.take():
            raise _taken(target, f"process {lock.holder} on this host")
        try:
            _require_left(box, letters.get(TARGET), interrupt, say)
            with interrupt.allowed():
                measuring = _begin(box, letters, store, device)
            say(f"target {target!r} of study {study!r} measures by {measuring.shown}")
            return _Loop(box, measuring, interrupt, say).run()
        finally:
            lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What a target measures with.

    Attributes:
        bench: Meter, windows, device, cache.
        images: The one photo.
        identity: Meter and fingerprint, as the study keeps them.
    """

    target: str
    bench: Bench
    images: "ImageSet"
    identity: Mapping[str, str]

    @property
    def shown(self) -> str:
        """Its meter and device in a line."""
        return f"{self.identity['meter']} ({self.identity['detail']}) on {self.bench.device}"

    def energy(self, file: bytes, *, is_trained: bool) -> CodecEnergy:
        """Energy, seconds and memory of coding the photo with the codec in `file`."""
        from kdbench.codecs.bitfile import decode_image, encode_image
        from kdbench.codecs.weights import load_codec
        from kdbench.cost import energy_of
        from kdbench.device import one_thread, peak_memory_bytes
        from kdbench.lease import host_lease

        with tempfile.TemporaryDirectory(prefix="kdbench-target-") as folder:
            path = Path(folder) / "student.safetensors"
            path.write_bytes(file)
            model = load_codec(path)[0].to(self.bench.device)
        energy = energy_of(model, self.images, self.bench, host_lease(), fresh=is_trained)
        assert energy is not None  # a target has a meter
        photo, level = self.images.image(0), model.architecture.n_levels // 2

        def code() -> None:
            decode_image(model, encode_image(model, photo, level))

        with one_thread():
            memory = peak_memory_bytes(code, self.bench.device)
        return replace(energy, target=self.target, peak_memory_bytes=memory)


@dataclass(slots=True)
class _Loop:
    """Looks into the box, measures, answers."""

    box: Mailbox
    measuring: Measuring
    interrupt: Interrupt
    say: Callable[[str], None]
    _n_beats: int = field(default=0, init=False)
    _beat_s: float = field(default=-BEAT_S, init=False)

    def run(self) -> str:
        """Until the search has ended and nothing is left to measure; says how it ended."""
        try:
            while True:
                letters = self.box.letters()
                _require_same_kdbench(letters, self.box.study)
                self._beat(letters)
                requests = unanswered(letters)
                for request in requests:
                    self._measure(request)
                ended = letters[SEARCH].get("ended")
                if ended is not None and not requests:
                    return str(ended)
                if not requests:
                    self.interrupt.sleep(POLL_S)
        finally:
            with suppress(KdbenchError):  # a box that is gone needs no farewell
                self.box.write(TARGET, None)

    def _measure(self, request: Request) -> None:
        file = self.box.file(request)
        if file is None:  # its sender died on the way, or somebody else answered
            self.box.withdraw(request)
            return
        self._say_we_live(measures=request.key)
        what = "trained student" if request.is_trained else "architecture"
        began = time.monotonic()
        try:
            with self.interrupt.allowed():
                energy = self.measuring.energy(file, is_trained=request.is_trained)
        except KdbenchError as why:
            self.box.answer(request, {"problem": why.problem, "fix": why.fix})
            self.say(f"{what} {request.key[-8:]}: {why.problem}")
            return
        identity = dict(self.measuring.identity)
        self.box.answer(request, {"energy": plain(energy), "identity": identity})
        self.say(
            f"{what} {request.key[-8:]}: {energy.j_per_mpx:.3g} J/Mpx ({energy.source}), "
            f"{time.monotonic() - began:.0f} s"
        )

    def _beat(self, letters: Letters) -> None:
        """Says that we live, and who we are where that was forgotten."""
        if IDENTITY not in letters:  # a search of this name begins anew
            self.box.write(IDENTITY, dict(self.measuring.identity))
        if time.monotonic() - self._beat_s >= BEAT_S or TARGET not in letters:
            self._say_we_live()

    def _say_we_live(self, measures: str | None = None) -> None:
        self._n_beats += 1
        self._beat_s = time.monotonic()
        letter = {
            "host": host(),
            "pid": os.getpid(),
            "n": self._n_beats,
            "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "measures": measures,
        }
        self.box.write(TARGET, letter)


def _begin(box: Mailbox, letters: Letters, store: Store, device: str | None) -> Measuring:
    """What this device measures with; a study that cannot be measured for is told why."""
    try:
        measuring = _measuring(box, letters[SEARCH], store, device)
        if (then := letters.get(IDENTITY)) is not None:
            require_same(box.target, then, measuring.identity)
    except KdbenchError as why:
        if letters.get(IDENTITY) is None:  # else another device may still come
            box.write(TARGET, {"trouble": {"problem": why.problem, "fix": why.fix}})
        raise
    return measuring


def _measuring(
    box: Mailbox, search: Mapping[str, Any], store: Store, device: str | None
) -> Measuring:
    from kdbench.device import fingerprint, resolve
    from kdbench.energy import pick

    cfg = config.from_settings(search["settings"], f"the database, study {box.study}")
    here = resolve(device or "auto")
    meter = pick(cfg.energy, here)
    if meter is None:
        raise TargetError(
            f"study {box.study!r} measures no energy (`energy.meter: none`)",
            fix="let it name a meter that this device has, or `auto`",
        )
    bench = config.bench(cfg, cache=store.cache, device=here, threads=THREADS)
    found = fingerprint(here, threads=THREADS)
    return Measuring(
        target=box.target,
        bench=replace(bench, energy=cfg.energy),
        images=_photo(cfg.data.evaluation, search["photo"]),
        identity={
            "meter": meter.name,
            "source": meter.source,
            "detail": meter.detail,
            **{f"device.{key}": value for key, value in found.items()},
        },
    )


def _photo(source: str, wanted: Mapping[str, str]) -> "ImageSet":
    """The photo that the study measures, found by its pixels.

    Raises:
        DataError: It is not here.
    """
    from kdbench.data import ImageSet, load_images

    fix = f"copy {wanted['name']} of the study's evaluation photos into {source} on this device"
    try:
        images = load_images(source, "evaluation")
    except DataError as why:
        raise DataError(f"the photo that is measured is not here: {why.problem}", fix=fix) from None
    found = [photo for photo in images.photos if photo.sha == wanted["sha"]]
    if not found:
        raise DataError(
            f"none of the {images.n} photos in {source} shows the pixels of {wanted['name']}, "
            "which is measured",
            fix=fix,
        )
    return ImageSet((found[0],))


def _require_same_kdbench(letters: Letters, study: str) -> None:
    """Figures of another kdbench may come from another procedure or other code."""
    search = letters.get(SEARCH, {})
    then = f"kdbench {search.get('kdbench')}, protocol {search.get('protocol')}"
    now = f"kdbench {kdbench.__version__}, protocol {MEASUREMENT_PROTOCOL}"
    if then != now:
        raise StoreError(
            f"study {study!r} is searched by {then}; this is {now}",
            fix="install the same kdbench on both: its figures would not compare else",
        )


def _require_left(
    box: Mailbox,
    seen: Mapping[str, Any] | None,
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> None:
    """Waits until it is sure that no other process is this target.

    One of this host is known by its pid; one of another host by a count that grows no more.

    Raises:
        TargetError: There is one.
    """
    if seen is None or "n" not in seen:
        return
    if seen["host"] == host() and not psutil.pid_exists(int(seen["pid"])):
        return
    end = time.monotonic() + (BUSY_S if seen.get("measures") else SILENT_S)
    say(
        f"target {box.target!r} was process {seen['pid']} on {seen['host']}; waiting to see "
        "whether it lives"
    )
    while time.monotonic() < end:
        interrupt.sleep(POLL_S)
        now = box.letters().get(TARGET)
        if now is None:
            return
        if now["n"] != seen["n"] or now["pid"] != seen["pid"]:
            raise _taken(box.target, f"process {now['pid']} on {now['host']}")


def _taken(target: str, by: str) -> TargetError:
    return TargetError(
        f"target {target!r} runs already, as {by}",
        fix="stop it first, or join under another name that the study asks",
    )
