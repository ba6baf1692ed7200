"""The report as a reader meets it: in Chromium, wide and narrow, light and dark; in a PDF."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.report.contents import study_document
from kdbench.report.gather import gather
from kdbench.report.page import html
from kdbench.report.palette import DARK, WHITE
from kdbench.report.render import folder, subject, write
from tests.support.chromium import chromium, needs_chromium, visit
from tests.support.results import STUDY, make_study
from tests.unit.report.test_report import EVIL, evil_study, with_crops

pytestmark = pytest.mark.slow
PDFLATEX = shutil.which("pdflatex")


def written(folder: Path, text: str) -> Path:
    """The page in a file, as if it were printed: figures below the window are drawn, too."""
    page = folder / "report.html"
    draws = '<script>dispatchEvent(new Event("beforeprint"))</script></body>'
    page.write_text(text.replace("</body>", draws), encoding="utf-8")
    return page


def colours(picture: Path) -> set[str]:
    """Every colour in a picture that covers a thousandth of it."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return {
        "#" + bytes(colour).hex()
        for colour, n in zip(found, counts, strict=True)
        if n > len(pixels) / 1000
    }


@pytest.mark.chromium
@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_the_page_draws_its_figures_and_asks_nobody(tmp_path: Path, width: int, dark: bool) -> None:
    store = with_crops(make_study(tmp_path))
    document = study_document(gather(store, STUDY))
    page = written(tmp_path, html(document))
    seen = visit(page.as_uri(), tmp_path, width=width, dark=dark)
    assert seen.said == ()
    assert seen.asked == ()
    drawn = re.findall(r'class="chart[^"]* js-plotly-plot', seen.dom)
    assert len(drawn) == len(document.charts)
    assert len(re.findall(r'<img alt="[^"]*" src="data:image/png', seen.dom)) == 3
    found = colours(tmp_path / "picture.png")
    assert (DARK if dark else WHITE) in found
    assert (WHITE if dark else DARK) not in found


@pytest.mark.chromium
@needs_chromium
def test_nothing_is_wider_than_a_telephone(tmp_path: Path) -> None:
    page = written(tmp_path, html(study_document(gather(make_study(tmp_path), STUDY))))
    with chromium(390, 844) as browser:
        browser.resize(390, 844, phone=True)
        browser.goto(page.as_uri())
        assert browser.evaluate("document.querySelectorAll('.js-plotly-plot').length") >= 8
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.chromium
@needs_chromium
def test_names_with_html_run_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, html(study_document(gather(evil_study(tmp_path), STUDY))))
    seen = visit(page.as_uri(), tmp_path)
    assert seen.said == ()
    assert seen.asked == ()


@pytest.mark.chromium
@needs_chromium
def test_a_page_that_breaks_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    asks = "<img src='http://127.0.0.1:9/i.png'><script>throw new Error('planted')</script>"
    page.write_text(f"<html><body>{asks}</body></html>")
    seen = visit(page.as_uri(), tmp_path, height=600)
    assert any("planted" in line for line in seen.said)
    assert seen.asked == ("http://127.0.0.1:9/i.png",)


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex is installed here")
@pytest.mark.parametrize("names", ["plain", "evil"])
def test_the_latex_compiles(tmp_path: Path, names: str) -> None:
    store = evil_study(tmp_path) if names == "evil" else with_crops(make_study(tmp_path))
    out = tmp_path / "latex"
    write(subject(store, STUDY), "latex", out, 100)
    assert PDFLATEX is not None
    run = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"],
        cwd=out,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert (out / "report.pdf").stat().st_size > 20_000
    assert "Overfull \\hbox" not in run.stdout
    assert "Missing character" not in run.stdout


def test_what_latex_is_given_names_only_files_beside_it(tmp_path: Path) -> None:
    files = folder(subject(evil_study(tmp_path), STUDY), "latex")
    text = files["report.tex"].decode()
    assert EVIL not in text
    named = {part.partition("}")[0] for part in text.split("\\includegraphics[")[1:]}
    assert {name.partition("]{")[2] for name in named} == set(files) - {"report.tex"}
