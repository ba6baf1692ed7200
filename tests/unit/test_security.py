"""What SECURITY.md promises of files and names of others, by reading our code and by trying."""

import ast
import io
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from kdbench import cli, package, zoo
from kdbench.anchor import codec_files
from kdbench.bench import CodecFigures
from kdbench.codecs.weights import load_codec, read_card
from kdbench.coding import load_named
from kdbench.config import load_any_study
from kdbench.data import load_images
from kdbench.errors import KdbenchError
from kdbench.files import load, read_log, read_sealed
from kdbench.once import cached
from kdbench.seals import seal
from kdbench.store import Store, StoredStudy
from kdbench.teacher import load_teacher
from kdbench.train import damage
from tests.support.desk import Trap

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / "kdbench").rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called; `.name` of a method."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield _dotted(node.func), node


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def keywords(call: ast.Call) -> dict[str, object]:
    return {
        k.arg: k.value.value if isinstance(k.value, ast.Constant) else ...
        for k in call.keywords
        if k.arg
    }


def found(is_wrong: Callable[[str, ast.Call], bool]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in OURS
        for name, call in calls(path)
        if is_wrong(name, call)
    ]


# --- reading our code --------------------------------------------------------------------------

EXECUTES = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "yaml.load",
        "yaml.full_load",
    ),
    *("yaml.unsafe_load", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads"),
    *("marshal.load", "shelve.open", "dill.load", "joblib.load", "np.load", "numpy.load"),
    *("runpy.run_path", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "pandas.read_pickle"),
}
MAY_EXECUTE: Mapping[str, str] = {}  # nothing may


def test_nothing_unpickles_evaluates_or_asks_a_shell() -> None:
    assert found(lambda name, call: name in EXECUTES - MAY_EXECUTE.keys()) == []
    assert found(lambda name, call: bool(keywords(call).get("shell"))) == []
    assert found(lambda name, call: bool(keywords(call).get("allow_pickle"))) == []


def test_torch_reads_tensors_and_nothing_else() -> None:
    loads = found(lambda name, call: name == "torch.load")
    assert loads
    assert (
        found(lambda name, c: name == "torch.load" and keywords(c).get("weights_only") is not True)
        == []
    )


def test_yaml_has_one_loader_and_that_is_a_safe_one() -> None:
    text = (ROOT / "kdbench/yamlfile.py").read_text()
    assert "class _Loader(yaml.SafeLoader)" in text
    others = [
        str(path)
        for path in OURS
        if "import yaml" in path.read_text() and path.name != "yamlfile.py"
    ]
    assert others == []


PRAGMA = "PRAGMA integrity_check"  # has no expression in SQLAlchemy
PROBE = "kdbench/doctor.py"  # asks whether SQLite works at all, in a file of its own


def test_databases_are_asked_through_the_orm_only() -> None:
    spoken = ("execute", "executemany", "executescript", "exec_driver_sql")
    wrong = found(
        lambda name, call: (
            name.rpartition(".")[2] in spoken
            and bool(call.args)
            and isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)
            and getattr(call.args[0], "value", None) != PRAGMA
        )
    )
    assert [each for each in wrong if not each.startswith(PROBE)] == []
    for path in OURS:
        taken = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        spoken_of = {
            a.name for n in taken if (n.module or "").startswith("sqlalchemy") for a in n.names
        }
        assert "text" not in spoken_of, path


WRITES = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "tofile", "savez"}
MAY_WRITE = {  # beside `files`, which writes whole or not at all
    "kdbench/cli.py": "a traceback, into a temporary file",
    "kdbench/codecs/weights.py": "reads",
    "kdbench/data/crops.py": "a cache as large as its photos, written piece by piece, then renamed",
    "kdbench/decoder.py": "a pipe",
    "kdbench/device.py": "asks the kernel to count peak memory anew",
    "kdbench/evaluate.py": "a temporary folder for the decoder",
    "kdbench/conformance.py": "a temporary folder for the suite",
    "kdbench/lease.py": "a note for the messages of others",
    "kdbench/once.py": "locks",
    "kdbench/search/crew.py": "what workers print",
    "kdbench/search/locks.py": "locks",
    "kdbench/search/slurm.py": "a script in a temporary folder, for sbatch to read",
    "kdbench/search/target.py": "a codec file in a temporary folder",
    "kdbench/teacher.py": "memory maps, in a folder that is renamed when it is whole",
}


