"""Reports in every format: what they say, and that no name in a study can say more."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from referencing import Registry, Resource

from kdbench.cli import main
from kdbench.config import CodecList, codec_list_settings
from kdbench.errors import KdbenchError, StoreError
from kdbench.files import write_json
from kdbench.records import MEASUREMENT_PROTOCOL, SCHEMA, BDRate, Reconstruction
from kdbench.report import contents, latex, markdown, tables
from kdbench.report.chart import Chart
from kdbench.report.contents import study_document
from kdbench.report.document import Crops
from kdbench.report.gather import gather
from kdbench.report.interactive import figure_json, plotly_figure
from kdbench.report.page import POLICY, html
from kdbench.report.render import (
    FORMATS,
    IN_ONE_FILE,
    Subject,
    comparison,
    folder,
    printed,
    subject,
)
from kdbench.report.rich_page import report_svg, report_text
from kdbench.report.static import image
from kdbench.samples import png
from kdbench.store import Failure, Store, StoredStudy
from tests.support.results import SETTINGS, STUDY, TEACHER, curve, make_study, result, spec
from tests.unit.report.test_json_view import SCHEMAS

EVIL = (
    '<img src=x onerror=alert(1)></script> & "q" | a_b *c* `d` [x](http://evil.example) '
    "https://evil.example $x$ \\input{x} 100% ~^ {} # -- Δ\u4e2d"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_study(tmp_path)


def evil_study(root: Path) -> Store:
    """A study whose anchor, photos and reasons are `EVIL`."""
    store = make_study(root, settings={**SETTINGS, "anchor": EVIL})
    named = replace(TEACHER.rd, images=(EVIL, "b.png"))
    write_json(store.anchor_file(STUDY), replace(TEACHER, codec=EVIL, rd=named))
    failure = Failure(state="failed", problem=EVIL, fix=EVIL)
    store.save_failure(STUDY, 4, failure)
    for number in (0, 1, 3):
        done = store.load_trial(STUDY, number).result
        assert done is not None
        store.save_result(STUDY, number, replace(done, environment={"cpu": EVIL}))
    return store


def with_crops(store: Store) -> Store:
    """Trial 3 and the anchor keep a cut of a photo."""
    import numpy as np

    grey = np.full((4, 4, 3), 128, dtype=np.uint8)

    def one(level: int, bpp: float) -> Reconstruction:
        return Reconstruction(image="a.png", level=level, bpp=bpp, psnr_db=30.0 + level)

    store.trial(STUDY, 3).save_crop(one(1, 0.3), png(grey))
    levels = {one(level, 0.1 * (level + 1)): png(grey + np.uint8(level)) for level in range(3)}
    store.save_anchor_crops(STUDY, png(grey - np.uint8(1)), levels)
    return store


# --- what they say ---------------------------------------------------------------------------


def test_every_number_of_the_front_leads_to_its_folder(store: Store) -> None:
    text = printed(subject(store, STUDY), "html", 100)
    for number in (0, 3):
        assert f"{STUDY}/trials/{number}, spec {spec(number).hash}" in text
        assert f"kdbench rerun --study {STUDY} --trial {number}" in text


def test_text_tells_source_protocol_versions_and_what_was_searched(store: Store) -> None:
    text = printed(subject(store, STUDY), "text", 100)
    for words in (
        "2 on the front of 3 complete trials",
        "energy (model) is processor time",
        "codecarbon, cpu_load x 8 W (process)",
        "2; figures of two protocols do not compare",
        "sha256 ab12",
        "2.14.1",
        "2: a.png, b.png",
        "No member of the front has a twin",
    ):
        assert words in text


def test_a_narrow_terminal_loses_no_figure(store: Store) -> None:
    document = study_document(gather(store, STUDY), "none")
    assert "…" not in report_text(document, 40)
    assert max(map(len, report_text(document, 100).splitlines())) <= 100


def test_the_json_follows_its_schema(store: Store) -> None:
    schemas = {
        name: json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        for name in ("show", "report")
    }
    registry: Registry[Any] = Registry().with_resources(
        (f"{name}.schema.json", Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    validator = Draft202012Validator(schemas["report"], registry=registry)
    document = json.loads(printed(subject(store, STUDY), "json", 100))
    validator.validate(document)
    assert document["folders"]["3"] == f"{STUDY}/trials/3"
    broken = json.loads(json.dumps(document))
    broken["study"]["trials"][0]["bd_rate"]["pct"] = "little"
    assert not validator.is_valid(broken)


def test_csv_has_a_row_a_trial_with_plain_numbers(store: Store) -> None:
    rows = list(csv.DictReader(StringIO(printed(subject(store, STUDY), "csv", 100))))
    assert [(row["kind"], row["trial"]) for row in rows] == [
        *(("trial", str(number)) for number in range(6)),
        ("anchor", ""),
    ]
    assert float(rows[3]["bd_rate_pct"]) == 12.25
    assert float(rows[3]["bd_rate_low_pct"]) == 6.25
    assert rows[3]["spec.encoder.width"] == "19"
    assert rows[4]["bd_rate_pct"] == ""
    assert rows[2]["kmac_per_px"] == "64.0"


def test_a_cell_that_a_spreadsheet_would_compute_is_text(store: Store) -> None:
    store.save_failure(STUDY, 4, Failure(state="failed", problem="=1+1", fix="none"))
    rows = list(csv.DictReader(StringIO(printed(subject(store, STUDY), "csv", 100))))
    assert rows[4]["reason"] == "'=1+1"


def test_markdown_links_only_files_that_are_there(store: Store) -> None:
    files = folder(subject(with_crops(store), STUDY), "markdown")
    linked = re.findall(r"\]\(([^)]+)\)", files["README.md"].decode())
    assert set(linked) == set(files) - {"README.md"}
    assert "trial-3-crop-0.png" in files
    assert files["front-bd_rate_pct-kmac_per_px.svg"].lstrip().startswith(b"<?xml")


def test_a_figure_is_the_same_bytes_each_time(store: Store) -> None:
    (chart, *_) = study_document(gather(store, STUDY)).charts
    assert image(chart, "svg") == image(chart, "svg")
    assert image(chart, "png").startswith(b"\x89PNG")
    assert image(chart, "pdf").startswith(b"%PDF")


def test_plotly_accepts_every_figure(store: Store) -> None:
    charts = study_document(gather(store, STUDY)).charts
    assert len(charts) >= 8
    for chart in charts:
        made = plotly_figure(chart)
        assert len(made.data) == len(chart.series) + len(chart.rules)


# --- crops -----------------------------------------------------------------------------------


def test_a_student_is_shown_beside_the_anchor_of_nearest_bits(store: Store) -> None:
    document = study_document(gather(with_crops(store), STUDY))
    (crops,) = [block for block in document.blocks() if isinstance(block, Crops)]
    assert [crop.caption for crop in crops.crops] == [
        "original: a.png",
        "teacher:default, level 2: 0.300 bpp, 32.00 dB",
        "trial 3, level 1: 0.300 bpp, 31.00 dB",
    ]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_crop_that_is_gone_is_said(store: Store, damage: str) -> None:
    path = with_crops(store).trial(STUDY, 3).crop
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    page = html(study_document(gather(store, STUDY)))
    assert "No reconstruction can be shown" in page
    (store.study_folder(STUDY) / "crops" / "anchor-1.png").unlink()
    page = html(study_document(gather(store, STUDY)))
    assert "reconstructions are left out" in page


# --- nothing to say --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_a_study_without_finished_trials_says_so(store: Store, kind: str) -> None:
    for number in (0, 1, 3):
        store.trial(STUDY, number).result.unlink()
    about = subject(store, STUDY)
    if kind in IN_ONE_FILE:
        text = printed(about, kind, 100)
    else:
        text = "".join(
            data.decode() for name, data in folder(about, kind).items() if name[-3:] != "pdf"
        )
    if kind in ("text", "html", "markdown", "latex"):
        assert "nothing to show yet" in text
    assert text


@pytest.mark.parametrize("kind", ["text", "html"])
def test_an_energy_that_nobody_measured_is_said(store: Store, kind: str) -> None:
    for number in (0, 1, 3):
        store.save_result(STUDY, number, result(20.0 + number, 16 + number, None))
    text = printed(subject(store, STUDY), kind, 100)
    assert "not measured" in text
    assert "0 on the front of 3 complete" in text


def test_results_of_a_newer_kdbench_are_refused(store: Store) -> None:
    path = store.trial(STUDY, 3).result
    newer = path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}')
    path.write_text(newer)
    with pytest.raises(StoreError, match=r"(?s)has schema \d+.*newer kdbench"):
        subject(store, STUDY).json()


# --- names -----------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_html_in_a_name_is_text_in_the_page(tmp_path: Path) -> None:
    page = html(study_document(gather(evil_study(tmp_path), STUDY)))
    reader = Reader()
    reader.feed(page)
    assert len(reader.tags) > 100
    assert [tag for tag, _ in reader.tags if tag == "img"] == []
    assert not [name for _, attributes in reader.tags for name in attributes if name[:2] == "on"]
    links = [attributes.get("href") for tag, attributes in reader.tags if tag in ("a", "link")]
    assert all(str(link).startswith(("#", "data:,")) for link in links)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert POLICY in page


def test_html_in_a_name_is_text_in_a_figure(tmp_path: Path) -> None:
    charts = study_document(gather(evil_study(tmp_path), STUDY)).charts
    assert charts
    for chart in charts:
        told = json.dumps(figure_json(chart))
        assert "<img" not in told
    assert any("&lt;img" in json.dumps(figure_json(chart)) for chart in charts)


def test_a_page_asks_nobody_for_anything(store: Store) -> None:
    reader = Reader()
    reader.feed(html(study_document(gather(with_crops(store), STUDY))))
    sources = [a[name] for _, a in reader.tags for name in ("src", "href", "action") if name in a]
    assert sources
    assert all(str(source).startswith(("data:", "#")) for source in sources)


def test_markdown_in_a_name_is_text(tmp_path: Path) -> None:
    document = study_document(gather(evil_study(tmp_path), STUDY))
    text, _ = markdown.markdown(document, {})
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    reader = Reader()
    reader.feed(shown)
    assert {tag for tag, _ in reader.tags} & {"img", "a", "em", "code", "script"} == set()
    assert "a_b *c* `d`" in shown
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    assert "&lt;img src=x" in shown


def test_no_address_becomes_a_link_on_sites_that_link_what_looks_like_one() -> None:
    assert "https://" not in markdown.escaped("see https://evil.example")


def test_latex_in_a_name_is_text() -> None:
    shown = latex.escaped(EVIL)
    assert r"\input" not in shown
    assert r"\textbackslash{}input\{x\}" in shown
    assert r"100\%" in shown
    assert r"\ensuremath{\Delta}[U+4E2D]" in shown
    assert r"\$x\$" in shown


def test_svg_of_the_tables_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    document = study_document(gather(evil_study(tmp_path), STUDY), "none")
    svg = report_svg(document, 110)
    assert "font-family" in svg
    assert re.findall(r"(?:href|src)=\"|url\(h|@import|@font-face|<img", svg) == []


# --- two studies -----------------------------------------------------------------------------


def second(store: Store, name: str = "other") -> None:
    """Another study, measured alike."""
    settings = {**SETTINGS, "name": name}
    store.create_study(StoredStudy(name=name, settings=settings, fixed={"anchor": "ab12"}))
    write_json(store.anchor_file(name), TEACHER)
    store.begin_trial(name, 0, spec(7))
    store.save_result(name, 0, result(30.0, 24, 5.0))


def test_two_studies_stand_on_one_figure_and_in_one_table(store: Store) -> None:
    second(store)
    about = comparison(store, STUDY, "other")
    text = printed(about, "text", 100)
    assert f"{STUDY}, trial 3" in text
    assert "other, trial 0" in text
    charts = {chart.name: chart for chart in about.document("page").charts}
    chart = charts["front-bd_rate_pct-kmac_per_px"]
    names = [each.name for each in chart.series]
    assert f"{STUDY}: front" in names
    assert "other: front" in names
    assert names.count("teacher:default") == 1
    assert len(json.loads(printed(about, "json", 100))["compared"]) == 2


def test_a_comparison_has_the_figures_that_are_asked_for(store: Store) -> None:
    second(store)
    about = comparison(store, STUDY, "other")
    page, paper = (about.document(figures).charts for figures in ("page", "paper"))
    assert [chart.name for chart in page] == [chart.name for chart in paper]
    bare = about.document("none")
    assert bare.charts == ()
    assert tables.MODEL_NOTE in [*bare.blocks()]

    def said(chart: Chart) -> bool:
        return any("encoder" in point.hover for each in chart.series for point in each.points)

    assert said(page[0])
    assert not said(paper[0])


def test_members_beyond_the_first_are_left_out_and_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MEMBERS_WITH_FIGURES", 1)
    gathered = gather(with_crops(store), STUDY)
    for figures in ("page", "paper"):
        blocks = [*study_document(gathered, figures).blocks()]
        assert "Figures of 1 further members are left out; see their folders." in blocks
        assert sum(isinstance(block, Crops) for block in blocks) == 1


def test_joules_of_two_devices_are_on_no_figure_together(store: Store) -> None:
    second(store)
    done = store.load_trial("other", 0).result
    assert done is not None
    assert done.energy is not None
    store.save_result("other", 0, replace(done, energy=replace(done.energy, device="gpu")))
    about = comparison(store, STUDY, "other")
    document = about.document("page")
    assert all("_j_per_mpx" not in chart.name for chart in document.charts)
    for said in (report_text(document, 100), printed(about, "text", 100)):
        assert "on no figure together" in " ".join(said.split())


@pytest.mark.parametrize(
    "ask",
    [lambda about: about.json(), lambda about: about.csv(), lambda about: about.document("page")],
)
def test_studies_of_other_anchors_photos_and_protocols_are_refused(
    store: Store, ask: Callable[[Subject], object]
) -> None:
    second(store)
    named = replace(TEACHER.rd, images=("a.png", "c.png"))
    write_json(store.anchor_file("other"), replace(TEACHER, sha="ef56", rd=named))
    done = store.load_trial("other", 0).result
    assert done is not None
    store.save_result("other", 0, replace(done, protocol=1))
    with pytest.raises(KdbenchError) as why:
        ask(comparison(store, STUDY, "other"))
    for words in (
        "measurement protocol: 2 in tiny, 1 in other",
        "sha256 ab12 in tiny, teacher:default, sha256 ef56 in other",
        "evaluation photos: 2 (with b.png) in tiny, 2 (with c.png) in other",
    ):
        assert words in str(why.value)


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written_where_it_is_told(store: Store, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    command = ["report", "--study", STUDY, "--root", str(tmp_path), "--format", kind]
    assert main([*command, "--out", str(out)]) == 0
    assert out.is_file() == (kind in IN_ONE_FILE)
    first = {path: path.read_bytes() for path in [out, *out.glob("*")] if path.is_file()}
    assert first
    assert main([*command, "--out", str(out)]) == 0
    assert {path: path.read_bytes() for path in first} == first


def test_json_tells_which_files_were_written(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    command = ["report", "--study", STUDY, "--root", str(tmp_path), "--format", "html"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"name": STUDY, "format": "html", "files": [str(out)]}


def listed(store: Store, images: tuple[str, ...]) -> None:
    """A study that measured JPEG on `images`, and its reference."""
    listing = CodecList(name="list", codecs=("jpeg",), anchor="teacher:default")
    fixed = {"protocol": str(MEASUREMENT_PROTOCOL)}
    settings = codec_list_settings(listing)
    store.create_study(StoredStudy(name="list", settings=settings, fixed=fixed))
    on = replace(TEACHER.rd, images=images)
    write_json(store.anchor_file("list"), replace(TEACHER, rd=on))
    twice = replace(curve(2), images=images)
    jpeg = replace(TEACHER, codec="jpeg", sha="jpeg", complexity=None, rd=twice)
    write_json(store.codec_file("list", 0), jpeg)


def test_codecs_of_another_study_join_where_they_were_measured_alike(store: Store) -> None:
    listed(store, TEACHER.rd.images)
    found = gather(store, STUDY)
    (jpeg,) = found.codecs
    assert jpeg.name == "jpeg"
    assert jpeg.bd_rate is not None
    assert jpeg.bd_rate.pct == pytest.approx(100.0)
    text = printed(subject(store, STUDY), "text", 100)
    assert "measured by study list" in text
    assert printed(subject(store, "list"), "text", 100).startswith("kdbench study list\n1 of 1")


def test_codecs_on_other_photos_do_not_join(store: Store) -> None:
    listed(store, ("a.png", "c.png"))
    assert gather(store, STUDY).codecs == ()


def test_codecs_that_cannot_be_read_are_left_out_and_said(store: Store) -> None:
    listed(store, TEACHER.rd.images)
    store.codec_file("list", 0).write_text("{")
    found = gather(store, STUDY)
    assert found.codecs == ()
    (why,) = found.left_out
    assert "codecs of study list are left out" in why


def test_a_bd_rate_without_an_interval_is_drawn_without_a_bar(store: Store) -> None:
    done = store.load_trial(STUDY, 3).result
    assert done is not None
    alone = BDRate(pct=12.25, low_pct=None, high_pct=None, overlap_db=6.0)
    store.save_result(STUDY, 3, replace(done, bd_rate=alone))
    assert "[-, -]" in printed(subject(store, STUDY), "text", 100)
    assert folder(subject(store, STUDY), "svg")
