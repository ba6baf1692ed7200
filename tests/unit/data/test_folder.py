"""Folders of photos: usable ones are used, the others named with their reason."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdbench.data import Role, disjoint, joined, load_images, summary
from kdbench.data.folder import BUILTIN, EXTENSIONS
from kdbench.data.images import Skipped
from kdbench.errors import DataError
from tests.unit.data import files

ROLES: tuple[Role, ...] = ("train", "validation", "evaluation")


def test_usable_photos_are_used_and_the_others_named_with_their_reason(tmp_path: Path) -> None:
    for name, write in files.USED.items():
        write(tmp_path / name)
    for name, (write, _) in files.UNUSABLE.items():
        write(tmp_path / name)
    images = load_images(str(tmp_path), "evaluation")
    same = {skip.name for skip in images.skipped if skip.why.startswith("same pixels as ")}
    assert set(images.names) | same == set(files.USED)
    assert {"opaque.png", "photo.bmp", "rgb.png"} & set(images.names) != set()
    refused = {skip.name: skip.why for skip in images.skipped if skip.name not in same}
    assert refused.keys() == files.UNUSABLE.keys()
    for name, (_, why) in files.UNUSABLE.items():
        assert refused[name].startswith(why)


@pytest.mark.parametrize(
    ("width", "height", "usable_for"),
    [
        (1, 1, {"evaluation"}),
        (20_000, 1, {"evaluation"}),
        (31, 32, {"evaluation"}),
        (32, 32, {"train", "validation", "evaluation"}),
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_a_photo_must_hold_a_crop_except_for_evaluation(
    role: Role, width: int, height: int, usable_for: set[Role], tmp_path: Path
) -> None:
    files.save(tmp_path / "large.png", files.picture(64, 64))
    files.save(tmp_path / "odd.png", files.picture(width, height))
    images = load_images(tmp_path, role, crop_px=32)
    assert ("odd.png" in images.names) == (role in usable_for)
    if role not in usable_for:
        assert images.skipped == (
            Skipped("odd.png", f"{width}x{height} px, a crop needs 32 px a side"),
        )


def test_folders_are_searched_recursively_in_order_without_hidden_files(tmp_path: Path) -> None:
    for i, name in enumerate(["b.png", "a/z.png", "a/y/x.png", ".hidden.png", ".trash/d.png"]):
        files.save(tmp_path / name, files.picture(seed=i))
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    images = load_images(tmp_path, "evaluation")
    assert images.names == ("a/y/x.png", "a/z.png", "b.png")
    assert images.skipped == ()
    assert images.n == 3
    assert images.pixels == 3 * 40 * 32


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    files.save(tmp_path / "a.png", files.picture())
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = load_images(tmp_path, "evaluation")
    assert images.skipped == (Skipped("gone.png", "cannot be read: No such file or directory"),)


def test_a_folder_that_does_not_exist_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_images(tmp_path / "nowhere", "train")
    assert caught.value.problem == f"no folder {tmp_path}/nowhere with photos for train"
    assert caught.value.fix == "set data.train to `builtin` or to a folder that exists"


def test_a_folder_without_images_is_an_error_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(DataError) as caught:
        load_images(tmp_path, "validation")
    assert caught.value.problem.startswith(f"no image in {tmp_path} for validation")
    assert all(extension in caught.value.problem for extension in EXTENSIONS)
    assert "put photos there" in caught.value.fix


def test_a_folder_where_nothing_is_usable_is_an_error_with_reasons_and_count(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    files.save(tmp_path / "tiny.png", files.picture(5, 5))
    with pytest.raises(DataError) as caught:
        load_images(tmp_path, "train", crop_px=64)
    assert caught.value.problem == (
        f"no usable photo for train among the images in {tmp_path} (2 skipped): "
        "empty.png (empty file), tiny.png (5x5 px, a crop needs 64 px a side)"
    )
    assert "at least 64 px a side" in caught.value.fix


def test_a_summary_shows_the_first_and_counts_the_rest() -> None:
    skipped = [Skipped(f"{i}.png", "empty file") for i in range(4)]
    assert summary(skipped, at_most=2) == "0.png (empty file), 1.png (empty file) and 2 more"
    assert summary(skipped[:1]) == "0.png (empty file)"


def test_the_hash_depends_on_pixels_and_not_on_names_or_formats(tmp_path: Path) -> None:
    files.save(tmp_path / "one" / "a.png", files.picture(seed=1))
    files.save(tmp_path / "one" / "b.png", files.picture(seed=2))
    files.save(tmp_path / "two" / "deep" / "b.bmp", files.picture(seed=1))
    files.save(tmp_path / "two" / "a.png", files.picture(seed=2))
    files.save(tmp_path / "three" / "a.png", files.picture(seed=1))
    one, two, three = (
        load_images(tmp_path / name, "evaluation").sha for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three


def test_two_photos_of_the_same_samples_in_another_shape_are_two_photos(tmp_path: Path) -> None:
    files.save(tmp_path / "wide.png", np.full((2, 8, 3), 9, np.uint8))
    files.save(tmp_path / "tall.png", np.full((8, 2, 3), 9, np.uint8))
    assert load_images(tmp_path, "evaluation").n == 2


def test_a_photo_in_two_roles_is_refused_by_content(tmp_path: Path) -> None:
    files.save(tmp_path / "train" / "a.png", files.picture(seed=1))
    files.save(tmp_path / "train" / "b.png", files.picture(seed=2))
    files.save(tmp_path / "validation" / "c.png", files.picture(seed=3))
    files.save(tmp_path / "evaluation" / "other name.bmp", files.picture(seed=2))
    sets = {role: load_images(tmp_path / role, role, crop_px=8) for role in ROLES}
    disjoint({role: sets[role] for role in ("train", "validation")})
    with pytest.raises(DataError) as caught:
        disjoint(sets)
    assert str(tmp_path / "train" / "b.png") in caught.value.problem
    assert str(tmp_path / "evaluation" / "other name.bmp") in caught.value.problem
    assert caught.value.fix == "take it out of data.train or data.evaluation"


def test_joined_sets_count_a_common_photo_once(tmp_path: Path) -> None:
    files.save(tmp_path / "one" / "a.png", files.picture(seed=1))
    files.save(tmp_path / "two" / "b.png", files.picture(seed=1))
    files.save(tmp_path / "two" / "c.png", files.picture(seed=2))
    (tmp_path / "two" / "d.png").write_bytes(b"")
    one, two = (load_images(tmp_path / name, "evaluation") for name in ("one", "two"))
    both = joined(one, two)
    assert both.names == ("a.png", "c.png")
    assert both.skipped == two.skipped
    assert np.array_equal(both.image(1), files.picture(seed=2))


def test_decoded_photos_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    for i in range(3):
        files.save(tmp_path / f"{i}.png", files.picture(seed=i))
    one_photo = 40 * 32 * 3
    images = load_images(tmp_path, "evaluation", keep_bytes=2 * one_photo)
    first = images.image(0)
    assert images.image(1) is images.image(1)
    assert images.image(0) is first
    images.image(2)  # the least recently used one, 1, goes
    assert images.image(0) is first
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    assert np.array_equal(images.image(2), files.picture(seed=2))


@pytest.mark.parametrize("change", ["removed", "resized", "repainted"])
def test_a_photo_that_changes_during_a_run_is_an_error(change: str, tmp_path: Path) -> None:
    path = files.save(tmp_path / "a.png", files.picture())
    images = load_images(tmp_path, "evaluation")
    if change == "removed":
        path.unlink()
    else:
        files.save(path, files.picture(8, 8) if change == "resized" else files.picture(seed=5))
    with pytest.raises(DataError, match="changed since it was loaded"):
        images.image(0)


@pytest.mark.parametrize(("role", "n"), [("train", 36), ("validation", 4), ("evaluation", 8)])
def test_every_builtin_photo_is_usable(role: Role, n: int) -> None:
    images = load_images("builtin", role)
    assert (images.n, images.skipped) == (n, ())


def test_the_builtin_roles_share_no_photo() -> None:
    disjoint({role: load_images("builtin", role) for role in ROLES})


def test_the_credits_list_exactly_the_shipped_photos_with_author_and_licence() -> None:
    with (BUILTIN / "CREDITS.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shipped = {path.relative_to(BUILTIN).as_posix() for path in BUILTIN.glob("*/*")}
    assert sorted(row["file"] for row in rows) == sorted(shipped)
    texts = (BUILTIN / "LICENCES.md").read_text()
    for row in rows:
        assert all(row[key] for key in ("credit", "licence", "source", "version"))
        assert row["licence"] in texts


def test_photos_load_without_torch() -> None:
    code = "import sys, kdbench.data; print({'torch', 'compressai', 'optuna'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
