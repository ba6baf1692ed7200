"""10,000 mutants of study and space files: each is valid or an error that names its place.

About a minute of CPU, most of it marked slow; KDBENCH_MUTANTS says how many.
"""

import os
import re
import time
from pathlib import Path

import pytest

from kdbench import cli
from kdbench.check import check_files
from kdbench.config import load_any_study
from kdbench.errors import ConfigError
from tests.support.mutants import text_mutants

ROOT = Path(__file__).parents[2]
N = int(os.environ.get("KDBENCH_MUTANTS", "10000"))
N_CHUNKS = 5
LONGEST_S = 20.0  # for one file, on a machine with other work; a hang would be minutes
VALID = [
    path.read_text()
    for kind in ("studies", "search_spaces")
    for path in (ROOT / kind).glob("*.yaml")
]


@pytest.mark.parametrize(
    "chunk", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, N_CHUNKS))]
)
def test_a_mutant_of_a_study_or_space_file_is_valid_or_an_error_with_its_place(
    chunk: int, tmp_path: Path
) -> None:
    path = tmp_path / "mutant.yaml"
    n_wrong = 0
    for data in text_mutants(VALID, N // N_CHUNKS, seed=chunk):
        path.write_bytes(data)
        began = time.monotonic()
        problems = [str(problem) for problem in check_files([path])]
        assert all(said.startswith("/") or ".yaml" in said for said in problems), problems
        n_wrong += bool(problems)
        if chunk == 0:
            assert "\n  fix: " in _answer(path)
        assert time.monotonic() - began < LONGEST_S, data
    assert n_wrong > N // N_CHUNKS // 2


def _answer(study: Path | str, *overrides: str) -> str:
    """What `search` says to it; a fix where nothing is wrong, too."""
    try:
        load_any_study(study, overrides)
    except ConfigError as why:
        return str(why)
    return "\n  fix: nothing"


@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_an_override_of_any_kind_is_taken_or_an_error(chunk: int) -> None:
    for data in text_mutants(["trials=4", "space.encoder.width=[16, 32]"], 100, seed=100 + chunk):
        assert "\n  fix: " in _answer("kd_pareto", data.decode(errors="replace"))


LAUGHS = "a: &a [x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
BOMBS = {
    "a billion laughs": (LAUGHS, "more than 100000 values, aliases followed"),
    "a list that holds itself": ("a: &a [*a, *a, *a, *a]\n", "nested too deep|more than"),
    "a map that holds itself": ("a: &a {b: *a, c: *a}\n", "nested too deep|more than"),
    "lists in lists": ("a: " + "[" * 100_000, "nested too deep"),
    "maps in maps": ("a: " + "{b: " * 50_000, "nested too deep"),
    "dashes": ("- " * 200_000, "nested too deep"),
    "a long text": ("a: " + "x" * 10_000_000, "cannot be read: it has more than 1 MiB"),
    "a long number": ("trials: " + "9" * 100_000, "is not YAML: "),
    "a NUL byte": ("a: \0\n", "is not YAML"),
    "a tag": ("a: !!python/object/apply:os.system ['touch unpickled']\n", "tags have no meaning"),
    "a tag of a text": ("a: !!python/name:os.system ''\n", "is not YAML: "),
    "a key twice": ("trials: 1\ntrials: 2\n", "trials: is there twice, first on line 1"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_blow_up_a_parser_is_an_error_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, answer = BOMBS[name]
    Path("bomb.yaml").write_text(text)
    began = time.monotonic()
    assert cli.main(["check", "./bomb.yaml"]) == 1
    said = capsys.readouterr().out
    assert re.search(answer, said), said
    assert cli.main(["search", "--study", "./bomb.yaml"]) == 1
    said = capsys.readouterr().err
    assert "\n  fix: " in said
    assert "Traceback" not in said
    assert time.monotonic() - began < LONGEST_S
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"name: \xed\xa0\x80\n", b"\xc3"])
def test_a_file_that_is_not_utf_8_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes.yaml"
    path.write_bytes(data)
    (problem,) = check_files([path])
    assert problem.rule == "cannot be read: it is not UTF-8 text"


def test_a_file_that_never_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()
    Path("studies/endless.yaml").symlink_to("/dev/zero")
    os.mkfifo("studies/silent.yaml")
    for name in ("endless", "silent"):
        with pytest.raises(ConfigError, match="cannot be read: it is no file"):
            load_any_study(name)


@pytest.mark.parametrize("key", ["a." * 3000 + "a", "space." * 30 + "width", "." * 100, "=" * 50])
def test_a_key_that_is_too_deep_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError):
        load_any_study("kd_pareto", [f"{key}=1"])
