"""`kdbench dashboard` as a browser meets it: over HTTP, in a process of its own, on a real study.

What is asked of optuna-dashboard here is also what kdbench needs it to be.
"""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna_dashboard import wsgi
from PIL import Image

from kdbench.store import Store, StoredStudy
from tests.support.looking import (
    BROKEN,
    QUEUED,
    Dashboard,
    command,
    dashboard,
    make_watched,
    names,
    new_database,
    told,
)
from tests.support.results import OBJECTIVES, SETTINGS, STUDY, result, spec

READS = ("GET",)
ROUTES = [(route.method, route.rule) for route in wsgi(InMemoryStorage()).routes]


def concrete(rule: str) -> str:
    """A path that bottle's rule matches."""
    path = re.sub(r"<(study_id|trial_id):int>", "0", rule)
    path = re.sub(r"<artifact_id:re:[^>]*>", "6a2ff1c0-53a4-5d5a-9a57-0f4f0b6a1d55", path)
    path = path.replace("<:re:(/.*)?>", "/studies/0").replace("<plot_type>", "pareto_front")
    return re.sub(r"<[^>]+>", "0", path)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder by its SHA-256."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def eventually(find: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """What `find` gives once it is true: the view looks every other second."""
    end = time.monotonic() + timeout_s
    while not (found := find()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    make_watched(folder)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> Iterator[Dashboard]:
    with dashboard(root) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A root that a test may change."""
    make_watched(tmp_path)
    return tmp_path


# --- what is shown ---------------------------------------------------------------------------


def test_the_page_has_the_names_of_the_objectives_and_their_directions(page: Dashboard) -> None:
    found = page.details()
    assert found["objective_names"] == OBJECTIVES
    assert found["directions"] == ["minimize"] * 3


def test_infeasible_trials_look_infeasible_and_are_not_among_the_best(page: Dashboard) -> None:
    """optuna-dashboard knows neither Optuna 5's constraints nor, in its list, any."""
    found = page.details()
    broken = {t["number"] for t in found["trials"] if any(c > 0 for c in t["constraints"])}
    assert broken == {2, BROKEN}
    assert len({len(t["constraints"]) for t in found["trials"] if "values" in t}) == 1
    assert [trial["number"] for trial in found["best_trials"]] == [0, 3]


def test_the_best_are_told_to_a_page_that_has_all_trials_already(page: Dashboard) -> None:
    found = page.ask("/api/studies/0?after=8").json
    assert found["trials"] == []
    assert [trial["number"] for trial in found["best_trials"]] == [0, 3]


def test_every_trial_says_in_our_words_what_became_of_it(page: Dashboard) -> None:
    states = [names(trial["user_attrs"])["state"] for trial in page.details()["trials"]]
    assert states[:QUEUED] == ["complete"] * 2 + ["infeasible", "complete", "failed", "running"]
    assert states[QUEUED] == "queued"
    fixed = page.trial(QUEUED)["fixed_params"]
    assert {"name": "encoder.width", "param_external_value": "24"} in fixed


def test_the_study_has_a_note_with_its_front_source_and_commands(page: Dashboard) -> None:
    note = page.details()["note"]["body"]
    assert "2 on the front of 3 complete trials (1 infeasible, 1 failed, 1 running)" in note
    assert re.search(r"\| \[3\]\(/dashboard/studies/0/trials\?numbers=3\) \|.*-92\.9", note)
    assert "Energy: model. Energy (model) is processor time" in note
    assert f"kdbench rerun --study {STUDY} --trial best" in note


def test_a_trial_has_a_note_with_its_spec_changes_source_and_command(page: Dashboard) -> None:
    note = page.trial(3)["note"]["body"]
    assert note.startswith("**On the front**")
    assert "| kMAC/px | 6.40 | 90.5 | -92.9 |" in " ".join(note.replace("\u2003", "").split(" "))
    assert "**Energy (model)**: codecarbon, cpu\\_load x 8 W (process)" in note
    assert "- **decoder**: width 16, kernel 3, activation relu" in note
    assert f"kdbench rerun --study {STUDY} --trial 3\n" in note
    assert "above the limit of 3,000,000" in page.trial(2)["note"]["body"]


def test_artifacts_are_the_files_of_the_trial(page: Dashboard, root: Path) -> None:
    folder = Store(root).trial(STUDY, 3)
    listed = {one["filename"]: one for one in page.trial(3)["artifacts"]}
    for path in (folder.spec, folder.result, folder.student, folder.log, folder.trained_energy):
        said = page.ask(f"/artifacts/0/3/{listed[path.name]['artifact_id']}")
        assert (said.status, said.body) == (200, path.read_bytes())
        assert "access-control-allow-origin" not in said.headers
        assert said.headers["content-security-policy"].startswith("sandbox")
    assert "result.json" not in {one["filename"] for one in page.trial(5)["artifacts"]}


