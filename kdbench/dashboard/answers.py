"""What optuna-dashboard answers, and where kdbench answers in its place.

- Details of a study: the list of best trials is Optuna's own, which knows constraints, where the
  page's would have infeasible trials; our figures come in our order.
- Artifacts: from the trials' folders; one that is not there any more is a 404, not a fault.
- A note that somebody writes is kept in the study's folder; the dashboard would write it into the
  search's database.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdbench.dashboard import words
from kdbench.dashboard.guard import answer, refuse
from kdbench.dashboard.notebook import Notebook
from kdbench.dashboard.picture import STUDY_ID, Picture, write_note
from kdbench.dashboard.view import View
from kdbench.errors import KdbenchError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DETAIL = re.compile(rf"/api/studies/{STUDY_ID}/?")
ARTIFACT = re.compile(rf"/artifacts/{STUDY_ID}/(\d+)/([0-9a-f-]{{36}})/?")
NOTE = re.compile(rf"/api/studies/{STUDY_ID}(?:/(\d+))?/note/?")
NOTE_BYTES = 1 << 20  # a page of notes is a thousandth of it
STALE = "the note has changed meanwhile: copy what you wrote and load the page again"


def may_write(method: str, path: str) -> bool:
    """With `--write`: notes, and nothing else."""
    return method == "PUT" and NOTE.fullmatch(path) is not None


class Answers:
    """A WSGI application around optuna-dashboard's, for one study."""

    def __init__(self, app: "WSGIApplication", view: View, notebook: Notebook) -> None:
        self._app, self._view, self._notebook = app, view, notebook

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """One request, which the guard let through."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if found := ARTIFACT.fullmatch(path):
            return self._artifact(found[2], start_response)
        if method == "GET" and DETAIL.fullmatch(path):
            return self._detail(environ, start_response)
        if method == "PUT" and (found := NOTE.fullmatch(path)):
            return self._write(environ, start_response, int(found[1]) if found[1] else None)
        return self._app(environ, start_response)

    # --- details

    def _detail(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """All trials are asked for, since the best may be among those that the page has."""
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def hold(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            began.append((status, headers))
            return lambda data: None

        body = b"".join(self._app({**environ, "QUERY_STRING": "after=0"}, hold))
        status, headers = began[-1]
        if not status.startswith("200"):
            start_response(status, headers)
            return [body]
        detail = amended(json.loads(body), self._view.picture)
        detail["trials"] = detail["trials"][_after(environ.get("QUERY_STRING", "")) :]
        return answer(start_response, status, detail)

    # --- artifacts

    def _artifact(self, artifact_id: str, start_response: "StartResponse") -> Iterable[bytes]:
        found = self._view.picture.artifacts.get(artifact_id)
        if found is None:
            return refuse(start_response, "404 Not Found", f"no artifact {artifact_id}")
        try:
            data = found.read()
        except (OSError, KdbenchError) as why:
            return refuse(start_response, "404 Not Found", f"{found.name}: {why}")
        headers = [("Content-Type", found.mimetype), ("Content-Length", str(len(data)))]
        start_response("200 OK", headers)
        return [data]

    # --- notes

    def _write(
        self,
        environ: "WSGIEnvironment",
        start_response: "StartResponse",
        number: int | None,
    ) -> Iterable[bytes]:
        size = environ.get("CONTENT_LENGTH") or "0"
        if not size.isdecimal() or int(size) > NOTE_BYTES:
            return refuse(start_response, "413 Content Too Large", "a note has 1 MiB at most")
        try:
            asked = json.loads(environ["wsgi.input"].read(int(size)))
            text, version = str(asked["body"]), int(asked["version"])
        except (ValueError, KeyError, TypeError):
            return refuse(start_response, "400 Bad Request", "a note has a body and a version")
        if number is not None and number not in {t.number for t in self._trials}:
            return refuse(start_response, "404 Not Found", f"no trial {number}")
        try:
            note = self._notebook.write(number, text, version)
        except KdbenchError as why:
            return refuse(start_response, "500 Internal Server Error", str(why))
        if note is None:
            last = self._notebook.shown(number)
            said = {"reason": STALE, "note": {"version": last.version, "body": last.text}}
            return answer(start_response, "409 Conflict", said)
        write_note(self._view.picture.study, note, number)  # who loads the page again sees it
        start_response("204 No Content", [])
        return []

    @property
    def _trials(self) -> list[Any]:
        return self._view.picture.study.get_trials(deepcopy=False)


def amended(detail: dict[str, Any], picture: Picture) -> dict[str, Any]:
    """Details of the study with Optuna's best trials, our figures in our order, what went wrong."""
    order = {name: place for place, name in enumerate(picture.figures)}
    best = [trial for trial in detail["trials"] if trial["number"] in picture.best]
    figures = sorted(
        detail["plotly_graph_objects"], key=lambda one: order.get(one["id"], len(order))
    )
    note = detail["note"]
    if picture.problem is not None:
        note = {**note, "body": words.not_fresh(picture.problem) + note["body"]}
    return {**detail, "best_trials": best, "plotly_graph_objects": figures, "note": note}


def _after(query: str) -> int:
    """How many trials the page has and will not be told again."""
    found = re.search(r"(?:^|&)after=(\d+)", query)
    return int(found[1]) if found else 0
