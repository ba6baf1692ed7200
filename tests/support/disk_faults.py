"""Writes of a command fail in turn; run as a process of its own, started with a FaultyDisk.

    python -m tests.support.disk_faults COMMAND KIND FOLDER --each turn     as the tests do
    python -m tests.support.disk_faults COMMAND KIND FOLDER --each place    places, see `_sites`
    python -m tests.support.disk_faults COMMAND KIND FOLDER --each write    every write

KIND is `full`, `read-only` (both from that write on), `broken` (that write alone) or `all`. `turn`
is `place`, but for slow commands the kinds take turns over the places.

A line of JSON for each failure. The command runs in this process, in a fresh copy of its folder:
first with the failure, where it must end with a problem and its fix (or as if nothing had been, if
the write was of no importance); then everything in the folder must be whole; then the same command
must find what it finds without any failure.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import contains
from pathlib import Path
from typing import Any

from kdbench import cli
from kdbench.errors import KdbenchError
from kdbench.files import disk_errors
from kdbench.seals import unseal_json
from tests.support import search as stub
from tests.support.disk import ERRORS, FaultyDisk

Found = Any  # what a command finds; compared with what it found without failures
SAID = "\n  fix: "
DATABASE = "optuna.db"
RECORDS = "root|study|spec|rungs|result"
EACH = ("turn", "place", "write")
CHANGES = r"(?<=-)[a-z0-9_]{8}(?=/|$)|[0-9a-f]{8,}|[0-9]+"  # in paths, from run to run


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, or several in a row, of which the first that fails ends it.

    Attributes:
        prepare: Makes the folder that it works in.
        run: Does it, there; an exit code.
        found: What it left.
        own: Which writes are its own, call and path; others are those of other commands: of a trial
            what a search with stubs keeps, and an evaluation's files, which `teach` writes, too.
        only: Which fail where each place is to, others being written alike; empty: its own.
        is_slow: Whether each place fails on one kind of disk only with `turn`.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], int]
    found: Callable[[Path], Found]
    own: str = ""
    only: str = ""
    is_slow: bool = False


# --- commands --------------------------------------------------------------------------------


def _typed(*commands: str) -> Callable[[Path], int]:
    def run(folder: Path) -> int:
        for command in commands:
            if code := cli.main(shlex.split(command)):
                return code
        return 0

    return run


def _whole_search(folder: Path, cfg: Any, ground: Any, run: Any) -> int:
    """`search` with its worker in this process."""
    from kdbench.search.budget import Budget, set_budget
    from kdbench.search.dead import queue_lost, settle
    from kdbench.search.locks import StudyLocks
    from kdbench.search.storage import quiet, storage_errors
    from kdbench.search.study import begin
    from kdbench.search.worker import work
    from kdbench.store import Store

    store = Store(folder / "runs")
    url, locks = store.database_url(cfg.name), StudyLocks(store, cfg.name)
    try:
        with disk_errors():
            store.require_writable()
            with locks.coordinator(), storage_errors(url), quiet():
                study, _ = begin(cfg, store, url, ground)
                settle(study, store, locks.is_alive)
                queue_lost(study, store, locks.is_alive)
                set_budget(study, Budget(trials=cfg.trials, asks_per_trial=1))
                store.clear_workers(cfg.name)
                work(cfg.name, store, index=0, run=run)
    except KdbenchError as why:
        print(why, file=sys.stderr)
        return 1
    return 0


LADDER = "ladder={rungs: [0.2, 0.5], stop: false}"


def _stub_search(folder: Path) -> int:
    from tests.support.faults import points

    cfg = stub.study(folder.parent, "trials=2", points(2), LADDER)
    return _whole_search(folder, cfg, lambda: stub.GROUND, stub.run)


def _real_search(folder: Path, *settings: str) -> int:
    from kdbench.config import load_study
    from kdbench.search.ground import survey
    from kdbench.store import Store

    listed = "sampler={name: listed, points: [{encoder.width: 24}]}"
    small = ("trials=1", "training.steps=4", "data.crops=16", listed, LADDER, *settings)
    cfg = load_study("quick", small)
    return _whole_search(folder, cfg, lambda: survey(cfg, Store(folder / "runs")), None)


def _trials(folder: Path, study: str) -> Found:
    """What a search kept, by spec, and what it told its database."""
    import optuna

    from kdbench.search.attributes import SPEC_HASH
    from kdbench.store import Store

    store = Store(folder / "runs")
    done = [trial for trial in store.trials(study) if trial.result is not None]
    kept = [
        (t.spec.hash, [rung.step for rung in t.rungs], dict(t.result.hashes), t.result.bd_rate)
        for t in done
        if t.result
    ]
    known = optuna.load_study(study_name=study, storage=store.database_url(study)).get_trials()
    told = {(t.state.name, t.user_attrs.get(SPEC_HASH)) for t in known if t.state.name != "FAIL"}
    return {"kept": sorted(map(repr, kept)), "told": sorted(map(repr, told))}


def _files(*names: str) -> Callable[[Path], Found]:
    """Sizes, for what holds a date, of the files that were written."""

    def found(folder: Path) -> Found:
        paths = [p for name in names for p in sorted(folder.glob(name)) if p.is_file()]
        paths = [p for p in paths if not p.name.startswith(".")]  # a disk that kept what is removed
        assert paths
        return [(str(p.relative_to(folder)), p.stat().st_size > 0) for p in paths]

    return found


def _desk(folder: Path) -> None:
    from tests.support.desk import make_desk

    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        make_desk(folder)


def _student(folder: Path) -> None:
    from tests.support.students import make_study_with_student

    make_study_with_student(folder)


def _student_and_file(folder: Path) -> None:
    _student(folder)
    with contextlib.chdir(folder):
        assert cli.main(shlex.split(ENCODE)) == 0


def _without_meters() -> None:
    """Measuring windows take seconds each, and write nothing."""
    from kdbench import cost
    from kdbench.records import CodecEnergy

    readings = (stub.reading("encode", 1.0), stub.reading("decode", 1.0))
    told = CodecEnergy(encode=readings[0], decode=readings[1], device="abacus")
    vars(cost)["energy_of"] = lambda *_, **__: told


def _small_evaluations() -> None:
    """A teacher's curve of two small photos."""
    from kdbench import teach
    from kdbench.data import load_images

    def few(source: str, role: Any, **_: Any) -> Any:
        return load_images(f"photos/{role}", role, crop_px=64)

    vars(teach)["load_images"] = few


