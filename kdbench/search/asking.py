"""The trainers' side of a target device: asks it for energies, waits no longer than the study says.

A request is sent before the training and its answer is collected after it, so that neither waits
for the other; only where a limit, the ladder or `cost_first` needs the figure is it waited for
before a step is trained.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from pydantic import TypeAdapter

import kdbench
from kdbench import config
from kdbench.config import StudyConfig
from kdbench.errors import MeterError, TargetError
from kdbench.records import MEASUREMENT_PROTOCOL, CodecEnergy
from kdbench.search.ground import Ground
from kdbench.search.mailbox import ANSWER, ASK, IDENTITY, SEARCH, TARGET, Mailbox, targets
from kdbench.search.storage import connect, storage_errors
from kdbench.store import StoredStudy

if TYPE_CHECKING:
    from kdbench.codecs.learned import LearnedCodec
    from kdbench.cost import Answer

POLL_S = 0.5
FIXED = "target."  # what a study keeps of its target's identity begins so


def command(study: str, target: str) -> str:
    """What starts the target; the database's URL may hold a password and is left to the reader."""
    return f"KDBENCH_STORAGE=URL kdbench worker --role measure --study {study} --as {target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Has students measured by the study's target, in the sense of `cost.Elsewhere`.

    Attributes:
        box: Where the letters are.
        url: Of its database, for errors.
        identity: Of the target, as the study began with it.
        timeout_s: How long an answer is waited for.
        before_training: Whether a trial needs the figure before it trains.
    """

    box: Mailbox
    url: str
    identity: Mapping[str, str]
    timeout_s: float
    before_training: bool

    def ask(self, model: "LearnedCodec") -> "Answer":
        """Has a started, finalised student measured, unless its architecture is known.

        Raises:
            StoreError: The database does not answer.
        """
        from kdbench.codecs.weights import codec_bytes
        from kdbench.cost import architecture_key

        def file() -> bytes:
            return codec_bytes(model, {})

        return self._asked(f"started-{architecture_key(model)}", file, is_trained=False)

    def ask_trained(self, path: Path) -> "Answer":
        """Has a trained student measured, from its file; likewise."""
        from kdbench.codecs.weights import file_sha

        return self._asked(f"trained-{file_sha(path)}", path.read_bytes, is_trained=True)

    def _asked(self, key: str, file: Callable[[], bytes], *, is_trained: bool) -> "Answer":
        def send(letters: Mapping[str, Any]) -> None:
            if letters.keys().isdisjoint({ASK + key, ANSWER + key}):
                self.box.ask(key, file(), is_trained=is_trained)

        with storage_errors(self.url):
            send(self.box.letters())
        return lambda: self._answer(key, send)

    def _answer(self, key: str, send: Callable[[Mapping[str, Any]], None]) -> CodecEnergy:
        """Waits for it.

        Raises:
            MeterError: The target could not measure it; the next one who asks is answered anew.
            TargetError: It is silent, or is not what the study began with.
        """
        end = time.monotonic() + self.timeout_s
        while True:
            with storage_errors(self.url):
                letters = self.box.letters()
                send(letters)  # again, where the target could not read it
            if (answer := letters.get(ANSWER + key)) is not None:
                return self._read(key, answer)
            if time.monotonic() > end:
                raise silent(self.box, letters, self.timeout_s)
            time.sleep(POLL_S)

    def _read(self, key: str, answer: Mapping[str, Any]) -> CodecEnergy:
        target = self.box.target
        if "problem" in answer:
            with storage_errors(self.url):
                self.box.write(ANSWER + key, None)
            raise MeterError(f"on target {target!r}: {answer['problem']}", fix=str(answer["fix"]))
        require_same(target, self.identity, answer["identity"])
        return TypeAdapter(CodecEnergy).validate_python(answer["energy"])


def asking(cfg: StudyConfig, ground: Ground, storage: BaseStorage, url: str) -> Asking | None:
    """Who measures for this study; None of one that measures where it trains."""
    if cfg.target is None or ground.target is None:
        return None
    limits_energy = any("_j_per_mpx" in name for name in cfg.constraints.limits)
    return Asking(
        box=Mailbox(storage, cfg.name, cfg.target),
        url=url,
        identity=ground.target,
        timeout_s=cfg.target_timeout_s,
        before_training=limits_energy or cfg.cost_first or cfg.ladder is not None,
    )


def with_target(
    cfg: StudyConfig,
    ground: Ground,
    storage: BaseStorage,
    stored: StoredStudy | None,
    on_wait: Callable[[str], None],
) -> Ground:
    """`ground` with the identity of the study's target, waited for where the study is new.

    Args:
        cfg: A study that names a target.
        ground: What this machine adds.
        storage: Optuna's.
        stored: What the study began with; None of a new one.
        on_wait: Told once that the target is waited for, and what starts it.

    Raises:
        TargetError: No target of this name joined within `target_timeout_s`, or it cannot measure.
    """
    assert cfg.target is not None
    box = Mailbox(storage, cfg.name, cfg.target)
    box.create()
    box.write(SEARCH, _invitation(cfg))
    box.sweep()
    known = _identity_in(stored)
    if known is None:
        for key in (IDENTITY, TARGET):  # whoever is there says so again
            box.write(key, None)
        known = _joined(cfg, box, on_wait)
    elif box.letters().get(IDENTITY) != known:
        box.write(IDENTITY, known)
    return replace(ground, target=known, meter=f"{known['meter']} ({known['source']})")


def close(cfg: StudyConfig, url: str, ended: str) -> None:
    """Tells the target that the search is over; it measures what is asked by now, and ends."""
    if cfg.target is None:
        return
    with closing(connect(url, create=False)) as storage:
        if cfg.target not in targets(storage).get(cfg.name, []):
            return
        box = Mailbox(storage, cfg.name, cfg.target)
        box.write(SEARCH, {**box.letters()[SEARCH], "ended": ended})
        box.sweep()


def _invitation(cfg: StudyConfig) -> dict[str, Any]:
    from kdbench.data import load_images

    photo = load_images(cfg.data.evaluation, "evaluation").photos[0]
    return {
        "kdbench": kdbench.__version__,
        "protocol": MEASUREMENT_PROTOCOL,
        "settings": config.settings(cfg),
        "photo": {"name": photo.name, "sha": photo.sha},
    }


def _identity_in(stored: StoredStudy | None) -> dict[str, str] | None:
    """What a study that has begun knows of its target."""
    fixed = {} if stored is None else stored.fixed
    known = {k.removeprefix(FIXED): v for k, v in fixed.items() if k.startswith(FIXED)}
    return known or None


def _joined(cfg: StudyConfig, box: Mailbox, on_wait: Callable[[str], None]) -> dict[str, str]:
    """The identity of a target that has joined, waited for."""
    end, told = time.monotonic() + cfg.target_timeout_s, False
    while True:
        letters = box.letters()
        if (trouble := letters.get(TARGET, {}).get("trouble")) is not None:
            raise TargetError(
                f"target {box.target!r} cannot measure for study {box.study!r}: "
                f"{trouble['problem']}",
                fix=str(trouble["fix"]),
            )
        if TARGET in letters and IDENTITY in letters:
            return {str(key): str(value) for key, value in letters[IDENTITY].items()}
        if time.monotonic() > end:
            error = silent(box, letters, cfg.target_timeout_s)
            box.remove()  # the study has not begun, and may name another target
            raise error
        if not told:
            on_wait(
                f"waiting for target {box.target!r}, {cfg.target_timeout_s:g} s at most; it joins "
                f"by `{command(box.study, box.target)}`"
            )
            told = True
        time.sleep(POLL_S)


def silent(box: Mailbox, letters: Mapping[str, Any], timeout_s: float) -> TargetError:
    """What to raise where a target has not answered in time."""
    seen = letters.get(TARGET)
    if seen is None and IDENTITY not in letters:
        last = "nobody of that name has joined"
    elif seen is None:
        last = "it has left"
    else:
        last = f"last heard of {seen['at']} UTC, process {seen['pid']} on {seen['host']}"
        if seen.get("measures"):
            last += ", while it measured"
    others = sorted({name for names in targets(box.storage).values() for name in names})
    known = [name for name in others if name != box.target]
    also = f"; targets that this database knows: {', '.join(known)}" if known else ""
    return TargetError(
        f"target {box.target!r} has not answered study {box.study!r} within {timeout_s:g} s "
        f"(`target_timeout_s`): {last}{also}",
        fix=f"start it where it measures, `{command(box.study, box.target)}`; the same search goes "
        "on then from what is finished",
    )


def require_same(target: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Passes a target that is what the study began with.

    Raises:
        TargetError: Another meter or another device; names both.
    """
    differ = [
        f"{key}: then {then.get(key, 'none')}, now {now.get(key, 'none')}"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    ]
    if differ:
        raise TargetError(
            f"target {target!r} is not what the study began with, and its figures would not "
            "compare:\n  " + "\n  ".join(differ),
            fix="measure again with that device and meter, or begin another study: "
            "`--set name=NAME`",
        )
