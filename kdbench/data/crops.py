"""Crops: the finite list that a study trains on, fresh ones for a teacher, fixed ones to validate.

Photos are drawn by pixels times detail, places uniformly, and half of the crops are mirrored
left to right. A mirrored crop is a crop of its own, so that a teacher's outputs can be cached.
"""

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdbench.data.images import ImageSet
from kdbench.data.pixels import Pixels
from kdbench.errors import DataError, StoreError, notice
from kdbench.once import turn_to_build, unfinished

IN_MEMORY_BYTES = 4 << 30  # decoded photos that `sample_batch` keeps
_SHA_BYTES = 32


@dataclass(frozen=True, eq=False)
class CropList:
    """Which crops of which photos; the pixels are materialised by `crops`.

    Attributes:
        places: int64 (n, 4), one row a crop: index of the photo, top, left [px], mirrored (0, 1).
    """

    images: ImageSet
    places: npt.NDArray[np.int64]
    crop_px: int

    @property
    def n(self) -> int:
        """How many crops."""
        return len(self.places)

    @cached_property
    def hash(self) -> str:
        """First 16 digits of the SHA-256 of what the crops show: photos' content and places."""
        digest = hashlib.sha256(f"{self.crop_px}".encode())
        for photo, top, left, mirrored in self.places.tolist():
            digest.update(f"\n{self.images.photos[photo].sha} {top} {left} {mirrored}".encode())
        return digest.hexdigest()[:16]

    def crop(self, i: int) -> Pixels:
        """Crop `i`, uint8 (3, crop_px, crop_px)."""
        photo, top, left, mirrored = self.places[i].tolist()
        return _cut(self.images.image(photo), top, left, self.crop_px, mirrored=bool(mirrored))

    def crops(self, folder: Path) -> Pixels:
        """All crops, uint8 (n, 3, crop_px, crop_px), a read-only memory map of a file in `folder`.

        The file is built once, by whoever asks first; the others wait. It ends with the SHA-256
        of the crops, so that a damaged one is noticed and built again. A batch taken by an index
        array is a copy, which torch may write to; a slice is not.

        Raises:
            StoreError: `folder` cannot be written or the disk is full.
        """
        path = folder / f"crops-{self.hash}.u8"
        shape = (self.n, 3, self.crop_px, self.crop_px)
        try:
            with turn_to_build(path) as goes_on:
                there = path.is_file()
                if not _is_whole(path, math.prod(shape)):
                    if there:
                        notice(f"{path} is damaged; it is made again")
                    self._write(path, goes_on)
        except OSError as problem:
            raise StoreError(
                f"cannot write {path}: {problem.strerror}",
                fix=f"make room for {math.ceil(math.prod(shape) / 2**20)} MiB in a writable "
                "--root, or lower data.crops",
            ) from problem
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)

    def _write(self, path: Path, goes_on: Callable[[], None]) -> None:
        """Writes crops, then their SHA-256; photo by photo, so that each is decoded once."""
        temporary = unfinished(path)
        try:
            with temporary.open("w+b") as file:  # no memory map: a full disk would kill with SIGBUS
                for i in np.argsort(self.places[:, 0], kind="stable").tolist():
                    file.seek(i * 3 * self.crop_px**2)
                    file.write(self.crop(i).tobytes())
                    goes_on()
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").digest()
                file.write(digest)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def draw_crops(images: ImageSet, n: int, crop_px: int, seed: int) -> CropList:
    """`n` crops of `images`; the same photos, whatever their names, and seed give the same crops.

    Raises:
        DataError: a photo is smaller than a crop.
    """
    _require_room(images, crop_px)
    places = _draw(images, np.random.default_rng(seed), n, crop_px)
    return CropList(images, places, crop_px)


def sample_batch(images: ImageSet, rng: np.random.Generator, n: int, crop_px: int) -> Pixels:
    """`n` fresh crops, uint8 (n, 3, crop_px, crop_px); photos stay decoded in memory."""
    images.keep_bytes = max(images.keep_bytes, IN_MEMORY_BYTES)
    _require_room(images, crop_px)
    batch = np.empty((n, 3, crop_px, crop_px), dtype=np.uint8)
    for i, (photo, top, left, mirrored) in enumerate(_draw(images, rng, n, crop_px).tolist()):
        batch[i] = _cut(images.image(photo), top, left, crop_px, mirrored=bool(mirrored))
    return batch


def validation_crops(images: ImageSet, crop_px: int, per_photo: int) -> Pixels:
    """Crops at fixed places, uint8 (n_photos * per_photo, 3, crop_px, crop_px), photo by photo.

    One crop is the centre; more lie on a grid, evenly spread.
    """
    _require_room(images, crop_px)
    columns = math.ceil(math.sqrt(per_photo))
    rows = math.ceil(per_photo / columns)
    crops = np.empty((images.n * per_photo, 3, crop_px, crop_px), dtype=np.uint8)
    for i in range(len(crops)):
        row, column = divmod(i % per_photo, columns)
        pixels = images.image(i // per_photo)
        top = (pixels.shape[0] - crop_px) * (2 * row + 1) // (2 * rows)
        left = (pixels.shape[1] - crop_px) * (2 * column + 1) // (2 * columns)
        crops[i] = _cut(pixels, top, left, crop_px, mirrored=False)
    return crops


def _draw(
    images: ImageSet, rng: np.random.Generator, n: int, crop_px: int
) -> npt.NDArray[np.int64]:
    order, cumulative = images.draw_order
    photos = order[np.searchsorted(cumulative, rng.random(n), side="right")]
    u_top, u_left, u_mirror = rng.random((3, n))
    free = images.shapes[photos] - crop_px + 1
    top = (u_top * free[:, 0]).astype(np.int64)
    left = (u_left * free[:, 1]).astype(np.int64)
    return np.stack([photos, top, left, (u_mirror < 0.5).astype(np.int64)], axis=1)


def _cut(pixels: Pixels, top: int, left: int, crop_px: int, *, mirrored: bool) -> Pixels:
    crop = pixels[top : top + crop_px, left : left + crop_px]
    return (crop[:, ::-1] if mirrored else crop).transpose(2, 0, 1)


def _require_room(images: ImageSet, crop_px: int) -> None:
    if images.shapes.min() < crop_px:
        small = [photo.name for photo in images.photos if min(photo.height, photo.width) < crop_px]
        raise DataError(
            f"photos smaller than a crop of {crop_px} px: {len(small)}, the first is {small[0]}",
            fix="load them with this crop_px, which skips them, or lower training.crop_px",
        )


def _is_whole(path: Path, n_bytes: int) -> bool:
    if not path.is_file() or path.stat().st_size != n_bytes + _SHA_BYTES:
        return False
    content = np.memmap(path, dtype=np.uint8, mode="r")
    return hashlib.sha256(content[:-_SHA_BYTES].data).digest() == content[-_SHA_BYTES:].tobytes()
