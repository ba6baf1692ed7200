"""A page in a headless Chromium: its picture, its DOM, what it said, what it asked for."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")
HARMLESS = ("GL Driver Message", "willReadFrequently", "software WebGL", "SwiftShader")
BUDGET_MS = 2000  # of the page's own clock; a figure that turns draws each frame of them
ATTEMPTS, PATIENCE_S = 4, 45
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
    "--v=0",
)


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page.

    Attributes:
        dom: After its scripts have run.
        said: Lines of the console, without those about graphics cards.
        asked: Addresses on a network that were asked for.
    """

    dom: str
    said: tuple[str, ...]
    asked: tuple[str, ...]


def visit(
    address: str, folder: Path, *, width: int = 1200, height: int = 1600, dark: bool = False
) -> Visit:
    """Opens `address`, and leaves `picture.png` in `folder`.

    Args:
        address: `file://...` or `http://127.0.0.1:PORT/...`.
        folder: Of the picture, and of the browser's own files.
        width: Of the window [px], 500 at least.
        height: Likewise.
        dark: What the reader prefers.
    """
    assert BROWSER is not None
    network = folder / "network.json"
    flags = [
        *FLAGS,
        f"--log-net-log={network}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--virtual-time-budget={BUDGET_MS}",
    ]
    asked = [*flags, "--dump-dom", f"--screenshot={folder / 'picture.png'}", address]
    dom, told = _answer([BROWSER, *asked], folder)
    lines = [line for line in told.splitlines() if ":CONSOLE:" in line]
    return Visit(
        dom=dom,
        said=tuple(line for line in lines if not any(word in line for word in HARMLESS)),
        asked=_asked(network, address),
    )


def _answer(command: list[str], folder: Path) -> tuple[str, str]:
    """What the browser printed and said.

    Now and then it waits for ever for a picture of a page with WebGL (one of six visits on a busy
    machine with Chromium 150, whatever the page): it is ended then, with its children, and begun
    again with a profile of its own.
    """
    for attempt in range(ATTEMPTS):
        profile = f"--user-data-dir={folder / f'profile-{attempt}'}"
        process = subprocess.Popen(
            [command[0], profile, *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            dom, told = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            continue
        assert process.returncode == 0, told
        return dom, told
    raise AssertionError(f"the browser gave no answer in {ATTEMPTS} visits of {PATIENCE_S} s")


def _asked(network: Path, address: str) -> tuple[str, ...]:
    """Addresses that the page asked for, by the browser's own log; none of its own server's.

    What the browser asks for itself, the time say, has no origin.
    """
    events = json.loads(network.read_text(errors="replace"))["events"]
    told = [event.get("params", {}) for event in events]
    urls = {p["url"] for p in told if p.get("initiator", "not an origin") != "not an origin"}
    own = address.split("/")[2] if address.startswith("http") else None
    found = {url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}
    return tuple(sorted(url for url in found if own is None or url.split("/")[2] != own))
