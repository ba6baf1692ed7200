"""Reconstructions side by side in one image: original, anchor and student at nearly equal bits."""

from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from kdbench.errors import StoreError
from kdbench.report.crops import member_crops
from kdbench.report.document import Crop, Crops
from kdbench.report.gather import Gathered
from kdbench.store import StoredTrial

ZOOM = 2  # each pixel is so many a side, so that its errors can be seen
GAP_PX = 12
FONT_PX = 15
LINE_PX = 20


def strip(whole: Gathered, trial: StoredTrial) -> bytes:
    """A PNG: the cuts that are kept of a trial, each under its name, bpp and PSNR.

    Raises:
        StoreError: A cut is damaged.
    """
    first = member_crops(whole, trial)[0]
    if not isinstance(first, Crops):
        raise StoreError(
            str(first), fix="restore the file from a copy; the rest of the study is intact"
        )
    return _side_by_side(first.crops)


def _side_by_side(crops: tuple[Crop, ...]) -> bytes:
    images = [Image.open(BytesIO(crop.png)).convert("RGB") for crop in crops]
    images = [
        one.resize((one.width * ZOOM, one.height * ZOOM), Image.Resampling.NEAREST)
        for one in images
    ]
    font = ImageFont.load_default(FONT_PX)
    captions = [_lines(crop.caption) for crop in crops]
    top = LINE_PX * max(map(len, captions)) + GAP_PX
    wide = [
        max(one.width, *(int(font.getlength(line)) for line in lines))
        for one, lines in zip(images, captions, strict=True)
    ]
    size = (sum(wide) + GAP_PX * (len(wide) + 1), top + max(one.height for one in images) + GAP_PX)
    sheet = Image.new("RGB", size, "white")
    drawn, x = ImageDraw.Draw(sheet), GAP_PX
    for one, lines, width in zip(images, captions, wide, strict=True):
        drawn.multiline_text((x, GAP_PX // 2), "\n".join(lines), "black", font)
        sheet.paste(one, (x, top))
        x += width + GAP_PX
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _lines(caption: str) -> list[str]:
    """The name, and what is measured below it."""
    name, _, figures = caption.partition(": ")
    return [name, figures] if figures else [name]
