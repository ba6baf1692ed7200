"""Photos that cannot be used, folders without any, one photo in two roles."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from kdbench.data import load_images
from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, text, written
from tests.unit.data.files import UNUSABLE, Writer, as_mode, save, sized

BENCH = "bench jpeg --no-energy --images mine"
NAMES = ".avif .bmp .gif .heic .heif .jp2 .jpeg .jpg .jxl .png .ppm .tif .tiff .webp"
MIXED: Mapping[str, Writer] = {
    "dot.png": sized(1, 1),
    "grey.png": as_mode("L"),
    "opaque.png": as_mode("RGBA"),
    "palette.png": as_mode("P"),
    "photo.jpg": as_mode("RGB", "JPEG"),
    "strip.png": sized(20_000, 1),
    **{
        name: UNUSABLE[name][0]
        for name in (
            *("cut.png", "empty.png", "grey16.png", "moving.gif", "print.jpg"),
            "seen_through.png",
        )
    },
}
"""Every kind of image in one folder: six that can be used and six that cannot."""


def mine(**files: Writer) -> Prepare:
    """A folder `mine` with these files; `_` in a name stands for the dot before its ending."""
    return lambda folder: fill(folder, {n.replace("_", "."): w for n, w in files.items()})


def fill(folder: Path, files: Mapping[str, Writer]) -> None:
    """Writes `files` into `folder`/mine."""
    for name, write in files.items():
        write(written(folder / "mine" / name))


def unusable(name: str, why: str) -> Row:
    """A folder with one file that cannot be used."""
    return Row(
        broken=lambda folder: fill(folder, {name: UNUSABLE[name][0]}),
        command=BENCH,
        answer="no usable photo for evaluation among the images in mine (1 skipped): "
        f"{name} ({why})\n  fix: convert them to still 8-bit RGB images of at least 1 px a side, "
        "or set --images to `builtin`\n",
    )


def too_small(role: str, width: int, height: int) -> Row:
    """Photos smaller than a crop."""
    return Row(
        broken=mine(small_png=sized(width, height)),
        command=f"search --study quick --set data.{role}=mine",
        answer=f"no usable photo for {role} among the images in mine (1 skipped): small.png "
        f"({width}x{height} px, a crop needs 64 px a side)\n  fix: convert them to still 8-bit "
        f"RGB images of at least 64 px a side, or set data.{role} to `builtin`\n",
    )


def copied(source: str, to: str) -> Prepare:
    """One more copy of a photo, under another name."""
    return lambda folder: shutil.copy(folder / source, written(folder / to))


def _held_out(folder: Path) -> None:
    save(folder / "mine" / "copy.png", load_images("builtin", "evaluation").image(0))


ROWS = {
    "an empty image": unusable("empty.png", "empty file"),
    "text that is called an image": unusable("text.png", "not an image Pillow reads"),
    "a truncated PNG": unusable("cut.png", "cannot be read: image file is truncated"),
    "a truncated JPEG": unusable("cut.jpg", "cannot be read: Truncated File Read"),
    "an animated GIF": unusable("moving.gif", "animated or of several pages (2 frames)"),
    "an animated WebP": unusable("moving.webp", "animated or of several pages (2 frames)"),
    "pages of a TIFF": unusable("pages.tif", "animated or of several pages (2 frames)"),
    "a CMYK image": unusable("print.jpg", "CMYK, whose colours need a print profile"),
    "a greyscale image of 16 bits": unusable("grey16.png", "more than 8 bits a sample"),
    "a colour image of 16 bits": unusable("rgb16.png", "more than 8 bits a sample"),
    "an image one can see through": unusable(
        "seen_through.png", "transparent pixels, and nothing says what lies behind"
    ),
    "a palette one can see through": unusable(
        "palette_alpha.png", "transparent pixels, and nothing says what lies behind"
    ),
    "a photo of one pixel to train on": too_small("train", 1, 1),
    "a strip of 20,000 pixels to train on": too_small("train", 20_000, 1),
    "a photo of one pixel to validate with": too_small("validation", 1, 1),
    "a strip that WebP cannot code": Row(
        broken=mine(strip_png=sized(20_000, 1)),
        command="bench webp --no-energy --images mine",
        answer="strip.png: webp cannot code an image of 20000x1 px: [...]\n"
        "  fix: leave this image out, or measure it with another codec\n",
    ),
    "a folder that is not there": Row(
        command=BENCH,
        answer="no folder mine with photos for evaluation\n"
        "  fix: set --images to `builtin` or to a folder that exists\n",
    ),
    "a file instead of a folder": Row(
        command="bench jpeg --images photos/train/0.png",
        answer="no folder photos/train/0.png with photos for evaluation\n"
        "  fix: set --images to `builtin` or to a folder that exists\n",
    ),
    "a folder without images": Row(
        broken=text("mine/notes.txt", "no photo"),
        command=BENCH,
        answer=f"no image in mine for evaluation (looked for {NAMES})\n"
        "  fix: put photos there, or set --images to `builtin` or another folder\n",
    ),
    "a folder to train on that is not there": Row(
        command="search --study quick --set data.train=mine",
        answer="no folder mine with photos for train\n"
        "  fix: set data.train to `builtin` or to a folder that exists\n",
    ),
    "a folder to train on without images": Row(
        broken=text("mine/notes.txt", "no photo"),
        command="search --study quick --set data.train=mine",
        answer=f"no image in mine for train (looked for {NAMES})\n"
        "  fix: put photos there, or set data.train to `builtin` or another folder\n",
    ),
    "a folder to teach with that is not there": Row(
        command="teach mine --images mine",
        answer="no folder mine with photos for train\n"
        "  fix: set --images to `builtin` or to a folder that exists\n",
    ),
    "one folder in two roles": Row(
        command="search --study quick --set data.validation=photos/train",
        answer="one photo has two roles: photos/train/0.png (train) and photos/train/0.png "
        "(validation) show the same pixels\n  fix: take it out of data.train or data.validation\n",
    ),
    "one photo in two roles, under two names": Row(
        broken=copied("photos/train/1.png", "mine/other.png"),
        command="search --study quick --set data.evaluation=mine",
        answer="one photo has two roles: photos/train/1.png (train) and mine/other.png "
        "(evaluation) show the same pixels\n  fix: take it out of data.train or data.evaluation\n",
    ),
    "a teacher that would see what it is judged by": Row(
        broken=_held_out,
        command="teach mine --images mine",
        answer="one photo has two roles: mine/copy.png (train) and [...].png (evaluation) show the "
        "same pixels\n  fix: take it out of --images or data.evaluation\n",
    ),
}
