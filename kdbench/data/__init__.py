"""Photos and the crops that codecs are trained on; no torch."""

from kdbench.data.crops import CropList, draw_crops, sample_batch, validation_crops
from kdbench.data.folder import load_images, summary
from kdbench.data.images import ImageSet, Photo, Role, Skipped, disjoint, joined
from kdbench.data.pixels import UnusableError, read_rgb

__all__ = [
    "CropList",
    "ImageSet",
    "Photo",
    "Role",
    "Skipped",
    "UnusableError",
    "disjoint",
    "draw_crops",
    "joined",
    "load_images",
    "read_rgb",
    "sample_batch",
    "summary",
    "validation_crops",
]
