"""Who may ask the dashboard, and for what: it has no login, so a browser's rules must do.

Optuna's own application answers any `Host`, takes writes from any page that a browser has open,
and lets every page read artifacts. Here,

- `Host` must be an address or one of our names. A page of a stranger whose name was rebound to
  127.0.0.1 asks under its own name.
- Whatever is neither GET nor HEAD is refused, but for what `may_write` lists; that must come from
  our own page, as its `Origin` says.
- Answers may be read by our own pages alone, and nothing runs that came as an artifact.
"""

import json
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READS = ("GET", "HEAD")
FENCE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
INERT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # of an artifact


class Guard:
    """A WSGI application around `app`, which sees only what may be asked.

    Args:
        app: Who answers.
        names: Host names, beside addresses, by which we may be asked.
        may_write: Whether a method and path may change something.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        names: Iterable[str],
        may_write: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:
        self._app, self._may_write = app, may_write
        self._names = {name.lower() for name in names}

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """One request."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        problem = self._problem(method, path, environ)
        if problem is not None:
            return refuse(start_response, "403 Forbidden", problem)

        def fenced(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, _fenced(path, headers), *more)

        return self._app(environ, fenced)

    def _problem(self, method: str, path: str, environ: "WSGIEnvironment") -> str | None:
        host = environ.get("HTTP_HOST", "")
        if not self._is_ours(host):
            return f"this dashboard is not {host or 'nameless'}: it answers under its own address"
        if method in READS:
            return None
        if not self._may_write(method, path):
            return f"{method} {path}: this dashboard is for reading"
        origin = environ.get("HTTP_ORIGIN", "")
        if origin != f"http://{host}":
            return f"{method} {path} comes from {origin or 'no page'}, not from this dashboard"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _fenced(path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [(k, v) for k, v in headers if k.lower() != "access-control-allow-origin"]
    kept += FENCE.items()
    if path.startswith("/artifacts/"):
        kept.append(("Content-Security-Policy", INERT))
    return kept


def refuse(start_response: "StartResponse", status: str, reason: str) -> Iterable[bytes]:
    """An answer that the page shows as an error."""
    return answer(start_response, status, {"reason": reason})


def answer(start_response: "StartResponse", status: str, body: Any) -> Iterable[bytes]:
    """A JSON document."""
    data = json.dumps(body).encode()
    start_response(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(data))), *FENCE.items()],
    )
    return [data]
