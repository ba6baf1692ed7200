"""Cuts of a photo: the middle, as it was decoded, with the figures of the whole photo."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.errors import StoreError
from kdbench.samples import SIDE_PX, Sample, cut, keep_anchor_samples, keep_sample, png
from kdbench.store import Store
from tests.support.results import STUDY, make_study

PHOTO = np.arange(300 * 200 * 3, dtype=np.uint32).reshape(300, 200, 3).astype(np.uint8)


def sample(level: int, bpp: float) -> Sample:
    return Sample(level=level, bpp=bpp, psnr_db=30.0 + level, pixels=cut(PHOTO) + np.uint8(level))


def test_a_cut_is_the_middle_of_a_photo_or_all_of_a_small_one() -> None:
    assert np.array_equal(cut(PHOTO), PHOTO[54 : 54 + SIDE_PX, 4 : 4 + SIDE_PX])
    assert np.array_equal(cut(PHOTO[:90]), PHOTO[:90, 4 : 4 + SIDE_PX])


def test_a_png_file_keeps_every_sample() -> None:
    assert np.array_equal(np.asarray(Image.open(BytesIO(png(cut(PHOTO))))), cut(PHOTO))


def test_a_trial_keeps_its_middle_level_by_bits(tmp_path: Path) -> None:
    folder = make_study(tmp_path).trial(STUDY, 3)
    assert folder.load_crop() is None
    keep_sample(folder, [sample(0, 0.9), sample(1, 0.1), sample(2, 0.4)], "a.png")
    found = folder.load_crop()
    assert found is not None
    what, data = found
    assert (what.level, what.bpp, what.psnr_db, what.image) == (2, 0.4, 32.0, "a.png")
    assert np.array_equal(np.asarray(Image.open(BytesIO(data))), sample(2, 0.4).pixels)


def test_a_study_keeps_the_photo_and_every_level_of_its_anchor(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    assert not store.has_anchor_crops(STUDY)
    assert store.load_anchor_crops(STUDY) is None
    keep_anchor_samples(store, STUDY, PHOTO, [sample(0, 0.1), sample(1, 0.3)], "a.png")
    assert store.has_anchor_crops(STUDY)
    found = store.load_anchor_crops(STUDY)
    assert found is not None
    original, levels = found
    assert np.array_equal(np.asarray(Image.open(BytesIO(original))), cut(PHOTO))
    assert [(what.level, what.bpp) for what in levels] == [(0, 0.1), (1, 0.3)]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_crop_that_is_no_picture_is_refused(tmp_path: Path, content: bytes | None) -> None:
    store: Store = make_study(tmp_path)
    folder = store.trial(STUDY, 3)
    keep_sample(folder, [sample(0, 0.9)], "a.png")
    if content is None:
        folder.crop.unlink()
    else:
        folder.crop.write_bytes(content)
    why = "it is missing" if content is None else "it is no whole PNG file"
    with pytest.raises(StoreError, match=rf"reconstruction\.png is damaged: {why}"):
        folder.load_crop()
