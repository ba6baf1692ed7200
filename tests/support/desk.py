"""A user's working folder: small photos, a quick study, a stored one, teachers, and rubbish."""

import pickle
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from kdbench.codecs.weights import codec_bytes
from kdbench.config import load_study, settings
from kdbench.data import Role, load_images
from tests.support.codecs import architecture, trained
from tests.support.edits import without_checksum
from tests.support.results import OBJECTIVES, STUDY, make_study

ROLES: tuple[Role, ...] = ("train", "validation", "evaluation")
RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025)
ZOOM = 3
TEACHER_STEPS = 40  # from here on the range coder writes what its model estimates
SPACE = """\
encoder: {width: [24, 32], kernel: 3, activation: gdn}
decoder: {width: 24, kernel: 3, activation: gdn}
hyper: {width: 16}
latent: {channels: 48}
training: {learning_rate: 1.0e-3}
"""
QUICK = f"""\
space: narrow
objectives: [bd_rate_pct, kmac_per_px]
anchor: teacher:weak
trials: 2
workers: 1
data:
  train: photos/train
  validation: photos/validation
  evaluation: photos/evaluation
  crops: 64
training: {{steps: 40, batch: 4, crop_px: 64, rd_lambdas: {list(RD_LAMBDAS)}}}
energy: {{meter: none}}
"""
"""Two students that train alone for a second, and no meter."""


def make_photos(folder: Path, n: int = 2, width: int = 192, height: int = 128) -> None:
    """`folder`/ROLE: small cuts of the built-in photos, enlarged: smooth ones are easily coded."""
    for role in ROLES:
        photos = load_images("builtin", role)
        for i in range(n):
            cut = Image.fromarray(photos.image(i)[: height // ZOOM, : width // ZOOM])
            path = written(folder / role / f"{i}.png")
            cut.resize((width, height), Image.Resampling.BICUBIC).save(path)


def make_desk(folder: Path) -> None:
    """Photos, a study (`quick`), a stored one (`tiny`, in runs/), teachers `default` and `weak`.

    `weak` was trained for fewer bits than its card says: what trains for a second can be compared
    with it.
    """
    make_photos(folder / "photos")
    written(folder / "search_spaces" / "narrow.yaml").write_text(SPACE)
    written(folder / "studies" / "quick.yaml").write_text(QUICK)
    objectives = f"objectives=[{','.join(OBJECTIVES)}]"
    stored = load_study("quick", ["energy.meter=auto", objectives, f"name={STUDY}"])
    make_study(folder / "runs", settings=settings(stored))
    plan = architecture(24, 16, hyper=16, latent=48, n_levels=len(RD_LAMBDAS))
    card = {"training": {"rd_lambdas": list(RD_LAMBDAS)}, "licence": "CC0-1.0"}
    for name, share in (("default", 1.0), ("weak", 0.25)):
        rd_lambdas = [share * rd_lambda for rd_lambda in RD_LAMBDAS]
        model = trained(plan, TEACHER_STEPS, rd_lambdas=rd_lambdas, learning_rate=1e-3)
        path = written(folder / "teachers" / f"{name}.safetensors")
        path.write_bytes(codec_bytes(model, card))


# --- what a row of the table may break before its command runs -----------------------------------

Prepare = Callable[[Path], object]


def nothing(folder: Path) -> None:
    """Leaves the desk as it is."""


def text(name: str, content: str) -> Prepare:
    """Writes a text file."""
    return lambda folder: written(folder / name).write_text(content)


def data(name: str, content: bytes) -> Prepare:
    """Writes a binary file."""
    return lambda folder: written(folder / name).write_bytes(content)


def edited(name: str, old: str, new: str) -> Prepare:
    """Replaces a word in a file that is there, in a record without its checksum."""

    def edit(folder: Path) -> None:
        path = folder / name
        content = without_checksum(path)
        assert old in content
        path.write_text(content.replace(old, new))

    return edit


def cut(name: str, n_bytes: int, *, to: str) -> Prepare:
    """Keeps the first bytes of a file, under another name."""
    return lambda folder: (folder / to).write_bytes((folder / name).read_bytes()[:n_bytes])


def both(first: Prepare, second: Prepare) -> Prepare:
    """One after the other."""

    def run(folder: Path) -> None:
        first(folder)
        second(folder)

    return run


class Trap:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, ("unpickled", "w")


def pickled(name: str) -> Prepare:
    """Writes a pickle that shows when somebody reads it as one."""
    return lambda folder: written(folder / name).write_bytes(pickle.dumps(Trap()))


def written(path: Path) -> Path:
    """`path`, in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
