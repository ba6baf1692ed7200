"""The guard alone: what reaches the application behind it."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from kdbench.dashboard.answers import may_write
from kdbench.dashboard.guard import Guard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NOTE = "/api/studies/0/3/note"
HOST = "127.0.0.1:8080"
OURS = f"http://{HOST}"


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Says yes to everything, and lets every page read it."""
    start_response("200 OK", [("Access-Control-Allow-Origin", "*"), ("X-App", "yes")])
    return [b"yes"]


def ask(guard: Guard, method: str, path: str, **headers: str) -> tuple[str, dict[str, str], bytes]:
    said: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    body = b"".join(guard(environ, lambda status, found, *_: said.append((status, found))))  # type: ignore[arg-type]
    status, found = said[-1]
    return status, dict(found), body


def test_reading_goes_through_and_comes_back_behind_a_fence() -> None:
    status, headers, body = ask(Guard(app, ["localhost"]), "GET", "/api/studies", host=HOST)
    assert (status, body) == ("200 OK", b"yes")
    assert headers["X-App"] == "yes"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Content-Security-Policy" not in headers


def test_nothing_runs_that_came_as_an_artifact() -> None:
    _, headers, _ = ask(Guard(app, []), "GET", "/artifacts/0/1/ab", host=HOST)
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize("host", ["evil.example", "", "[", "[::1", "127.0.0.1.evil.example", "a b"])
def test_names_of_strangers_are_refused(host: str) -> None:
    status, _, body = ask(Guard(app, ["localhost"]), "GET", "/", host=host)
    assert status.startswith("403")
    assert "reason" in json.loads(body)


def test_without_a_host_nothing_is_answered() -> None:
    assert ask(Guard(app, ["localhost"]), "GET", "/")[0].startswith("403")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "10.0.0.7", "[fe80::1]:80", "::1"])
def test_addresses_and_our_names_are_answered(host: str) -> None:
    guard = Guard(app, ["localhost"])
    expected = "403" if host == "::1" else "200"  # an IPv6 address has brackets in a Host
    assert ask(guard, "GET", "/", host=host)[0].startswith(expected)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "BREW"])
def test_who_only_reads_sends_get(method: str) -> None:
    assert ask(Guard(app, []), method, NOTE, host=HOST, origin=OURS)[0].startswith("403")


def test_a_note_of_our_own_page_goes_through() -> None:
    guard = Guard(app, [], may_write)
    assert ask(guard, "PUT", NOTE, host=HOST, origin=OURS)[0] == "200 OK"


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:80800"])
def test_a_note_of_another_page_does_not(origin: str) -> None:
    guard = Guard(app, [], may_write)
    assert ask(guard, "PUT", NOTE, host=HOST, origin=origin)[0].startswith("403")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", NOTE),
        ("DELETE", NOTE),
        ("PUT", "/api/studies/0/3/note/x"),
        ("PUT", "/api/studies/0"),
        ("PUT", "/api/studies/1/note"),
        ("PUT", "/api/studies/0/preference_feedback_component"),
        ("PUT", "//api/studies/0/note"),
    ],
)
def test_notes_are_all_that_can_be_written(method: str, path: str) -> None:
    guard = Guard(app, [], may_write)
    assert ask(guard, method, path, host=HOST, origin=OURS)[0].startswith("403")