ENCODE = "encode photos/evaluation/0.png photo.kdb --codec trial:tiny/0"
REPORTS = [
    f"report --study tiny --format {kind} --out out/{name}"
    for kind, name in (
        ("text", "report.txt"), ("html", "report.html"), ("csv", "report.csv"),
        ("json", "report.json"), ("markdown", "markdown"), ("latex", "latex"), ("svg", "svg"),
    )
]  # fmt: skip
COMMANDS = {
    "search": Command(
        prepare=Path.mkdir, run=_stub_search, found=partial(_trials, study="demo"), is_slow=True
    ),
    "trial": Command(
        prepare=_desk,
        run=_real_search,
        found=partial(_trials, study="quick"),
        own=rf"^(?!.*(/{DATABASE}|/workers/|/kdbench-evaluate-|/\.?({RECORDS})\.json))",
        only=r"^rename (?!.*/(workers|rungs)\b)|^write .*/(log\.jsonl|crops-|kdbench-evaluate-)",
        is_slow=True,
    ),
    "cache": Command(
        prepare=_desk,
        run=lambda folder: _real_search(folder, "space.distillation.teacher=teacher:default"),
        found=partial(_trials, study="quick"),
        own=r"/cache/teacher-",
        is_slow=True,
    ),
    "report": Command(
        prepare=_student,
        run=_typed(*REPORTS),
        found=_files("out/**/*"),
        only=r"/(\.?)(report\.|README|rd-psnr)",  # all figures are written alike
        is_slow=True,
    ),
    "export": Command(
        prepare=_student,
        run=_typed("export --study tiny --trial 0 --to out"),
        found=_files("out/*"),
    ),
    "encode": Command(prepare=_student, run=_typed(ENCODE), found=_files("photo.kdb")),
    "decode": Command(
        prepare=_student_and_file,
        run=_typed("decode photo.kdb out.png --codec trial:tiny/0"),
        found=_files("out.png"),
    ),
    "teach": Command(
        prepare=_student,
        run=_typed(
            "teach mine --images photos/train --steps 2 --crop 64 --batch 2 --width 16 --hyper 16 "
            "--latent 32"
        ),
        found=_files("teachers/mine.*"),
        is_slow=True,
    ),
    "measure": Command(
        prepare=_student,
        run=_typed("measure --study tiny --trial 0"),
        found=_files("runs/tiny/trials/0/measured-0.json"),  # what was not synced may stay, too
    ),
    "bench": Command(
        prepare=_student,
        run=_typed("bench jpeg --no-energy --images photos/evaluation"),
        found=_files("runs/cache/curve-*.json"),
        is_slow=True,
    ),
}


