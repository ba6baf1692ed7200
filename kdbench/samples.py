"""A cut of the first evaluation photo as a codec gives it back: for the eye, beside its figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdbench.records import Reconstruction
from kdbench.store import Store, TrialFolder

SIDE_PX = 192
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One level of one codec on one photo, after decoding.

    Attributes:
        bpp, psnr_db: Of the whole photo.
        pixels: The cut, uint8 (H, W, 3) RGB.
    """

    level: int
    bpp: float
    psnr_db: float
    pixels: Pixels

    def named(self, image: str) -> Reconstruction:
        """What is written beside the cut."""
        return Reconstruction(image=image, level=self.level, bpp=self.bpp, psnr_db=self.psnr_db)


def cut(pixels: Pixels) -> Pixels:
    """The middle of a photo, `SIDE_PX` a side or what there is; (H, W, 3)."""
    tops = [max(0, (size - SIDE_PX) // 2) for size in pixels.shape[:2]]
    return np.ascontiguousarray(pixels[tops[0] : tops[0] + SIDE_PX, tops[1] : tops[1] + SIDE_PX])


def png(pixels: Pixels) -> bytes:
    """The samples as they are, in a file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def keep_sample(folder: TrialFolder, samples: Sequence[Sample], image: str) -> None:
    """Keep the middle level in a trial's folder; nothing where there are no samples.

    Raises:
        StoreError: It cannot be written.
    """
    if samples:
        middle = sorted(samples, key=lambda sample: sample.bpp)[len(samples) // 2]
        folder.save_crop(middle.named(image), png(middle.pixels))


def keep_anchor_samples(
    store: Store, study: str, photo: Pixels, samples: Sequence[Sample], image: str
) -> None:
    """Keep the photo's own cut and every level of the anchor beside a study.

    Raises:
        StoreError: They cannot be written.
    """
    crops = {sample.named(image): png(sample.pixels) for sample in samples}
    store.save_anchor_crops(study, png(cut(photo)), crops)