def _writes(name: str, call: ast.Call) -> bool:
    last = name.rpartition(".")[2]
    if last in WRITES or name in ("os.open", "os.fdopen", "tempfile.NamedTemporaryFile"):
        return True
    if name == "open" or last == "open":
        modes: list[object] = [a.value for a in call.args if isinstance(a, ast.Constant)]
        modes.append(keywords(call).get("mode"))
        return any(isinstance(m, str) and m in _MODES for m in modes)
    return False


_MODES = {f"{a}{b}{c}" for a in "rwax" for b in ("", "b", "t") for c in ("", "+")} - {
    "r",
    "rb",
    "rt",
}


def test_every_write_is_whole_or_not_there_or_says_why_it_need_not_be() -> None:
    wrong = [each for each in found(_writes) if not each.startswith("kdbench/files.py")]
    places = Counter(each.partition(":")[0] for each in wrong)
    assert places.keys() <= MAY_WRITE.keys()


def test_the_dashboard_listens_to_this_machine_alone() -> None:
    from kdbench.dashboard.server import LOOPBACK

    assert LOOPBACK == "127.0.0.1"
    assert found(lambda name, call: any(v == "0.0.0.0" for v in keywords(call).values())) == []
    for path in OURS:
        assert "0.0.0.0" not in path.read_text(), path


# --- trying ------------------------------------------------------------------------------------


def _raw() -> bytes:
    return pickle.dumps(Trap())


def _protocol_0() -> bytes:
    return pickle.dumps(Trap(), protocol=0)


def _torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": Trap(), "training": "x", "step": 1}, buffer)
    return buffer.getvalue()


def _torch_saved_long_ago() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": Trap()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _numpy_saved() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../unpickled", b"")
        archive.writestr("archive/data.pkl", _raw())
    return buffer.getvalue()


def _yaml() -> bytes:
    return b"name: !!python/object/apply:os.system ['touch unpickled']\nspace: hyperprior\n"


TRAPS = {
    made.__name__.strip("_"): made
    for made in (
        *(_raw, _protocol_0, _torch_saved, _torch_saved_long_ago, _numpy_saved, _zipped, _yaml),
    )
}


def _as_package(path: Path) -> object:
    folder = path.with_suffix("")
    folder.mkdir()
    for name in ("codec.safetensors", "card.json"):
        (folder / name).write_bytes(path.read_bytes())
    return package.load(folder)


def _as_photos(path: Path) -> object:
    folder = path.with_suffix("")
    folder.mkdir()
    for name in ("a.png", "b.webp", "c.tif"):
        (folder / name).write_bytes(path.read_bytes())
    return load_images(folder, "evaluation")


def _as_sealed_checkpoint(path: Path) -> object:
    path.write_bytes(seal(path.read_bytes()))
    return _as_checkpoint(path)


def _as_checkpoint(path: Path) -> object:
    if (why := damage(path)) is not None:
        raise why
    return None


def _as_cached(path: Path) -> object:
    def compute() -> StoredStudy:
        raise KdbenchError("it was not taken", fix="none")

    return cached(path, StoredStudy, compute)


READERS: Mapping[str, Callable[[Path], object]] = {
    "a codec": load_codec,
    "a card": read_card,
    "a teacher": lambda path: load_teacher(f"file:{path}"),
    "an anchor": lambda path: [load_codec(p) for p in codec_files(f"file:{path}")],
    "a codec to encode with": lambda path: load_named(f"file:{path}", Store(path.parent)),
    "a package": _as_package,
    "photos": _as_photos,
    "a checkpoint": _as_checkpoint,
    "a sealed checkpoint": _as_sealed_checkpoint,
    "a record": lambda path: load(path, CodecFigures),
    "a cached record": _as_cached,
    "a log": lambda path: read_log(path) or _nothing_read(),
    "a study": lambda path: load_any_study(path.rename(path.with_suffix(".yaml"))),
}