def test_reconstructions_are_side_by_side_at_nearly_equal_bits(page: Dashboard) -> None:
    listed = {one["filename"]: one["artifact_id"] for one in page.trial(3)["artifacts"]}
    address = f"/artifacts/0/3/{listed['reconstructions.png']}"
    assert f"![reconstructions.png]({address})" in page.trial(3)["note"]["body"]
    said = page.ask(address)
    assert said.headers["content-type"] == "image/png"
    sheet = Image.open(BytesIO(said.body))
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert {
        (grey,) * 3 for grey in (255, 40, 200)
    } <= colours  # original, anchor at 0.25 bpp, trial
    assert (80,) * 3 not in colours  # anchor at 0.6 bpp
    assert sheet.width > 3 * 2 * 192


def test_a_damaged_reconstruction_is_named(own: Path) -> None:
    folder = Store(own).trial(STUDY, 3)
    with dashboard(own) as page:
        listed = {one["filename"]: one["artifact_id"] for one in page.trial(3)["artifacts"]}
        folder.crop.write_bytes(b"no image")
        said = page.ask(f"/artifacts/0/3/{listed['reconstructions.png']}")
    assert said.status == 404
    assert "reconstruction.png is damaged" in said.json["reason"]


def test_an_artifact_that_has_gone_is_not_found_and_no_fault(own: Path) -> None:
    with dashboard(own) as page:
        listed = {one["filename"]: one["artifact_id"] for one in page.trial(0)["artifacts"]}
        Store(own).trial(STUDY, 0).student.unlink()
        said = page.ask(f"/artifacts/0/0/{listed['student.safetensors']}")
    assert said.status == 404
    assert "student.safetensors" in said.json["reason"]


# --- what may be asked -----------------------------------------------------------------------


def test_there_are_routes_to_try() -> None:
    assert sum(method not in READS for method, _ in ROUTES) > 15


@pytest.mark.parametrize(("method", "rule"), [r for r in ROUTES if r[0] not in READS])
def test_whatever_would_change_something_is_refused(
    page: Dashboard, method: str, rule: str
) -> None:
    said = page.ask(
        concrete(rule),
        method,
        headers={"Origin": page.origin, "Content-Type": "application/json"},
        body={"study_name": "mine", "directions": ["minimize"], "state": "Fail", "body": "x"},
    )
    assert said.status == 403
    assert "for reading" in said.json["reason"]


@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "post"])
def test_other_methods_are_refused_too(page: Dashboard, method: str) -> None:
    assert page.ask("/api/studies/0", method).status == 403


@pytest.mark.parametrize("rule", [rule for method, rule in ROUTES if method in READS])
def test_reading_changes_nothing_on_the_disk(page: Dashboard, root: Path, rule: str) -> None:
    before = content(root)
    assert page.ask(concrete(rule)).status in (200, 302, 400, 403, 404)
    assert content(root) == before


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example"])
def test_a_page_of_a_stranger_reads_nothing(page: Dashboard, host: str) -> None:
    for path in ("/", "/dashboard", "/api/studies", "/api/studies/0", "/static/bundle.js"):
        assert page.ask(path, headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["", "[", "::1]", "127.0.0.1.nip.io", "a@evil.example"])
