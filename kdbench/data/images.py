"""A set of usable photos: what they are, their pixels, how much detail is in them."""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdbench.data.pixels import Pixels, UnusableError, read_rgb
from kdbench.errors import DataError

Role = Literal["train", "validation", "evaluation"]
AnyRole = TypeVar("AnyRole", bound=str)

DETAIL_QUALITY = 92  # JPEG quality whose bits per pixel say how much there is to learn in a photo
KEEP_BYTES = 256 << 20  # decoded photos an ImageSet keeps


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file with the extension of an image that is not used, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Photo:
    """One usable photo.

    Attributes:
        name: Path relative to the folder, with `/`.
        sha: SHA-256 of shape and decoded pixels: the photo's identity, whatever the file.
    """

    name: str
    path: Path
    height: int
    width: int
    sha: str


@dataclass(eq=False)
class ImageSet:
    """The usable photos of one role, by name; decoded when asked for, the latest ones kept."""

    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...] = ()
    keep_bytes: int = KEEP_BYTES
    _kept: OrderedDict[int, Pixels] = field(default_factory=OrderedDict, init=False, repr=False)
    _kept_bytes: int = field(default=0, init=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the photos, in the order of `image(i)`."""
        return tuple(photo.name for photo in self.photos)

    @property
    def n(self) -> int:
        """How many photos."""
        return len(self.photos)

    @property
    def pixels(self) -> int:
        """Pixels of all photos together."""
        return int(self.shapes.prod(axis=1).sum())

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the photos' content, independent of names, folders and order."""
        by_content = "\n".join(sorted(photo.sha for photo in self.photos))
        return hashlib.sha256(by_content.encode()).hexdigest()

    @cached_property
    def shapes(self) -> npt.NDArray[np.int64]:
        """int64 (n, 2): height and width of each photo [px]."""
        return np.array([(photo.height, photo.width) for photo in self.photos], dtype=np.int64)

    @cached_property
    def detail_bpp(self) -> tuple[float, ...]:
        """Bits per pixel of each photo as a JPEG of quality 92: flat photos teach little."""
        return tuple(_detail_bpp(self.image(i)) for i in range(self.n))

    @cached_property
    def draw_order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Photos ordered by content, and their cumulative share of pixels times detail."""
        order = sorted(range(self.n), key=lambda i: self.photos[i].sha)
        weights = (self.shapes.prod(axis=1) * np.array(self.detail_bpp))[order]
        cumulative = np.cumsum(weights)
        return np.array(order, dtype=np.int64), cumulative / cumulative[-1]

    def image(self, i: int) -> Pixels:
        """Photo `i`, uint8 (H, W, 3) RGB, read-only.

        Raises:
            DataError: the file changed or went away after the set was loaded.
        """
        if i in self._kept:
            self._kept.move_to_end(i)
            return self._kept[i]
        pixels = _read_again(self.photos[i])
        self._kept[i] = pixels
        self._kept_bytes += pixels.nbytes
        while self._kept_bytes > self.keep_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def joined(*sets: ImageSet, keep_bytes: int = KEEP_BYTES) -> ImageSet:
    """All photos of `sets` as one set; a photo that is in two of them counts once."""
    photos: dict[str, Photo] = {}
    for images in sets:
        for photo in images.photos:
            photos.setdefault(photo.sha, photo)
    skipped = tuple(skip for images in sets for skip in images.skipped)
    return ImageSet(tuple(photos.values()), skipped, keep_bytes)


def disjoint(sets: Mapping[AnyRole, ImageSet]) -> None:
    """Returns if no photo, by content, is in two of the `sets` (role -> photos).

    Raises:
        DataError: names the first such photo in both roles.
    """
    seen: dict[str, tuple[str, str]] = {}
    for role, images in sets.items():
        for photo in images.photos:
            if photo.sha in seen:
                other_role, other_path = seen[photo.sha]
                raise DataError(
                    f"one photo has two roles: {other_path} ({other_role}) and {photo.path} "
                    f"({role}) show the same pixels",
                    fix=f"take it out of data.{other_role} or data.{role}",
                )
            seen[photo.sha] = (role, str(photo.path))


def content_sha(pixels: Pixels) -> str:
    """SHA-256 of shape and samples."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _read_again(photo: Photo) -> Pixels:
    try:
        pixels = read_rgb(photo.path)
    except UnusableError as problem:
        raise _changed(photo, str(problem)) from problem
    if content_sha(pixels) != photo.sha:
        raise _changed(photo, "other pixels")
    return pixels


def _changed(photo: Photo, how: str) -> DataError:
    return DataError(
        f"{photo.path} changed since it was loaded: {how}",
        fix="leave the photos alone during a run, then start the command again",
    )


def _detail_bpp(pixels: Pixels) -> float:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=DETAIL_QUALITY, subsampling="4:4:4")
    return 8 * encoded.tell() / (pixels.shape[0] * pixels.shape[1])
