"""Packages and .kdb files that are damaged, foreign or in the way; trials that cannot travel."""

import json
import struct
import zlib
from pathlib import Path

from PIL import Image

from kdbench.codecs.bitfile import encode_image
from kdbench.codecs.fileform import CRC_AT, HEADER
from kdbench.codecs.weights import file_sha, load_codec
from kdbench.data import load_images
from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, both, cut, data, edited, nothing, text, written

TEACHER = Path("teachers/default.safetensors")
PHOTO, FILE = "photos/evaluation/0.png", "photo.kdb"
WHOLE = "copy the whole package again"
EXPORTED = f"{WHOLE}, or name a folder that `kdbench export` wrote"
AGAIN = "copy or encode it again"


def packaged(folder: Path) -> None:
    """Writes the package `student`, of the desk's teacher."""
    path = written(folder / "student" / "codec.safetensors")
    path.write_bytes((folder / TEACHER).read_bytes())
    card = {"kind": "kdbench-package", "format": 1, "sha": file_sha(path)}
    (folder / "student" / "card.json").write_text(json.dumps(card))


def encoded(folder: Path) -> None:
    """Writes `photo.kdb`, by the desk's teacher."""
    model, _ = load_codec(folder / TEACHER)
    photo = load_images(folder / "photos" / "evaluation", "evaluation").image(0)
    (folder / FILE).write_bytes(encode_image(model, photo, 2.5, machine="a desk in Turin"))


def forged(at: int, form: str, *values: int) -> Prepare:
    """Writes other values into the header of `photo.kdb`, and the checksum that fits them."""

    def forge(folder: Path) -> None:
        encoded(folder)
        changed = bytearray((folder / FILE).read_bytes())
        struct.pack_into(form, changed, at, *values)
        checksum = zlib.crc32(bytes(changed[:CRC_AT] + changed[HEADER.size :]))
        struct.pack_into(">I", changed, CRC_AT, checksum)
        (folder / FILE).write_bytes(bytes(changed))

    return forge


def loaded(broken: Prepare, problem: str, fix: str) -> Row:
    """`bench` of a package that is broken."""
    return Row(
        broken=both(packaged, broken),
        command="bench student --no-energy --images photos/evaluation",
        answer=f"{problem}\n  fix: {fix}\n",
    )


def encodes(
    problem: str,
    fix: str,
    *,
    photo: str = PHOTO,
    options: str = "",
    broken: Prepare = nothing,
) -> Row:
    """`encode` that writes nothing."""
    command = f"encode {photo} out.kdb --codec teacher:default {options}"
    return Row(broken=broken, command=command, answer=f"{problem}\n  fix: {fix}\n")


def decodes(
    broken: Prepare, problem: str, fix: str = AGAIN, *, file: str = FILE, options: str = ""
) -> Row:
    """`decode` that writes nothing."""
    codec = options or "--codec teacher:default"
    return Row(
        broken=broken,
        command=f"decode {file} out.png {codec}",
        answer=f"{file}{problem}\n  fix: {fix}\n",
    )


def exports(problem: str, fix: str, options: str, broken: Prepare = nothing) -> Row:
    """`export` that writes nothing."""
    command = f"export --study tiny {options}"
    return Row(broken=broken, command=command, answer=f"{problem}\n  fix: {fix}\n")


def deep(folder: Path) -> None:
    """Writes a photo of 16 bits a sample."""
    Image.new("I;16", (64, 64)).save(folder / "photo.png")


def glass(folder: Path) -> None:
    """Writes a photo that is transparent."""
    Image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(folder / "photo.png")


