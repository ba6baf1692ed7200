"""Reports that cannot be: of studies that are not there, of two that do not compare, nowhere."""

from dataclasses import replace
from pathlib import Path

from kdbench.files import write_json
from kdbench.records import SCHEMA
from kdbench.store import Store
from tests.e2e.rows.row import Row
from tests.e2e.rows.words import TRIAL, of_study, usage
from tests.support.desk import edited
from tests.support.results import TEACHER, result, spec

TINY = "report --study tiny"


def another(folder: Path) -> None:
    """A second study, of another anchor and other photos."""
    store = Store(folder / "runs")
    store.create_study(replace(store.load_study("tiny"), name="other"))
    named = replace(TEACHER.rd, images=("b.png",))
    write_json(store.anchor_file("other"), replace(TEACHER, sha="ef56", rd=named))
    store.begin_trial("other", 0, spec(0))
    store.save_result("other", 0, result(30.0, 24, 5.0))


def empty(folder: Path) -> None:
    """A second study whose trial runs."""
    store = Store(folder / "runs")
    store.create_study(replace(store.load_study("tiny"), name="other"))
    store.begin_trial("other", 0, spec(0))


ROWS = {
    "a report of a study that has not begun": of_study("report --study tinny"),
    "a report of nothing": usage("report", "one of the arguments --study --compare is required"),
    "a report of a study and of two": usage(
        "report --study tiny --compare tiny other",
        "argument --compare: not allowed with argument --study",
    ),
    "a report in a format that nobody knows": usage(
        f"{TINY} --format pdf", "argument --format: invalid choice: 'pdf' (choose from [...])"
    ),
    "a study compared with nothing": usage(
        "report --compare tiny", "argument --compare: expected 2 arguments"
    ),
    "a study compared with itself": Row(
        command="report --compare tiny tiny",
        answer="study 'tiny' would be compared with itself\n  fix: name two studies\n",
    ),
    "a study compared with one that has nothing yet": Row(
        broken=empty,
        command="report --compare tiny other",
        answer="study 'other' has no complete trial yet, and nothing to compare\n"
        "  fix: let `kdbench search --study other` finish one\n",
    ),
    "studies of two anchors": Row(
        broken=another,
        command="report --compare tiny other --format html",
        answer="studies 'tiny' and 'other' were not measured alike:\n"
        "  anchor: teacher:weak, sha256 ab12 in tiny, teacher:weak, sha256 ef56 in other\n"
        "  evaluation photos: 2 (with a.png) in tiny, 1 (with b.png) in other\n"
        "  fix: search again under another study name, with the anchor and photos of the other\n",
    ),
    "a page where a folder is": Row(
        command=f"{TINY} --format html --out photos",
        answer="photos is a folder, and a report as html is a file\n"
        "  fix: name another place with `--out`, say photos/report.html\n",
    ),
    "a folder of figures where a file is": Row(
        command=f"{TINY} --format svg --out studies/quick.yaml",
        answer="studies/quick.yaml is a file, and a report as svg is a folder\n"
        "  fix: name a folder with `--out`, which need not be there yet\n",
    ),
    "a page below a file": Row(
        command=f"{TINY} --format html --out studies/quick.yaml/report.html",
        answer="studies/quick.yaml/report.html cannot be written: a file is where a folder should "
        "be\n  fix: name another place with `--out`\n",
    ),
    "a report of results of a newer kdbench": Row(
        broken=edited(f"{TRIAL}/result.json", f'"schema": {SCHEMA}', '"schema": 99'),
        command=f"{TINY} --format html",
        answer=f"HERE/{TRIAL}/result.json has schema 99, this kdbench reads up to {SCHEMA}\n"
        "  fix: use the newer kdbench that wrote it: `pip install --upgrade kdbench`\n",
    ),
}
