"""Packages that bring something to kdbench, as if they were installed: no network, no pip."""

import importlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELIC = ROOT / "examples" / "kdbench-elic"


def installed(
    patch: pytest.MonkeyPatch,
    site: Path,
    groups: Mapping[str, Mapping[str, str]],
    *,
    name: str = "brought",
    source: Path = ROOT,
) -> None:
    """Entry points that this process and its children see; `source` is where their modules are."""
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for path in (source, site):
        patch.syspath_prepend(str(path))
    inherited = [path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path]
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(source), *inherited]))
    importlib.invalidate_caches()


def install_elic(patch: pytest.MonkeyPatch, site: Path) -> None:
    """The example package, with the entry points that its pyproject.toml names."""
    project = tomllib.loads((ELIC / "pyproject.toml").read_text())["project"]
    installed(patch, site, project["entry-points"], name=project["name"], source=ELIC)
