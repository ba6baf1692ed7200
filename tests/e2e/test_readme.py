"""README's blocks do what README says, in a smoke profile.

Every ```bash block is run, in order, in one empty folder, with `kd_pareto` replaced by `smoke`.
A block that is not run has a comment right before it that says why.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from kdbench.data import load_images

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def blocks() -> list[tuple[str | None, str]]:
    """Why it is not run (None: it is), and the block."""
    return [(found["why"], found["code"]) for found in BLOCK.finditer(README.read_text())]


def test_readme_has_blocks_that_run_and_says_why_the_others_do_not() -> None:
    found = blocks()
    assert sum(why is None for why, _ in found) >= 2
    assert README.read_text().count("```bash") == len(found)
    assert all(why is None or len(why.split()) > 3 for why, _ in found)


def test_every_command_of_readme_exists() -> None:
    from kdbench.arguments import COMMANDS

    named = {
        word
        for _, code in blocks()
        for word in re.findall(r"^kdbench ([a-z]+)", code, flags=re.MULTILINE)
    }
    assert named <= set(COMMANDS)
    assert {"search", "show", "rerun", "teach", "bench", "check", "doctor"} <= named


@pytest.mark.slow
def test_the_blocks_of_readme_run(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "KDBENCH_ROOT": str(tmp_path / "runs"),
    }
    photo = load_images("builtin", "evaluation").image(0)
    Image.fromarray(photo).save(tmp_path / "photo.png")  # the reader's
    for why, code in blocks():
        if why is not None:
            continue
        smoke = code.replace("kd_pareto", "smoke")
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", smoke],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{smoke}\n{run.stdout}\n{run.stderr}"
    assert (tmp_path / "all.json").stat().st_size > 1000
    assert (tmp_path / "jpeg.json").stat().st_size > 1000
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert list((tmp_path / "report").glob("trial-*-crop-*.png"))
