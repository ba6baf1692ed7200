"""`encode` and `decode`: photos to files and back, with every figure, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.cli import main
from kdbench.codecs.fileform import read_header
from kdbench.data import load_images
from kdbench.store import Store
from tests.support.results import STUDY
from tests.support.students import RD_LAMBDAS, make_study_with_student

Capture = pytest.CaptureFixture[str]
SIZE = (150, 100)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_study_with_student(tmp_path_factory.mktemp("study"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> Path:
    """A folder with a photo, and the study's store as the default one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_ROOT", str(store.root))
    pixels = load_images("builtin", "validation").image(0)[: SIZE[1], : SIZE[0]]
    Image.fromarray(pixels).save("photo.png")
    return tmp_path


def run(capsys: Capture, *line: str) -> dict[str, Any]:
    """What one command says as JSON."""
    assert main([*line, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


CODEC = ("--codec", f"trial:{STUDY}/0")


def test_a_photo_goes_to_a_file_and_back_with_its_figures(here: Path, capsys: Capture) -> None:
    wrote = run(capsys, "encode", "photo.png", "photo.kdb", *CODEC, "--quality", "0.6")
    assert (wrote["width"], wrote["height"]) == SIZE
    assert wrote["quality"] == pytest.approx(0.6, abs=1e-5)
    assert wrote["level"] == pytest.approx(2.4, abs=1e-4)
    assert RD_LAMBDAS[2] < wrote["rd_lambda"] < RD_LAMBDAS[3]
    data = Path("photo.kdb").read_bytes()
    assert wrote["n_bytes"] == len(data)
    assert wrote["bpp"] == pytest.approx(8 * len(data) / (SIZE[0] * SIZE[1]))
    assert wrote["seconds"].keys() == {"encode", "decode"}
    assert min(wrote["seconds"].values()) > 0
    assert wrote["machine"] == read_header(data).machine
    assert "1 thread, torch " in wrote["machine"]

    command = ("decode", "photo.kdb", "back.png", *CODEC, "--original", "photo.png")
    read = run(capsys, *command)
    assert read["psnr_db"] == pytest.approx(wrote["psnr_db"])
    original, back = (
        np.asarray(Image.open(name)).astype(float) for name in ("photo.png", "back.png")
    )
    mse = np.square(original - back).mean()
    assert 10 * np.log10(255**2 / mse) == pytest.approx(read["psnr_db"], abs=1e-6)


def test_more_quality_is_more_bits_and_a_better_picture(here: Path, capsys: Capture) -> None:
    found = [
        run(capsys, "encode", "photo.png", f"{q}.kdb", *CODEC, "--quality", q)
        for q in ("0", "0.33", "0.67", "1")
    ]
    bits = [one["bpp"] for one in found]
    assert bits == sorted(set(bits))
    assert found[-1]["psnr_db"] > found[0]["psnr_db"]


def test_the_text_has_the_figures_too(here: Path, capsys: Capture) -> None:
    assert main(["encode", "photo.png", "photo.kdb", *CODEC]) == 0
    told = capsys.readouterr().out
    assert (
        "photo.kdb: 150x100 px by trial:tiny/0 at quality 0.5 (level 2, rd_lambda 0.0067)" in told
    )
    assert " bpp (" in told
    assert " dB\nencode " in told
    assert main(["decode", "photo.kdb", "back.ppm", *CODEC]) == 0
    assert "PSNR" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["png", "ppm", "bmp", "tif"])
def test_decoded_pixels_are_kept_by_every_format(here: Path, kind: str, capsys: Capture) -> None:
    run(capsys, "encode", "photo.png", "photo.kdb", *CODEC)
    run(capsys, "decode", "photo.kdb", f"back.{kind}", *CODEC)
    run(capsys, "decode", "photo.kdb", "again.png", *CODEC)
    one, two = (np.asarray(Image.open(name)) for name in (f"back.{kind}", "again.png"))
    np.testing.assert_array_equal(one, two)


def test_a_teachers_file_and_a_packages_are_written_likewise(here: Path, capsys: Capture) -> None:
    line = ["export", "--study", STUDY, "--trial", "0", "--to", "student"]
    run(capsys, *line)
    run(capsys, "encode", "photo.png", "one.kdb", "--codec", "student")
    run(capsys, "encode", "photo.png", "two.kdb", *CODEC)
    assert Path("one.kdb").read_bytes() == Path("two.kdb").read_bytes()
    run(capsys, "decode", "one.kdb", "one.png", *CODEC)  # the package is the trial's student
    told = run(capsys, "encode", "photo.png", "three.kdb", "--codec", "teacher:default")
    assert told["rd_lambda"] == pytest.approx(0.0067)


# --- photos --------------------------------------------------------------------------------------


def test_grey_and_opaque_photos_are_coded_as_elsewhere(here: Path, capsys: Capture) -> None:
    photo = Image.open("photo.png")
    photo.convert("L").save("grey.png")
    photo.convert("RGBA").save("opaque.png")
    for name in ("grey", "opaque"):
        assert run(capsys, "encode", f"{name}.png", f"{name}.kdb", *CODEC)["psnr_db"] > 10


def refused(capsys: Capture, *line: str) -> str:
    """What one command answers that does nothing, its fix included."""
    before = sorted(path.name for path in Path().iterdir())
    assert main(list(line)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "\n  fix: " in said.err
    assert sorted(path.name for path in Path().iterdir()) == before
    return said.err


def test_photos_that_would_lose_are_refused_as_elsewhere(here: Path, capsys: Capture) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save("deep.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save("glass.png")
    Path("text.png").write_text("no image")
    Path("empty.png").write_bytes(b"")
    for name, why in {
        "deep": "more than 8 bits",
        "glass": "transparent pixels",
        "text": "not an image",
        "empty": "empty file",
        "missing": "no such file",
    }.items():
        assert why in refused(capsys, "encode", f"{name}.png", "out.kdb", *CODEC).lower()


# --- outputs, qualities, codecs ------------------------------------------------------------------


def test_a_file_that_is_there_is_replaced_only_with_force(here: Path, capsys: Capture) -> None:
    Path("out.kdb").write_text("mine")
    assert "--force" in refused(capsys, "encode", "photo.png", "out.kdb", *CODEC)
    assert Path("out.kdb").read_text() == "mine"
    run(capsys, "encode", "photo.png", "out.kdb", *CODEC, "--force")
    Path("out.png").write_text("mine")
    assert "--force" in refused(capsys, "decode", "out.kdb", "out.png", *CODEC)
    run(capsys, "decode", "out.kdb", "out.png", *CODEC, "--force")
    Path("folder.kdb").mkdir()
    assert "is a folder" in refused(capsys, "encode", "photo.png", "folder.kdb", *CODEC, "--force")


def test_a_file_that_holds_the_very_same_is_in_nobody_s_way(here: Path, capsys: Capture) -> None:
    """As after a disk that failed when all was written."""
    for command in (("encode", "photo.png", "out.kdb"), ("decode", "out.kdb", "out.png")):
        run(capsys, *command, *CODEC)
        wrote = Path(command[2]).read_bytes()
        run(capsys, *command, *CODEC)
        assert Path(command[2]).read_bytes() == wrote
    assert "--force" in refused(
        capsys, "encode", "photo.png", "out.kdb", *CODEC, "--quality", "0.6"
    )


def test_what_cannot_be_written_is_refused(here: Path, capsys: Capture) -> None:
    said = refused(capsys, "encode", "photo.png", "photo.png/out.kdb", *CODEC)
    assert "a file is where a folder should be" in said
    run(capsys, "encode", "photo.png", "out.kdb", *CODEC)
    said = refused(capsys, "decode", "out.kdb", "out.jpg", *CODEC)
    assert "would not keep the decoded pixels" in said


@pytest.mark.parametrize("quality", ["-0.1", "1.1", "nan", "high"])
def test_a_quality_outside_0_to_1_is_wrong_usage(here: Path, quality: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["encode", "photo.png", "out.kdb", *CODEC, f"--quality={quality}"])
    assert left.value.code == 2
    assert not Path("out.kdb").exists()


def test_codecs_without_kdb_files_are_refused(here: Path, capsys: Capture) -> None:
    said = refused(capsys, "encode", "photo.png", "out.kdb", "--codec", "jpeg")
    assert "has files of its own" in said
    said = refused(capsys, "encode", "photo.png", "out.kdb", "--codec", "nothing")
    assert "the folder of a package" in said


def test_a_file_of_another_codec_or_a_damaged_one_is_refused_by_name(
    here: Path, capsys: Capture
) -> None:
    run(capsys, "encode", "photo.png", "out.kdb", *CODEC)
    said = refused(capsys, "decode", "out.kdb", "out.png", "--codec", "teacher:default")
    assert said.startswith("out.kdb: the file was written by codec ")
    data = Path("out.kdb").read_bytes()
    Path("cut.kdb").write_bytes(data[:-1])
    said = refused(capsys, "decode", "cut.kdb", "out.png", *CODEC)
    assert said.startswith("cut.kdb: the .kdb file is damaged or cut short")
    said = refused(capsys, "decode", "photo.png", "out.png", *CODEC)
    assert said.startswith("photo.png: this is no .kdb file")
    assert "no such file" in refused(capsys, "decode", "none.kdb", "out.png", *CODEC)


def test_an_original_of_another_size_is_refused(here: Path, capsys: Capture) -> None:
    run(capsys, "encode", "photo.png", "out.kdb", *CODEC)
    Image.new("RGB", (8, 9)).save("other.png")
    line = ("decode", "out.kdb", "out.png", *CODEC, "--original", "other.png")
    assert "other.png has 8x9 px, the decoded image 150x100" in refused(capsys, *line)


def test_a_codec_of_one_rate_has_no_quality(tmp_path: Path, here: Path, capsys: Capture) -> None:
    store = make_study_with_student(tmp_path / "one", n_levels=1, evaluated=False)
    line = ["encode", "photo.png", "out.kdb", *CODEC, "--root", str(store.root)]
    assert "leave `--quality` away" in refused(capsys, *line, "--quality", "0.5")
    told = run(capsys, *line)
    assert (told["quality"], told["level"]) == (None, 0)
