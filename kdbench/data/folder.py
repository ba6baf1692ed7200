"""Folders of photos: which files are usable, and why the others are not.

Folders are searched recursively (hidden files and folders, and links to folders, excepted), in
the order of the names. Files with other extensions than `EXTENSIONS` are not looked at.
"""

from collections.abc import Sequence
from pathlib import Path

from kdbench.data.images import KEEP_BYTES, ImageSet, Photo, Role, Skipped, content_sha
from kdbench.data.pixels import UnusableError, read_rgb
from kdbench.errors import DataError

BUILTIN = Path(__file__).parent.parent / "assets" / "photos"
EXTENSIONS = frozenset({
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif",
    ".heic", ".heif", ".jxl",
})  # fmt: skip


def load_images(
    source: str | Path, role: Role, *, crop_px: int = 128, keep_bytes: int = KEEP_BYTES
) -> ImageSet:
    """The usable photos of `source` (`builtin` or a folder) for `role`.

    Every file is decoded once, so whatever is returned can be read. Photos of training and
    validation with a side under `crop_px` are skipped; evaluation takes any size.

    Raises:
        DataError: no such folder, no image in it, or none that can be used (with the reasons).
    """
    folder = BUILTIN / role if str(source) == "builtin" else Path(source).expanduser()
    smallest_px = 1 if role == "evaluation" else crop_px
    photos: dict[str, Photo] = {}
    skipped: list[Skipped] = []
    for path in _image_files(folder, role):
        found = _inspect(path.relative_to(folder).as_posix(), path, smallest_px)
        if isinstance(found, Photo) and found.sha in photos:
            found = Skipped(found.name, f"same pixels as {photos[found.sha].name}")
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            photos[found.sha] = found
    if not photos:
        raise DataError(
            f"no usable photo for {role} among the images in {folder} "
            f"({len(skipped)} skipped): {summary(skipped)}",
            fix=f"convert them to still 8-bit RGB images of at least {smallest_px} px a side, "
            f"or set data.{role} to `builtin`",
        )
    return ImageSet(tuple(photos.values()), tuple(skipped), keep_bytes)


def summary(skipped: Sequence[Skipped], at_most: int = 5) -> str:
    """`name (why), name (why) and 3 more`, for messages."""
    shown = ", ".join(f"{skip.name} ({skip.why})" for skip in skipped[:at_most])
    n_more = len(skipped) - at_most
    return f"{shown} and {n_more} more" if n_more > 0 else shown


def _image_files(folder: Path, role: Role) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder} with photos for {role}",
            fix="reinstall kdbench, its photos are missing"
            if folder.parent == BUILTIN
            else f"set data.{role} to `builtin` or to a folder that exists",
        )
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and (path.is_file() or path.is_symlink())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise DataError(
            f"no image in {folder} for {role} (looked for {' '.join(sorted(EXTENSIONS))})",
            fix=f"put photos there, or set data.{role} to `builtin` or another folder",
        )
    return found


def _inspect(name: str, path: Path, smallest_px: int) -> Photo | Skipped:
    try:
        pixels = read_rgb(path)
    except UnusableError as problem:
        return Skipped(name, str(problem))
    height, width, _ = pixels.shape
    if min(height, width) < smallest_px:
        return Skipped(name, f"{width}x{height} px, a crop needs {smallest_px} px a side")
    return Photo(name, path, height, width, content_sha(pixels))
