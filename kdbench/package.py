"""A student as a folder that travels: weights and tables, spec, card, README.

    codec.safetensors   the codec, as every codec file of kdbench (`codecs.weights`)
    card.json           what it is and does, how it was trained, under which licence
    spec.json           everything the trial was told
    README.md           the same for people
    *.onnx              its transforms, where they were asked for

`kdbench export` writes one (`export`); `kdbench.load` reads it here. No other file is needed, nor
the study, nor the teacher.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import CodecError, StoreError
from kdbench.files import read_object

if TYPE_CHECKING:
    from kdbench.codecs.learned import LearnedCodec

FORMAT = 1  # of card.json
KIND = "kdbench-package"
CODEC, CARD, SPEC, README = "codec.safetensors", "card.json", "spec.json", "README.md"


def load(path: str | Path) -> "LearnedCodec":
    """The codec of a package, or of a single codec file, ready to code.

    A CompressAI model: `compress(x, level)` gives strings, `decompress(strings, shape, level)` the
    image; x is (B, 3, H, W) in [0, 1], H and W multiples of 64. `kdbench.codecs.bitfile` has whole
    files of images of any size. A level between two trained ones is a quality between them.

    Raises:
        CodecError: No package, an incomplete, damaged or newer one, or weights that its card does
            not name.
    """
    from kdbench.codecs.weights import load_codec

    path = Path(path).expanduser()
    return load_codec(codec_file(path) if path.is_dir() else path)[0]


def codec_file(folder: Path) -> Path:
    """The codec file of the package in `folder`, which is the one that its card names.

    Raises:
        CodecError: As `load`.
    """
    from kdbench.codecs.weights import file_sha

    card = read_card(folder)
    path = folder / CODEC
    _require(path, folder)
    if file_sha(path) != card["sha"]:
        raise CodecError(
            f"{path} is not the file that {CARD} beside it names: its SHA-256 begins with "
            f"{file_sha(path)[:16]}, not {card['sha'][:16]}",
            fix="copy the whole package again; its files belong together",
        )
    return path


def read_card(folder: Path) -> Mapping[str, Any]:
    """What the package in `folder` says of itself.

    Raises:
        CodecError: As `load`.
    """
    path = folder / CARD
    _require(path, folder)
    try:
        card = read_object(path)
        kind, made = card["kind"], card["format"]
        known = kind == KIND and isinstance(made, int) and isinstance(card["sha"], str)
    except (StoreError, KeyError, TypeError):
        known, made = False, 0
    if known and made > FORMAT:
        raise CodecError(
            f"{folder} is a package of format {made}, this kdbench reads up to {FORMAT}",
            fix="use the newer kdbench that wrote it: `pip install --upgrade kdbench`",
        )
    if not known:
        raise CodecError(
            f"{path} is damaged or no card of a kdbench package",
            fix="copy the whole package again, or name a folder that `kdbench export` wrote",
        )
    found: Mapping[str, Any] = card
    return found


def _require(path: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise CodecError(
            f"there is no package {folder}", fix="name a folder that `kdbench export` wrote"
        )
    if not path.is_file():
        raise CodecError(
            f"the package {folder} has no {path.name}",
            fix="copy the whole package again, or name a folder that `kdbench export` wrote",
        )
