"""A headless Chromium that tests look through: DevTools over a pipe, and no package for it.

What a page asked for, and what went wrong in it, is kept: `requests` and `problems`.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason="NO CHROMIUM: pages are not looked at (apt-get install chromium)"
)
HARMLESS = ("GL Driver Message", "willReadFrequently", "software WebGL", "SwiftShader")
LEVELS = ("error", "warning", "assert")
SETTLE_S = 1.0  # from the load of a page to its picture: scripts draw in frames
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",  # three dimensions without a GPU
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
)
ANSWER_S = 60.0  # a machine with other work is slow, and no page takes so long
WIRING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)  # where Chromium listens
os.dup2(int(sys.argv[2]), 4)  # where it answers
os.execv(sys.argv[3], sys.argv[3:])
"""
NETWORK = ("http", "https", "ws", "wss")
Message = dict[str, Any]


class Page:
    """One page of a browser of its own.

    Attributes:
        requests: Every address that it asked for, in order.
        problems: Exceptions, errors and warnings in the console, loads that failed; nothing that
            a computer without a graphics card says of graphics.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._ids, self._buffer = count(1), b""
        self._session: str | None = None
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    # --- what tests do

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """A window of that size [px]."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, scheme: str) -> None:
        """`dark` or `light`, as the system would ask for."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def goto(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        said = self.call("Page.navigate", url=url)  # answered when the new page is there
        assert "errorText" not in said, f"{url}: {said['errorText']}"
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript; a promise's once it has one."""
        said = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, f"{script}: {said['exceptionDetails']}"
        return said["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = ANSWER_S) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not within {timeout_s:g} s: {script}\n{self.problems}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        """What can be read on the page."""
        said: str = self.evaluate("document.body.innerText")
        return said

    def move(self, x: float, y: float) -> None:
        """The mouse, to a place in the window [px]."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """The left button, at a place in the window [px]."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """A PNG of the window, or of the whole page."""
        said = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(said["data"]))
        return path

    # --- DevTools

    def call(self, method: str, **parameters: Any) -> Message:
        """One command of the DevTools protocol, and its result."""
        number = next(self._ids)
        message: Message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_S
        while True:
            said = self._next(end)
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                result: Message = said["result"]
                return result
            self._keep(said)

    def _next(self, end: float) -> Message:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert readable, "Chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: Message = json.loads(first)
        return message

    def _keep(self, event: Mapping[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(told["url"])
        elif method == "Network.loadingFailed" and not told.get("canceled"):
            self._tell(f"not loaded: {told['errorText']}")
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self._tell(str(details.get("exception", details).get("description", details)))
        elif method == "Runtime.consoleAPICalled" and told["type"] in LEVELS:
            self._tell(" ".join(str(a.get("value", a)) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in LEVELS:
            self._tell(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def _tell(self, problem: str) -> None:
        if not any(words in problem for words in HARMLESS):
            self.problems.append(problem)


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page.

    Attributes:
        dom: After its scripts have run.
        said: What went wrong, see `Page.problems`.
        asked: Addresses on a network that were asked for, but for those of the page's own server.
    """

    dom: str
    said: tuple[str, ...]
    asked: tuple[str, ...]


def visit(
    address: str, folder: Path, *, width: int = 1200, height: int = 2000, dark: bool = False
) -> Visit:
    """Opens `address`, and leaves `picture.png` in `folder`.

    Args:
        address: `file://...` or `http://127.0.0.1:PORT/...`.
        folder: Of the picture.
        width: Of the window [px]; below 500 that of a phone.
        height: Likewise.
        dark: What the reader prefers.
    """
    with chromium(width, height) as page:
        page.resize(width, height, phone=width < 500)
        page.prefer("dark" if dark else "light")
        page.goto(address)
        time.sleep(SETTLE_S)
        dom = page.evaluate("document.documentElement.outerHTML")
        page.screenshot(folder / "picture.png")
        own = urlsplit(address).netloc
        parts = [(urlsplit(url), url) for url in page.requests]
        asked = [url for at, url in parts if at.scheme in NETWORK and at.netloc != (own or None)]
        return Visit(dom=dom, said=tuple(page.problems), asked=tuple(asked))


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page in a fresh browser, which ends with the block."""
    assert PROGRAM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
    for fd in (theirs_in, theirs_out):
        os.close(fd)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        browser = subprocess.Popen(
            [sys.executable, "-c", WIRING, *map(str, passed), *command],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        for fd in passed:
            os.close(fd)
        try:
            page = Page(ours_out, ours_in)
            page.resize(width, height)
            yield page
        finally:
            os.close(ours_out)
            os.close(ours_in)
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