def _nothing_read() -> NoReturn:
    raise KdbenchError("no whole line", fix="none")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_in_the_place_of_a_file_is_refused_and_does_not_snap(
    trap: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trap.safetensors"
    path.write_bytes(TRAPS[trap]())
    with pytest.raises(KdbenchError):
        READERS[reader](path)
    assert not (tmp_path / "unpickled").exists()
    assert not (tmp_path.parent / "unpickled").exists()


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_in_the_zoo_with_the_right_hash_in_its_name_does_not_snap(
    trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = TRAPS[trap]()
    monkeypatch.setattr(zoo, "read", lambda model: (data, "0" * 64))
    with pytest.raises(KdbenchError, match=r"only tensors are read|holds no weights"):
        zoo.load(zoo.parse("zoo:bmshj2018-hyperprior/1")[0])
    assert not (tmp_path / "unpickled").exists()


def test_a_trap_snaps_where_somebody_unpickles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(_raw()).close()
    assert (tmp_path / "unpickled").exists()


def test_what_was_written_sealed_is_read_and_what_was_changed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(seal(b"content"))
    assert read_sealed(path) == b"content"
    path.write_bytes(seal(b"content").replace(b"nt", b"tn"))
    with pytest.raises(KdbenchError, match="not what its checksum says"):
        read_sealed(path)
    path.write_bytes(b"from before there were checksums")
    assert read_sealed(path) == b"from before there were checksums"


# --- names ---------------------------------------------------------------------------------------

LEAVES = (
    *("../x", "../../etc/passwd", "/etc/passwd", "a/../../x", ".", "..", "C:\\x", "..\\x", "con"),
    *("NUL", "a" * 300, "\u2215etc", "a\nb", "x/", "~root", "a;b", "$(touch x)", "`x`"),
)
COMMANDS = (
    "show --study {}",
    "report --study {} --format json",
    "measure --study {} --trial 0",
    "rerun --study {} --trial 0",
    "export --study {} --trial 0 --to out",
    "worker --study {}",
    "bench trial:{}/0",
    "bench teacher:{}",
    "bench zoo:{}/1",
    "teach {} --steps 1",
    "check {}",
    "show --study tiny --all --root {}",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", LEAVES)
def test_a_name_leaves_no_folder_and_asks_no_shell(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    home = tmp_path / "a" / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.delenv("KDBENCH_ROOT", raising=False)
    before = {*tmp_path.rglob("*")}
    words = [word.replace("{}", name) for word in command.split(" ")]
    try:
        code = cli.main(words)
    except SystemExit as usage:
        code = int(usage.code or 0)
    said = capsys.readouterr()
    if command.startswith("check") and name in (".", "..", "x/"):
        assert code == 1
    assert code in (1, 2), said
    assert "a bug in kdbench" not in said.err
    assert "Traceback" not in said.err
    assert {p for p in tmp_path.rglob("*") if home not in p.parents} <= before
    assert not {*home.rglob("x"), *home.rglob("passwd")}


@pytest.mark.parametrize(
    "which", ["9" * 5000, "../0", "-1", "0/../1", "best:../x", "\u0663", "0\0"]
)
def test_a_selector_of_a_trial_names_one_or_is_an_error(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.results import STUDY, make_study

    monkeypatch.chdir(tmp_path)
    make_study(tmp_path / "runs")
    for command in ("rerun", "measure", "export"):
        words = [command, "--study", STUDY, f"--trial={which}"]
        code = cli.main([*words, *(("--to", "out") if command == "export" else ())])
        said = capsys.readouterr().err
        assert (code, "\n  fix: " in said) == (1, True), said
        assert "a bug in kdbench" not in said
    for number in ("9" * 5000, "../0"):
        assert cli.main(["bench", f"trial:{STUDY}/{number}"]) == 1
        assert "a bug in kdbench" not in capsys.readouterr().err


def test_what_security_md_promises_is_tested_here_or_elsewhere() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = [
        word.strip("`(),.") for word in text.split() if word.strip("`(),.").startswith("tests/")
    ]
    assert named
    assert [path for path in named if not os.path.exists(ROOT / path)] == []
