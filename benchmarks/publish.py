"""How a benchmark's figures are kept: NAME.json and NAME.md, with commit, machine and date.

Paths are cut to their last part: what is committed names no folder of the machine it ran on.
"""

import argparse
import datetime
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench.device import environment, fingerprint
from kdbench.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def _file(name: str) -> Path:
    """A file's path: told before anything is computed for it."""
    path = Path(name)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{name} is a folder, name a file in it: {name}/NAME.json")
    return path


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """`--out`, by default `benchmarks/results/NAME.json`."""
    parser.add_argument(
        "--out",
        type=_file,
        default=RESULTS / f"{name}.json",
        help=f"where the figures go; the table lies beside it as .md (results/{name}.json)",
    )


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table that reads as plain text too; the first `left` columns are names."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(heads))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]])


def publish(arguments: argparse.Namespace, text: str, figures: dict[str, Any]) -> None:
    """Prints `text`, writes it and `figures` where `arguments.out` says."""
    origin = provenance(arguments)
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, (json.dumps(origin | figures, indent=1) + "\n").encode())
    note = f"{origin['date']}, commit {origin['commit']}, {origin['machine']['cpu']}"
    write_atomic(out.with_suffix(".md"), f"{text}\n\n{note}\n".encode())
    print(f"{text}\n\n{note}\n{out}")


def provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where figures come from; `load_average` is the last minute's and counts this process too."""
    kept = {name: shown(value) for name, value in vars(arguments).items() if name != "out"}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "arguments": kept,
        "machine": environment() | fingerprint("cpu", threads=1),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str | None:
    """The commit of this checkout, `+` behind it if anything differs; None outside of one."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")


def shown(value: Any) -> Any:
    """An argument without the folders of this machine."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and value.startswith("file:"):
        return f"file:{Path(value).name}"
    return value


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout
