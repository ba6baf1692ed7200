"""Crops: the same for the same photos and seed, cached once, whole."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kdbench.data import ImageSet, draw_crops, load_images, sample_batch, validation_crops
from kdbench.errors import DataError, StoreError
from tests.unit.data import files


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Two photos: one full of detail, one smooth and larger."""
    files.save(tmp_path / "photos" / "busy.png", files.noise(64, 48))
    files.save(tmp_path / "photos" / "calm.png", files.picture(96, 80))
    return load_images(tmp_path / "photos", "train", crop_px=32)


def jpeg_bits(pixels: npt.NDArray[np.uint8]) -> int:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=92, subsampling=0)
    return 8 * len(encoded.getvalue())


def test_the_same_photos_and_seed_give_the_same_crops_whatever_the_names(
    images: ImageSet, tmp_path: Path
) -> None:
    files.save(tmp_path / "moved" / "a.png", files.picture(96, 80))
    files.save(tmp_path / "moved" / "b.png", files.noise(64, 48))
    moved = load_images(tmp_path / "moved", "train", crop_px=32)
    first = draw_crops(images, 50, 32, seed=7)
    second = draw_crops(moved, 50, 32, seed=7)
    assert first.hash == second.hash
    assert np.array_equal(first.crops(tmp_path / "c"), [second.crop(i) for i in range(50)])


def test_every_setting_and_every_photo_changes_the_hash(images: ImageSet, tmp_path: Path) -> None:
    files.save(tmp_path / "photos" / "third.png", files.noise(40, 40, seed=3))
    more = load_images(tmp_path / "photos", "train", crop_px=32)
    lists = [
        draw_crops(images, 50, 32, seed=7),
        draw_crops(images, 50, 32, seed=8),
        draw_crops(images, 51, 32, seed=7),
        draw_crops(images, 50, 31, seed=7),
        draw_crops(more, 50, 32, seed=7),
    ]
    assert len({crops.hash for crops in lists}) == len(lists)


def test_a_crop_is_cut_from_its_photo_and_half_of_them_are_mirrored(images: ImageSet) -> None:
    crops = draw_crops(images, 400, 32, seed=0)
    for i, (photo, top, left, mirrored) in enumerate(crops.places.tolist()):
        cut = images.image(photo)[top : top + 32, left : left + 32]
        expected = np.fliplr(cut) if mirrored else cut
        assert np.array_equal(crops.crop(i), np.moveaxis(expected, 2, 0))
    assert 160 <= crops.places[:, 3].sum() <= 240  # 200 +- 4 standard deviations


def test_photos_are_drawn_by_pixels_times_detail(images: ImageSet) -> None:
    bits = np.array([jpeg_bits(images.image(i)) for i in range(2)])  # = pixels x bits per pixel
    assert bits[0] > 3 * bits[1], "the busy photo weighs more although it is smaller"
    share = bits[0] / bits.sum()
    n = 4000
    drawn = (draw_crops(images, n, 32, seed=1).places[:, 0] == 0).mean()
    assert drawn == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))


def test_places_reach_every_edge_of_a_photo(images: ImageSet) -> None:
    places = draw_crops(images, 4000, 32, seed=2).places
    for photo, (height, width) in enumerate(images.shapes.tolist()):
        rows = places[places[:, 0] == photo]
        assert (rows[:, 1].min(), rows[:, 1].max()) == (0, height - 32)
        assert (rows[:, 2].min(), rows[:, 2].max()) == (0, width - 32)


def test_a_crop_as_large_as_the_photo_is_the_photo(tmp_path: Path) -> None:
    files.save(tmp_path / "a.png", files.noise(32, 32))
    images = load_images(tmp_path, "train", crop_px=32)
    assert np.array_equal(validation_crops(images, 32, 1)[0], images.image(0).transpose(2, 0, 1))


def test_a_crop_larger_than_a_photo_is_an_error_that_names_it(images: ImageSet) -> None:
    with pytest.raises(DataError) as caught:
        draw_crops(images, 4, 49, seed=0)
    assert caught.value.problem == ("photos smaller than a crop of 49 px: 1, the first is busy.png")
    assert "training.crop_px" in caught.value.fix


def test_the_materialised_crops_are_the_crops_and_cannot_be_written(
    images: ImageSet, tmp_path: Path
) -> None:
    crops = draw_crops(images, 30, 32, seed=0)
    mapped = crops.crops(tmp_path / "cache" / "deep")
    assert isinstance(mapped, np.memmap)
    assert mapped.shape == (30, 3, 32, 32)
    assert mapped.dtype == np.uint8
    assert np.array_equal(mapped, [crops.crop(i) for i in range(30)])
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_crops_are_materialised_once_and_leave_no_temporary_file(
    images: ImageSet, tmp_path: Path
) -> None:
    crops = draw_crops(images, 30, 32, seed=0)
    (tmp_path / f"crops-{crops.hash}.tmp").write_bytes(b"left by a killed worker")
    crops.crops(tmp_path)
    path = tmp_path / f"crops-{crops.hash}.u8"
    before = path.stat()
    crops.crops(tmp_path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("damage", ["empty", "short", "long", "flipped bit", "wrong sum"])
def test_a_damaged_crop_file_is_built_again(damage: str, images: ImageSet, tmp_path: Path) -> None:
    crops = draw_crops(images, 30, 32, seed=0)
    crops.crops(tmp_path)
    path = tmp_path / f"crops-{crops.hash}.u8"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1 if damage == "wrong sum" else 1000] ^= 1
    path.write_bytes(
        {"empty": b"", "short": whole[:-1], "long": whole + b"\0"}.get(damage, bytes(flipped))
    )
    assert np.array_equal(crops.crops(tmp_path), [crops.crop(i) for i in range(30)])
    assert path.read_bytes() == whole


def test_a_full_disk_is_an_error_that_says_how_much_room_is_needed(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StoreError) as caught:
        draw_crops(images, 1024, 32, seed=0).crops(tmp_path / "cache")
    assert "No space left on device" in caught.value.problem
    assert "3 MiB" in caught.value.fix
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_fix(
    images: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        draw_crops(images, 4, 32, seed=0).crops(tmp_path / "file" / "cache")


WORKER = """
import sys, time
from pathlib import Path
from kdbench.data import CropList, draw_crops, load_images
write, cache = CropList._write, Path(sys.argv[2])
def slow(self, path, goes_on):
    print("built")
    time.sleep(0.3)  # the other worker is surely waiting at the lock
    write(self, path, goes_on)
CropList._write = slow
crops = draw_crops(load_images(sys.argv[1], "train", crop_px=32), 30, 32, seed=0)
(cache / sys.argv[3]).touch()
while len(list(cache.glob("ready*"))) < 2:
    time.sleep(0.005)
print(crops.hash, crops.crops(cache).sum())
"""


def test_two_workers_that_ask_at_once_build_the_crops_once(
    images: ImageSet, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", WORKER, str(tmp_path / "photos"), str(tmp_path)]
    workers = [
        subprocess.Popen(
            [*arguments, f"ready{i}"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(i)},
        )
        for i in range(2)
    ]
    printed = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    crops = draw_crops(images, 30, 32, seed=0)
    total = sum(int(crops.crop(i).sum()) for i in range(30))
    assert sorted(printed, key=len) == [
        [crops.hash, str(total)],
        ["built", crops.hash, str(total)],
    ]


def test_batches_are_fresh_and_follow_the_generator(images: ImageSet) -> None:
    rng = np.random.default_rng(5)
    first, second = sample_batch(images, rng, 8, 32), sample_batch(images, rng, 8, 32)
    assert first.shape == (8, 3, 32, 32)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert np.array_equal(first, sample_batch(images, np.random.default_rng(5), 8, 32))
    assert first.flags.writeable
    assert first.flags.c_contiguous


def test_batches_and_lists_are_drawn_alike(images: ImageSet) -> None:
    crops = draw_crops(images, 8, 32, seed=5)
    batch = sample_batch(images, np.random.default_rng(5), 8, 32)
    assert np.array_equal(batch, [crops.crop(i) for i in range(8)])


def test_a_batch_keeps_photos_decoded(images: ImageSet, tmp_path: Path) -> None:
    images.keep_bytes = 1
    sample_batch(images, np.random.default_rng(0), 32, 32)
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    assert sample_batch(images, np.random.default_rng(1), 32, 32).shape == (32, 3, 32, 32)


def test_one_validation_crop_is_the_centre_and_four_are_spread(images: ImageSet) -> None:
    calm = images.image(1).transpose(2, 0, 1)
    assert np.array_equal(validation_crops(images, 32, 1)[1], calm[:, 24:56, 32:64])
    four = validation_crops(images, 32, 4)
    assert four.shape == (8, 3, 32, 32)
    corners = [(12, 16), (12, 48), (36, 16), (36, 48)]  # a quarter and three quarters of the room
    expected = [calm[:, top : top + 32, left : left + 32] for top, left in corners]
    assert np.array_equal(four[4:], expected)
