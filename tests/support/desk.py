"""A user's working folder: small photos, a quick study, a stored one, a teacher, and much rubbish."""

import pickle
from collections.abc import Callable
from pathlib import Path

from kdbench.data import Role, load_images
from tests.support.codecs import architecture, save_teacher
from tests.support.results import make_study
from tests.unit.data.files import save

ROLES: tuple[Role, ...] = ("train", "validation", "evaluation")
RD_LAMBDAS = "[0.0018, 0.0035, 0.0067, 0.013, 0.025]"
QUICK = f"""\
space:
  name: alone
  encoder: {{width: [8, 12], kernel: 3, activation: gdn}}
  decoder: {{width: 8, kernel: 3, activation: gdn}}
  hyper: {{width: 8}}
  latent: {{channels: 16}}
  training: {{learning_rate: 1.0e-3}}
objectives: [bd_rate_pct, kmac_per_px]
anchor: jpeg
trials: 2
workers: 1
data: {{train: photos/train, validation: photos/validation, evaluation: photos/evaluation, crops: 16}}
training: {{steps: 4, batch: 4, crop_px: 64, rd_lambdas: {RD_LAMBDAS}}}
energy: {{meter: none}}
"""
"""A study without teacher, anchor file and meter: it begins within a second."""


def make_photos(folder: Path, width: int = 96, height: int = 80) -> None:
    """`folder`/ROLE: two small cuts of the built-in photos for each role."""
    for role in ROLES:
        photos = load_images("builtin", role)
        for i in range(2):
            save(folder / role / f"{i}.png", photos.image(i)[100 : 100 + height, 100 : 100 + width])


def make_desk(folder: Path) -> None:
    """Photos, the study `quick`, the stored study `tiny` in runs/, the teacher `small`."""
    make_photos(folder / "photos")
    (folder / "studies").mkdir()
    (folder / "studies" / "quick.yaml").write_text(QUICK)
    make_study(folder / "runs")
    (folder / "teachers").mkdir()
    save_teacher(folder / "teachers" / "small.safetensors", architecture())


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
    """Replaces a word in a file that is there."""

    def edit(folder: Path) -> None:
        path = folder / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return edit


def cut(name: str, n_bytes: int, *, to: str) -> Prepare:
    """Keeps the first bytes of a file, under another name."""
    return lambda folder: (folder / to).write_bytes((folder / name).read_bytes()[:n_bytes])


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