# --- failing -----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("kind", choices=[*ERRORS, "all"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", choices=EACH, default=EACH[0])
    parser.add_argument("--only", type=int, nargs="*", help="these writes, by their number")
    args = parser.parse_args()
    _without_meters()
    _small_evaluations()
    command, kinds = COMMANDS[args.command], ERRORS if args.kind == "all" else (args.kind,)
    with contextlib.redirect_stdout(io.StringIO()):
        command.prepare(args.folder / "base")
    for kind in kinds:
        for outcome in outcomes(command, kind, args.folder, each=args.each, only=args.only):
            print(json.dumps(outcome), flush=True)


def outcomes(
    command: Command,
    kind: str,
    folder: Path,
    *,
    each: str,
    only: Sequence[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """What came of each failure: `n`, `what`, `problem` (None: all as it should be).

    The command's folder is copied from `folder`/base.
    """
    disk = FaultyDisk.here()
    base, here = folder / "base", folder / "here"
    _fresh(base, here)
    disk.watch(here, kind)
    code, said = _run(command, here)
    disk.heal()
    assert code == 0, said
    expected, seen = command.found(here), disk.seen
    for n in only or _failing(command, kind, each, here, seen):
        _fresh(base, here)
        disk.arm(here, n, kind, stays=kind != "broken")
        code, said = _run(command, here)
        failed, what = disk.n_failed, disk.first_failure
        disk.heal()
        problem = None
        if not failed:
            problem = "nothing failed"
        elif (code, "Traceback" in said, "a bug" in said) not in (
            (1, False, False),
            (0, False, False),
        ):
            problem = f"it ended with {code}: {said}"
        elif code == 1 and SAID not in said:
            problem = f"it names no fix: {said}"
        problem = problem or damage(here)
        if problem is None:
            again, said_then = _run(command, here)
            if again != 0:
                problem = f"the same command ends with {again}: {said_then}"
            elif (found := command.found(here)) != expected:
                problem = f"the same command finds {found}, not {expected}"
        counted = {"kind": kind, "n": n, "of": len(seen), "what": what}
        yield {**counted, "code": code, "said": said, "problem": problem}


def damage(folder: Path, *, codecs: bool = True) -> str | None:
    """The first file below `folder` that is not whole; hidden ones are not there yet."""
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            if path.suffix == ".json" and "trash" not in path.name:
                text = path.read_text()
                unseal_json(text, names_one=partial(contains, json.loads(text), "checksum"))
            elif path.suffix == ".db" and path.stat().st_size:
                with contextlib.closing(sqlite3.connect(path)) as database:
                    ((answer,),) = database.execute("PRAGMA integrity_check").fetchall()
                    assert answer == "ok", answer
            elif codecs and path.suffix == ".safetensors" and "bad" not in path.name:
                from kdbench.codecs.weights import load_codec

                load_codec(path)
        except (ValueError, AssertionError, sqlite3.Error, KdbenchError) as why:
            return f"{path} is damaged: {why}"
    return None


def _fresh(base: Path, here: Path) -> None:
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(base, here)
    (here / "tmp").mkdir()
    tempfile.tempdir = str(here / "tmp")


def _run(command: Command, here: Path) -> tuple[int, str]:
    """Exit code, and what was said on stderr."""
    said = io.StringIO()
    with (
        contextlib.chdir(here),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            code = command.run(here)
        except SystemExit as why:
            code = int(why.code or 0)
        except BaseException:
            return -1, traceback.format_exc()
    return code, said.getvalue()


def _failing(
    command: Command, kind: str, each: str, here: Path, seen: Sequence[str]
) -> Sequence[int]:
    """Numbers of the writes that are to fail, from 1."""
    if each == "write":
        return [n for n, line in enumerate(seen, start=1) if re.search(command.own, line)]
    sites = _sites(command, here, seen)
    turns = each == "turn" and command.is_slow
    return sites[[*ERRORS].index(kind) :: len(ERRORS)] if turns else sites


def _sites(command: Command, here: Path, seen: Sequence[str]) -> list[int]:
    """The first write of each place, and the first to the database after each other file."""
    first: dict[tuple[str, ...], int] = {}
    file = ""
    for n, line in enumerate(seen, start=1):
        call, _, path = line.partition(" ")
        place = re.sub(CHANGES, "#", path.removeprefix(str(here)))
        if not re.search(command.only or command.own, line):
            continue
        first.setdefault((call, place), n)
        if DATABASE in place:
            first.setdefault((DATABASE, file), n)
        elif call != "fsync":
            file = place
    return sorted({*first.values()})


if __name__ == "__main__":
    os.environ.pop("KDBENCH_ROOT", None)
    main()
