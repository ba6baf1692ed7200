"""The dashboard in a real Chromium: what is drawn, what a click does, and nothing from outside."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdbench.report.charts import study_charts
from kdbench.report.overview import overview
from kdbench.store import Store
from tests.support.chromium import Page, chromium, needs_chromium
from tests.support.looking import BROKEN, Dashboard, dashboard, make_watched
from tests.support.results import STUDY

pytestmark = [pytest.mark.slow, pytest.mark.chromium, needs_chromium]
POINTS = "document.querySelectorAll('#graph-pareto-front .scatterlayer .point')"
GREY = "rgb(204, 204, 204)"  # in which the page draws what is infeasible


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    make_watched(folder)
    return folder


@pytest.fixture(scope="module")
def board(root: Path) -> Iterator[Dashboard]:
    with dashboard(root) as found:
        yield found


@pytest.fixture(scope="module")
def page(board: Dashboard) -> Iterator[Page]:
    with chromium(1400, 1200) as found:
        yield found


@pytest.fixture
def front(page: Page, board: Dashboard) -> Page:
    """The study's page, its front drawn."""
    page.goto(board.page)
    page.wait_for(f"{POINTS}.length === 4")
    return page


def test_the_front_is_drawn_and_what_breaks_a_rule_is_grey(front: Page) -> None:
    drawn = json.loads(
        front.evaluate(
            f"""JSON.stringify([...{POINTS}].map(p => [
                JSON.parse(p.__data__.tx.replaceAll('<br>', '')).number,
                getComputedStyle(p).fill]))"""
        )
    )
    colours = dict(drawn)
    assert set(colours) == {0, 1, 3, BROKEN}
    assert [number for number, colour in colours.items() if colour == GREY] == [BROKEN]


def test_the_best_trials_are_listed_without_the_infeasible(front: Page) -> None:
    cards = """[...document.querySelectorAll('h6')]
        .find(h => h.innerText.startsWith('Best Trials')).parentElement.innerText"""
    text = front.wait_for(cards)
    assert "Trial 0\n" in text
    assert "Trial 3\n" in text
    assert f"Trial {BROKEN}\n" not in text


def test_every_figure_of_ours_is_on_the_page(front: Page, root: Path) -> None:
    names = [chart.name for chart in study_charts(overview(Store(root), STUDY))]
    assert len(names) >= 8
    for name in names:
        figure = f"document.getElementById('user-defined-plot:{name}')"
        front.wait_for(f"{figure} && {figure}.querySelector('.main-svg, canvas')")
    assert front.evaluate(
        "document.querySelector('#user-defined-plot\\\\:front-3d canvas') !== null"
    )


def test_a_click_on_a_trial_opens_it_with_its_images(front: Page, board: Dashboard) -> None:
    place = json.loads(
        front.evaluate(
            f"""JSON.stringify([...{POINTS}].filter(
                p => JSON.parse(p.__data__.tx.replaceAll('<br>', '')).number === 3
            ).map(p => p.getBoundingClientRect())[0])"""
        )
    )
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    front.move(x - 3, y - 3)
    front.move(x, y)
    time.sleep(0.3)  # plotly waits for a pointer to rest
    front.click(x, y)
    front.wait_for("location.href.endsWith('/trials?numbers=3')")
    front.wait_for("document.body.innerText.includes('On the front')")
    images = "[...document.querySelectorAll('img')]"
    front.wait_for(f"{images}.length >= 6 && {images}.every(i => i.complete && i.naturalWidth > 0)")
    text = front.text()
    assert f"kdbench rerun --study {STUDY} --trial 3" in text
    assert "student.safetensors" in text


def test_an_infeasible_trial_says_so(page: Page, board: Dashboard) -> None:
    page.goto(f"{board.page}/trials?numbers=2")
    page.wait_for("document.body.innerText.includes('above the limit of 3,000,000')")
    assert "state infeasible" in page.text()


def test_the_note_of_the_study_links_to_its_trials(page: Page, board: Dashboard) -> None:
    page.goto(f"{board.page}/note")
    page.wait_for("document.querySelector('a[href$=\"trials?numbers=3\"]') !== null")
    assert f"kdbench rerun --study {STUDY} --trial best" in page.text()


def test_nothing_was_fetched_from_outside_and_nothing_went_wrong(
    front: Page, board: Dashboard
) -> None:
    """The last of this file: `requests` and `problems` are those of all pages above."""
    ours = (board.origin, "data:", "blob:", "about:")
    assert len(front.requests) > 10
    assert [url for url in front.requests if not url.startswith(ours)] == []
    assert front.problems == []


def put(address: str, version: int, text: str) -> str:
    """JavaScript that writes a note, and its status; 0 where the browser does not let it."""
    body = json.dumps({"version": version, "body": text})
    options = {"method": "PUT", "headers": {"Content-Type": "application/json"}, "body": body}
    return f"fetch({json.dumps(address)}, {json.dumps(options)}).then(r => r.status, () => 0)"


def test_a_browser_writes_notes_from_our_page_alone_and_strangers_read_nothing(
    tmp_path: Path,
) -> None:
    make_watched(tmp_path)
    stranger = tmp_path / "stranger.html"
    stranger.write_text("<html><body>anybody</body></html>")
    with dashboard(tmp_path, "--write") as board, chromium() as page:
        note = f"{board.origin}/api/studies/0/3/note"
        page.goto(stranger.as_uri())
        assert page.evaluate(put(note, 2, "theirs")) == 0
        for path in ("/api/studies/0", "/dashboard/studies/0", "/static/bundle.js"):
            read = f"fetch({json.dumps(board.origin + path)}).then(r => r.status, () => 0)"
            assert page.evaluate(read) == 0
        page.goto(board.page)
        assert page.evaluate(put(note, 2, "mine")) == 204
        page.goto(f"{board.page}/trials?numbers=3")
        page.wait_for("document.body.innerText.includes('mine')")
    assert Store(tmp_path).load_notes(STUDY).trials == {"3": "mine"}
