"""The command line: exit codes, where text goes, and what wrong words are answered with."""

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench import __version__, cli, rerun
from kdbench.arguments import COMMANDS, overrides, parse
from kdbench.cli import FUNCTIONS, main
from kdbench.config import load_study, settings
from kdbench.data import ImageSet
from kdbench.errors import KdbenchError
from kdbench.records import Progress, Training
from kdbench.store import Store
from tests.support.results import OBJECTIVES, STUDY, make_study

NO_PHOTOS = ImageSet(())
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> str:
    make_study(tmp_path)
    return str(tmp_path)


def leave(argv: list[str]) -> int:
    """Exit code of a command line that argparse refuses."""
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    return int(leaving.value.code or 0)


def failing(why: BaseException) -> Callable[[Namespace], int]:
    def command(arguments: Namespace) -> int:
        raise why

    return command


# --- words -----------------------------------------------------------------------------------


def test_every_command_has_a_function_and_a_help(capsys: Capture) -> None:
    assert FUNCTIONS.keys() == COMMANDS.keys()
    assert leave(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\s+\S", listed, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: Capture) -> None:
    assert leave([command, "--help"]) == 0
    assert f"usage: kdbench {command}" in capsys.readouterr().out


def test_the_version_is_the_package_s(capsys: Capture) -> None:
    assert leave(["--version"]) == 0
    assert capsys.readouterr().out == f"kdbench {__version__}\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("serch --study x", "no command 'serch'; there are, nearest first: search, "),
        ("search", "required: --study"),
        ("show --study x --al", "unrecognized arguments: --al"),
        ("search --study x --trials none", "argument --trials: invalid whole number value: 'none'"),
        ("search --study x --trials 0", "argument --trials: 0 is not at least 1"),
        ("search --study x --timeout -3", "argument --timeout: -3 is not above 0"),
        ("teach", "required: NAME"),
        ("teach a/b", "argument NAME: 'a/b' has more than letters"),
    ],
)
def test_wrong_usage_leaves_with_2_and_says_where_help_is(
    line: str, answer: str, capsys: Capture
) -> None:
    assert leave(line.split()) == 2
    told = capsys.readouterr()
    assert answer in told.err
    assert "\n  fix: see `kdbench" in told.err
    assert told.out == ""