def test_no_sense_is_no_name_of_ours(page: Dashboard, host: str) -> None:
    assert page.ask("/api/studies", headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1", "[::1]:80"])
def test_our_names_are_answered_also_through_a_tunnel(page: Dashboard, host: str) -> None:
    assert page.ask("/api/studies", headers={"Host": host}).status == 200


def test_answers_are_for_our_pages_alone(page: Dashboard) -> None:
    said = page.ask("/dashboard/studies/0")
    assert said.headers["cross-origin-resource-policy"] == "same-origin"
    assert said.headers["x-frame-options"] == "SAMEORIGIN"
    assert "default-src 'self'" in said.headers["content-security-policy"]


# --- notes of people -------------------------------------------------------------------------


def write(page: Dashboard, path: str, version: int, text: str, origin: str | None = None) -> int:
    headers = {"Content-Type": "application/json"}
    if origin != "":
        headers["Origin"] = origin or page.origin
    return page.ask(path, "PUT", headers, {"version": version, "body": text}).status


def test_with_write_a_note_is_kept_and_the_database_is_not_touched(own: Path) -> None:
    database = own / STUDY / "optuna.db"
    before = database.read_bytes()
    with dashboard(own, "--write") as page:
        assert write(page, "/api/studies/0/3/note", 2, "**mine**") == 204
        assert write(page, "/api/studies/0/note", 2, "all of it") == 204
        assert write(page, "/api/studies/0/3/note", 2, "late") == 409
        assert page.trial(3)["note"] == {"version": 2, "body": "**mine**"}
        assert page.details()["note"]["body"] == "all of it"
    with dashboard(own) as again:
        assert again.trial(3)["note"] == {"version": 1, "body": "**mine**"}
        assert again.trial(0)["note"]["body"].startswith("**On the front**")
    assert database.read_bytes() == before


def test_a_note_that_is_emptied_is_ours_again(own: Path) -> None:
    with dashboard(own, "--write") as page:
        assert write(page, "/api/studies/0/3/note", 2, "mine") == 204
        assert write(page, "/api/studies/0/3/note", 3, "") == 204
        eventually(lambda: page.trial(3)["note"]["body"].startswith("**On the front**"))


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://127.0.0.1"])
def test_a_note_must_come_from_our_page(own: Path, origin: str) -> None:
    with dashboard(own, "--write") as page:
        assert write(page, "/api/studies/0/3/note", 2, "theirs", origin) == 403
        assert write(page, "/api/studies/0/3/note", 2, "x", page.origin + "0") == 403
        assert write(page, "/api/studies/0/3/note", 2, "mine") == 204


def test_with_write_nothing_else_can_be_changed_and_no_sense_is_refused(own: Path) -> None:
    before = content(own)
    with dashboard(own, "--write") as page:
        headers = {"Origin": page.origin, "Content-Type": "application/json"}
        for method, rule in ROUTES:
            if method not in READS and not rule.endswith("/note"):
                assert page.ask(concrete(rule), method, headers, {}).status == 403
        path = "/api/studies/0/3/note"
        wrong: list[object] = [{}, [], {"version": "x", "body": ""}, {"version": 2}, "note"]
        for body in wrong:
            assert page.ask(path, "PUT", headers, body).status == 400
        long = {**headers, "Content-Length": str(1 << 30)}
        assert page.ask(path, "PUT", long).status == 413
        assert write(page, "/api/studies/0/77/note", 1, "nobody") == 404
        assert write(page, "/api/studies/5/note", 1, "another study") == 403
    assert content(own) == before


# --- live ------------------------------------------------------------------------------------


def test_a_trial_that_ends_is_shown_and_the_rest_of_the_page_with_it(own: Path) -> None:
    store = Store(own)
    with dashboard(own) as page:
        assert len(page.details()["trials"]) == 8
        store.begin_trial(STUDY, 8, spec(8))
        store.save_result(STUDY, 8, result(-10.0, 8, 2.0))
        study = optuna.load_study(study_name=STUDY, storage=store.database_url(STUDY))
        study.add_trial(told(store.load_trial(STUDY, 8)))
        found = eventually(lambda: (new := page.details()) and len(new["trials"]) == 9 and new)
        assert [trial["number"] for trial in found["best_trials"]] == [8]
        assert "1 on the front of 4 complete trials" in found["note"]["body"]
        assert found["note"]["version"] == 2


def test_a_file_that_breaks_meanwhile_leaves_the_page_and_is_told(own: Path) -> None:
    path = Store(own).trial(STUDY, 0).result
    with dashboard(own) as page:
        whole = path.read_text()
        path.write_text(whole[:100])
        eventually(lambda: "not up to date" in page.details()["note"]["body"])
        assert len(page.details()["trials"]) == 8
        path.write_text(whole)
        eventually(lambda: "not up to date" not in page.details()["note"]["body"])


def test_a_study_without_a_finished_trial_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create_study(StoredStudy(name=STUDY, settings=SETTINGS))
    new_database(store)
    with dashboard(tmp_path) as page:
        found = page.details()
        assert found["trials"] == found["best_trials"] == []
        assert "No trial is complete yet" in found["note"]["body"]
        store.begin_trial(STUDY, 0, spec(0))


# --- how it begins and ends ------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_with_another(page: Dashboard, root: Path) -> None:
    port = page.origin.rpartition(":")[2]
    again = [sys.executable, "-m", "kdbench", "dashboard", "--study", STUDY, "--root", str(root)]
    run = subprocess.run([*again, "--port", port], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"port {port} of 127.0.0.1 is taken\n  fix: name another one: `--port {int(port) + 1}`, "
        "or `--port 0` for any that is free\n"
    )


def test_who_says_so_may_show_it_to_everybody_and_strangers_names_are_still_refused(
    root: Path,
) -> None:
    with dashboard(root, "--host", "0.0.0.0", "--i-know-it-has-no-login") as page:
        assert page.ask("/api/studies", headers={"Host": "192.0.2.7:80"}).status == 200
        assert page.ask("/api/studies", headers={"Host": socket.gethostname()}).status == 200
        assert page.ask("/api/studies", headers={"Host": "evil.example"}).status == 403
        assert page.ask("/api/studies/0", "DELETE").status == 403


def test_open_shows_the_page_in_the_browser_of_the_user(own: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROWSER", f"{browser} %s")
        with dashboard(own, "--open") as page:
            eventually(lambda: seen.is_file() and seen.read_text())
            assert seen.read_text() == f"{page.page}\n"


def test_the_address_is_printed_for_people_too(own: Path) -> None:
    said = [word for word in command(own, STUDY) if word != "--json"]
    with subprocess.Popen(
        said, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert re.fullmatch(
        rf"study {STUDY}: http://127\.0\.0\.1:\d+/dashboard/studies/0 "
        r"\(read-only; Ctrl-C ends it\)\n",
        line,
    )
