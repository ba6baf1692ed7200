"""A page in a headless Chromium: its picture, its DOM, what it said, what it asked for."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")
HARMLESS = ("GL Driver Message", "willReadFrequently", "software WebGL", "SwiftShader")
BUDGET_MS = 2000  # of the page's own clock; a figure that turns draws each frame of them
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
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={network}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--virtual-time-budget={BUDGET_MS}",
    ]
    opened = [BROWSER, *flags, "--dump-dom", f"--screenshot={folder / 'picture.png'}", address]
    run = subprocess.run(opened, capture_output=True, text=True, timeout=300, check=True)
    lines = [line for line in run.stderr.splitlines() if ":CONSOLE:" in line]
    return Visit(
        dom=run.stdout,
        said=tuple(line for line in lines if not any(word in line for word in HARMLESS)),
        asked=_asked(network, address),
    )


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