def test_no_command_at_all_shows_what_there_is(capsys: Capture) -> None:
    assert leave([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_flags_override_the_study_after_what_set_says() -> None:
    line = "search --study s --set trials=3 --set a.b=[1,2] --trials 5 --timeout 60 --seed 0"
    assert overrides(parse(line.split())) == [
        "trials=3",
        "a.b=[1,2]",
        "trials=5",
        "timeout_s=60.0",
        "seed=0",
    ]


# --- endings ---------------------------------------------------------------------------------


def test_a_problem_is_told_with_its_fix_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    problem = KdbenchError("the disk is full", fix="free some space")
    monkeypatch.setitem(cli.FUNCTIONS, "doctor", failing(problem))
    assert main(["doctor"]) == 1
    assert capsys.readouterr() == ("", "the disk is full\n  fix: free some space\n")


def test_an_interruption_leaves_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(cli.FUNCTIONS, "doctor", failing(KeyboardInterrupt()))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command goes on")


def test_a_bug_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(cli.FUNCTIONS, "doctor", failing(ZeroDivisionError("by what?")))
    assert main(["doctor"]) == 1
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("a bug in kdbench: ZeroDivisionError: by what?; please report it with /")
    kept = Path(line.rpartition(" ")[2])
    assert "Traceback (most recent call last)" in kept.read_text()
    kept.unlink()


def test_a_reader_that_stops_reading_is_no_error(root: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "kdbench", "show", "--study", STUDY, "--root", root],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")


# --- show ------------------------------------------------------------------------------------


def test_show_prints_the_front(root: str, capsys: Capture) -> None:
    assert main(["show", "--study", STUDY, "--root", root]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("study tiny: 2 on the front of 3 complete trials")
    assert told.err == ""


def test_the_root_may_come_from_the_environment(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("KDBENCH_ROOT", root)
    assert main(["show", "--study", STUDY, "--all"]) == 0
    assert "without a result" in capsys.readouterr().out


def test_a_terminal_without_greek_shows_the_table_all_the_same(root: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "kdbench", "show", "--study", STUDY, "--root", root],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "?%" in run.stdout


def test_show_json_is_one_document_with_every_trial(root: str, capsys: Capture) -> None:
    assert main(["show", "--study", STUDY, "--root", root, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["trials"]) == 6


def test_an_unknown_study_is_answered_with_the_nearest(root: str, capsys: Capture) -> None:
    assert main(["show", "--study", "tinny", "--root", root]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "nearest first: tiny" in told.err


# --- check -----------------------------------------------------------------------------------


def test_check_names_every_problem_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("trials: many\nobjectivs: [params]\n")
    assert main(["check", str(wrong)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) > 1
    assert any("wrong.yaml:1: trials: " in line for line in told)
    assert any("wrong.yaml:2: objectivs: no such key; did you mean objectives?" in n for n in told)
    assert main(["check", "--json", str(wrong)]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == len(told)


# --- rerun -----------------------------------------------------------------------------------


@pytest.fixture
def rerunnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A study whose trials come out as before, but for the weights of trial 3."""
    config = load_study("smoke", ["name=tiny", "anchor=teacher:default"])
    store = make_study(tmp_path, settings={**settings(config), "objectives": OBJECTIVES})

    def run_trial(spec: Any, bench: Any, gate: Any, folder: Path, on_progress: Any) -> Any:
        on_progress(Progress(stage="training", step=1, n_steps=2))
        folder.mkdir(parents=True, exist_ok=True)
        result = store.load_trial(STUDY, int(folder.name)).result
        assert result is not None
        if folder.name == "3":
            return replace(result, hashes={**result.hashes, "weights": "other"})
        return result

    monkeypatch.setattr("kdbench.trial.run_trial", run_trial)
    now = {"teacher": "ab12", "crops": "cd34", "code": "0.1.0", "anchor": "ab12"}
    monkeypatch.setattr(rerun, "_stands_on_now", lambda spec, bench: now)
    return store


def run_again(store: Store, trial: str, *more: str) -> int:
    line = ["rerun", "--study", STUDY, "--root", str(store.root), "--device", "cpu"]
    return main([*line, "--trial", trial, *more])


def test_rerun_of_the_best_runs_the_whole_front(rerunnable: Store, capsys: Capture) -> None:
    assert run_again(rerunnable, "best") == 0
    told = capsys.readouterr().out
    assert "trial 0           reproduced: weights and bitstreams are identical" in told
    assert "trial 3           NOT reproduced: other weights on the same machine" in told
    kept = rerunnable.study_folder(STUDY) / "reruns" / "0"
    assert sorted(path.parent.name for path in kept.glob("*/result.json")) == ["0", "3"]


def test_every_rerun_has_a_folder_of_its_own(rerunnable: Store, capsys: Capture) -> None:
    assert run_again(rerunnable, "0") == run_again(rerunnable, "0", "--json") == 0
    told = capsys.readouterr().out
    document = json.loads(told[told.index("{") :])
    assert [run["reproduced"] for run in document["reruns"]] == [True]
    assert (rerunnable.study_folder(STUDY) / "reruns" / "1" / "0" / "result.json").is_file()


def test_rerun_trains_longer_where_it_is_asked_to(
    rerunnable: Store, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    trained = []

    def run_trial(spec: Any, bench: Any, gate: Any, folder: Path, on_progress: Any) -> Any:
        trained.append((spec.training.steps, bench.device))
        result = rerunnable.load_trial(STUDY, 0).result
        assert result is not None
        return replace(result, hashes={"weights": "other", "bitstreams": "other"})

    monkeypatch.setattr("kdbench.trial.run_trial", run_trial)
    long = load_study("kd_pareto_long", []).training.steps
    asked = {("--steps", "1600"): 1600, ("--full",): long, ("--steps", "800"): 800}
    for flags, steps in asked.items():
        assert run_again(rerunnable, "0", "--json", *flags) == 0
        (run,) = json.loads(capsys.readouterr().out)["reruns"]
        assert trained[-1] == (steps, "cpu")
        assert run["steps"] == (None if steps == 800 else {"then": 800, "now": steps})
        assert run["difference"]["pct"] == pytest.approx(0.0, abs=1e-9)
        assert run["reproduced"] is False
    kept = rerunnable.study_folder(STUDY) / "reruns" / "0" / "0" / "spec.json"
    assert json.loads(kept.read_text())["spec"]["training"]["steps"] == 1600


@pytest.mark.parametrize("other", [("--twin",), ("--seeds", "2")])
def test_rerun_trains_longer_or_compares_but_not_both(
    rerunnable: Store, other: tuple[str, ...], capsys: Capture
) -> None:
    assert run_again(rerunnable, "0", "--steps", "1600", *other) == 1
    assert "\n  fix: leave one of them away" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trial", "problem"),
    [
        ("2", "trial 2 has no result to compare with: params is 3,400,000, above"),
        ("5", "trial 5 has no result to compare with: it did not end"),
        ("9", "has no trial 9"),
        ("first", "`first` names no trial"),
    ],
)
def test_rerun_refuses_what_it_cannot_compare(
    rerunnable: Store, trial: str, problem: str, capsys: Capture
) -> None:
    assert run_again(rerunnable, trial) == 1
    told = capsys.readouterr()
    assert problem in told.err
    assert "\n  fix: " in told.err


# --- doctor, bench ---------------------------------------------------------------------------


def test_doctor_finds_something_of_every_kind(tmp_path: Path, capsys: Capture) -> None:
    assert main(["doctor", "--root", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    kinds = ["versions", "devices", "meters", "teachers", "photos", "studies", "storage"]
    assert list(document) == kinds
    assert all(document.values())
    meters = {finding["name"]: finding for finding in document["meters"]}
    boards = {"ina3221", "pi5", "apple"}
    assert meters.keys() == {"nvml", "powercap", "codecarbon", "command"} | boards
    assert all(m["verdict"] == "ok" or "; " in m["detail"] for m in meters.values())
    storage = {finding["name"]: finding["verdict"] for finding in document["storage"]}
    assert storage["sqlite"] == storage["root"] == "ok"


def test_bench_answers_an_unknown_codec_with_the_known_ones(
    tmp_path: Path, capsys: Capture
) -> None:
    assert main(["bench", "gif", "--root", str(tmp_path), "--no-energy"]) == 1
    assert "webp" in capsys.readouterr().err


# --- photos and teachers ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench jpeg --images {}", "teach own --images {}"])
def test_a_wrong_folder_is_answered_with_the_flag_that_named_it(
    command: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(command.format(tmp_path / "none").split()) == 1
    problem, fix = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "none") in problem
    assert "--images" in fix
    assert "data." not in fix


def test_teach_trains_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    told: dict[str, Any] = {}

    def train(architecture: Any, training: Any, photos: Any, **others: Any) -> Path:
        told.update(others, architecture=architecture, training=training, photos=photos)
        return Path(others["out"])

    monkeypatch.setattr("kdbench.teach.teach", train)
    monkeypatch.setattr("kdbench.teach.load_training_photos", lambda sources, crop_px: NO_PHOTOS)
    monkeypatch.chdir(tmp_path)
    line = "teach own --steps 7 --width 24 --latent 96 --hyper 32 --rd-lambdas 0.01 0.02 --batch 4"
    line += " --crop 192 --learning-rate 0.002 --seed 5 --licence CC0 --images a --images builtin"
    assert main([*line.split(), "--device", "cpu"]) == 0
    assert told["out"] == Path("teachers/own.safetensors")
    assert (told["seed"], told["device"]) == (5, "cpu")
    assert told["card"] == {"name": "own", "sources": ["a", "builtin"], "licence": "CC0"}
    a = told["architecture"]
    assert (a.encoder.width, a.decoder.width, a.latent.channels, a.hyper.width, a.n_levels) == (
        24,
        24,
        96,
        32,
        2,
    )
    assert told["training"] == Training(
        steps=7, batch=4, crop_px=192, rd_lambdas=(0.01, 0.02), learning_rate=0.002
    )
    assert "teacher:own" in capsys.readouterr().out


def test_levels_of_a_teacher_ascend(capsys: Capture) -> None:
    assert main(["teach", "own", "--rd-lambdas", "0.02", "0.01"]) == 1
    assert "0.02, 0.01 do not ascend" in capsys.readouterr().err