ROWS = {
    "a package without weights": loaded(
        lambda folder: (folder / "student/codec.safetensors").unlink(),
        "the package student has no codec.safetensors",
        EXPORTED,
    ),
    "a package without a card": loaded(
        lambda folder: (folder / "student/card.json").unlink(),
        "the package student has no card.json",
        EXPORTED,
    ),
    "a package of a newer kdbench": loaded(
        edited("student/card.json", '"format": 1', '"format": 2'),
        "student is a package of format 2, this kdbench reads up to 1",
        "use the newer kdbench that wrote it: `pip install --upgrade kdbench`",
    ),
    "a package whose card is damaged": loaded(
        cut("student/card.json", 20, to="student/card.json"),
        "student/card.json is damaged or no card of a kdbench package",
        EXPORTED,
    ),
    "a package of other weights": loaded(
        lambda folder: (folder / "student/codec.safetensors").write_bytes(
            (folder / "teachers/weak.safetensors").read_bytes()
        ),
        "student/codec.safetensors is not the file that card.json beside it names: its SHA-256 "
        "begins with [...], not [...]",
        f"{WHOLE}; its files belong together",
    ),
    "a photo to encode that is not there": encodes(
        "none.png cannot be used: cannot be read: No such file or directory",
        "name a still image of 8-bit RGB or grey samples",
        photo="none.png",
    ),
    "a text to encode": encodes(
        "photo.png cannot be used: not an image Pillow reads",
        "name a still image of 8-bit RGB or grey samples",
        photo="photo.png",
        broken=text("photo.png", "no photo"),
    ),
    "a photo to encode of 16 bits": encodes(
        "photo.png cannot be used: more than 8 bits a sample",
        "name a still image of 8-bit RGB or grey samples",
        photo="photo.png",
        broken=deep,
    ),
    "a photo to encode that is transparent": encodes(
        "photo.png cannot be used: transparent pixels, and nothing says what lies behind",
        "name a still image of 8-bit RGB or grey samples",
        photo="photo.png",
        broken=glass,
    ),
    "a file in the way of a .kdb file": encodes(
        "out.kdb is there already",
        "name another file, or add `--force`",
        broken=data("out.kdb", b"mine"),
    ),
    "a quality above 1": Row(
        command=f"encode {PHOTO} out.kdb --codec teacher:default --quality 1.5",
        code=2,
        answer="kdbench encode: argument --quality: 1.5 is not within 0 to 1\n"
        "  fix: see `kdbench encode --help`\n",
    ),
    "a classical codec for a .kdb file": Row(
        command=f"encode {PHOTO} out.kdb --codec webp",
        answer="webp has files of its own, and no .kdb files\n"
        "  fix: name a package, teacher:NAME, file:PATH or trial:STUDY/N\n",
    ),
    "a .kdb file that is not there": Row(
        command="decode none.kdb out.png --codec teacher:default",
        answer="none.kdb cannot be read: no such file or directory\n"
        "  fix: name a file that `kdbench encode` wrote\n",
    ),
    "a photo in place of a .kdb file": decodes(
        nothing,
        ": this is no .kdb file",
        "name a file that `kdbench encode` wrote",
        file=PHOTO,
    ),
    "an empty .kdb file": decodes(
        data(FILE, b""), ": this is no .kdb file", "name a file that `kdbench encode` wrote"
    ),
    "a .kdb file that was cut": decodes(
        both(encoded, cut(FILE, 200, to=FILE)), ": the .kdb file is damaged or cut short"
    ),
    "a .kdb file of a newer kdbench": decodes(
        both(encoded, lambda f: (f / FILE).write_bytes(b"KDB9" + (f / FILE).read_bytes()[4:])),
        ": this is no .kdb file that this kdbench knows: it begins with b'KDB9'",
        "if a newer kdbench wrote it, use that one: `pip install --upgrade kdbench`",
    ),
    "a .kdb file of another codec": decodes(
        encoded,
        ": the file was written by codec [...], and this is codec [...]",
        "decode with the package, teacher or trial that encoded it",
        options="--codec teacher:weak",
    ),
    "a .kdb file of a size that nothing holds": decodes(
        forged(5, ">HH", 65535, 65535),
        ": the image is 65535x65535 px; 134 megapixels are coded at most",
        "cut the image into tiles",
    ),
    "a .kdb file of more pixels than it has bits for": decodes(
        forged(5, ">HH", 8000, 8000),
        ": the .kdb file contradicts itself: [...] bytes cannot hold what predicts 8000x8000 px "
        "with this codec, at least [...] bytes",
    ),
    "a .kdb file at a level that its codec has not": decodes(
        forged(4, ">B", 200),
        ": level [...] is outside the trained levels 0 to 4",
        "choose one of the codec's levels, or a quality between them; outside of them nothing was "
        "trained",
    ),
    "an image that would not be lossless": Row(
        broken=encoded,
        command=f"decode {FILE} out.jpg --codec teacher:default",
        answer="out.jpg would not keep the decoded pixels as they are\n"
        "  fix: name a file that ends with .png, .ppm, .bmp, .tif, .tiff\n",
    ),
    "a file in the way of an image": Row(
        broken=both(encoded, data("out.png", b"mine")),
        command=f"decode {FILE} out.png --codec teacher:default",
        answer="out.png is there already\n  fix: name another file, or add `--force`\n",
    ),
    "a trial to export that broke": exports(
        "trial 4 has no result to compare with: the loss became nan at step 312 of 800",
        "choose one that `kdbench show` lists",
        "--trial 4 --to student",
    ),
    "several trials to export": exports(
        "--trial names 2 trials: [...]",
        "a package is of one: name its number, best:OBJECTIVE or knee",
        "--trial best --to student",
    ),
    "a trial to export without a student": exports(
        "trial 0 of tiny has no trained student",
        "copy its folder whole, student.safetensors with it; or train it again with `kdbench rerun "
        "--study tiny --trial 0`",
        "--trial 0 --to student",
    ),
    "a trial to export of other weights": exports(
        "HERE/runs/tiny/trials/0/student.safetensors is not the file that the trial's result names",
        "restore it from a copy; or train it again with `kdbench rerun --study tiny --trial 0`",
        "--trial 0 --to student",
        lambda f: (f / "runs/tiny/trials/0/student.safetensors").write_bytes(
            (f / TEACHER).read_bytes()
        ),
    ),
    "a trial to measure without a student": Row(
        command="measure --study tiny --trial 3",
        answer="trial 3 of tiny has no trained student\n"
        "  fix: copy its folder whole, student.safetensors with it\n",
    ),
    "a damaged file of what was measured": Row(
        broken=text("runs/tiny/trials/0/measured-0.json", "{"),
        command="show --study tiny",
        answer="HERE/runs/tiny/trials/0/measured-0.json is damaged: [...]\n"
        "  fix: restore it from a copy, or move its folder away; the rest of the study is intact\n",
    ),
    "a trial to train longer and to compare": Row(
        command="rerun --study tiny --trial 0 --full --seeds 2",
        answer="--steps and --full train a trial longer; --twin and --seeds train it as it was\n"
        "  fix: leave one of them away; `--set training.steps=N` searches with other steps\n",
    ),
}
