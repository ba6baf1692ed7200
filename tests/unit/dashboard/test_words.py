"""Notes in Markdown: what others wrote is shown as it is, and never becomes markup."""

from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.dashboard import words
from kdbench.report.gather import gather
from kdbench.report.overview import overview
from kdbench.store import Failure, Store
from tests.support.results import SPEC, STUDY, make_study, spec

EVIL = "<img src=x onerror=alert(1)> | [x](http://evil.example) `a` **b** #1\n- c"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_study(tmp_path)


def test_what_others_wrote_is_text(store: Store) -> None:
    store.begin_trial(STUDY, 6, spec(6))
    store.save_failure(STUDY, 6, Failure(state="failed", problem=EVIL, fix="none"))
    found = overview(store, STUDY)
    note = words.trial_note(found, found.trials[6], [])
    line = note.splitlines()[0]
    assert line == (
        "**Failed**: \\<img src=x onerror=alert(1)\\> \\| \\[x\\](http://evil.example) "
        "\\`a\\` \\*\\*b\\*\\* \\#1 - c"
    )


def test_every_row_of_a_table_has_as_many_cells_as_its_head(store: Store) -> None:
    found = gather(store, STUDY)
    notes = [words.study_note(found, "/trials/")]
    notes += [words.trial_note(found.found, trial, []) for trial in found.found.trials]
    tables = 0
    for note in notes:
        for block in note.split("\n\n"):
            if block.startswith("|"):
                assert len({line.count("|") for line in block.splitlines()}) == 1
                tables += 1
    assert tables >= 5


def test_a_study_without_an_anchor_has_dashes(tmp_path: Path) -> None:
    found = gather(make_study(tmp_path, with_anchor=False), STUDY)
    note = words.trial_note(found.found, found.found.trials[0], [])
    assert "teacher:default (not measured)" in note
    assert "1.60\u2003".replace("\u2003", "") in note
    assert "\u2003- |" in note


def test_a_spec_is_told_without_what_is_off() -> None:
    off = replace(SPEC, distillation=replace(SPEC.distillation, output=0.0, entropy=0.25))
    lines = words.described(off)
    assert lines[1] == "**decoder**: width 16, kernel 3, activation relu"
    distillation = next(line for line in lines if "distillation" in line)
    assert "latent 0.100" in distillation
    assert "entropy 0.250" in distillation
    assert "output" not in distillation
    assert "rd lambdas 0.00180 / 0.00670 / 0.0250" in next(x for x in lines if "training" in x)
