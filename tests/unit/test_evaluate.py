"""Curves from real bitstreams: any size of image, and what must agree for a curve to be one."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from kdbench import evaluate
from kdbench.codecs.bitfile import (
    Expectation,
    Image,
    decode_image,
    encode_analysed,
    encode_image,
    expectation,
)
from kdbench.codecs.classical import classical
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.weights import codec_bytes, load_codec
from kdbench.data import ImageSet, load_images
from kdbench.decoder import RAW, Decoded
from kdbench.errors import CodecError
from kdbench.evaluate import (
    Evaluation,
    classical_samples,
    evaluate_classical,
    evaluate_learned,
    learned_samples,
)
from kdbench.rd import psnr_db
from kdbench.samples import cut
from tests.support.codecs import architecture, trained

SIZES = ((200, 180), (90, 130))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("photos")
    photo = load_images("builtin", "validation").image(1)
    for i, (height, width) in enumerate(SIZES):
        PillowImage.fromarray(photo[100 * i :][:height, :width]).save(folder / f"{i}.png")
    return load_images(folder, "evaluation")


@pytest.fixture(scope="module")
def model() -> Hyperprior:
    return trained(architecture(), 20)


@pytest.fixture(scope="module")
def path(model: Hyperprior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    path.write_bytes(codec_bytes(model, {}))
    return path


@pytest.fixture(scope="module")
def evaluation(path: Path, images: ImageSet) -> Evaluation:
    return evaluate_learned(path, images)


# --- learned codecs ----------------------------------------------------------------------------


def test_a_curve_is_made_of_whole_files_and_eight_bit_images(
    evaluation: Evaluation, path: Path, images: ImageSet
) -> None:
    codec, _ = load_codec(path)
    curve, sha = evaluation.curve, hashlib.sha256()
    assert curve.images == images.names == ("0.png", "1.png")
    assert [p.bpp for p in curve.points] == sorted(p.bpp for p in curve.points)
    for image in map(images.image, range(images.n)):
        for level in range(2):
            sha.update(encode_image(codec, image, level))
    for level in range(2):
        at = [p.level for p in curve.points].index(level)
        bpp, psnr = [], []
        for i in range(images.n):
            image = images.image(i)
            data = encode_image(codec, image, level)
            bpp.append(len(data) * 8 / (image.shape[0] * image.shape[1]))
            psnr.append(psnr_db(image, decode_image(codec, data), peak=255))
        assert curve.image_bpp[at] == pytest.approx(bpp)
        assert curve.image_psnr_db[at] == pytest.approx(psnr)
        assert curve.points[at].bpp == pytest.approx(np.mean(bpp))
        assert curve.points[at].psnr_db == pytest.approx(np.mean(psnr))
    assert evaluation.bitstreams_sha == sha.hexdigest()


def test_estimated_bits_seconds_and_ms_ssim_are_reported(evaluation: Evaluation) -> None:
    curve = evaluation.curve
    assert curve.estimated_over_real_bits == pytest.approx(1, abs=0.01)
    assert curve.encode_s_per_mpx
    assert curve.encode_s_per_mpx > 0
    assert curve.decode_s_per_mpx
    assert curve.decode_s_per_mpx > 0
    assert {p.ms_ssim for p in curve.points} == {None}  # one of the photos is too small


def test_every_file_is_told_once(path: Path, images: ImageSet) -> None:
    told: list[tuple[int, int]] = []
    evaluate_learned(path, images, on_progress=lambda done, n: told.append((done, n)))
    assert told == [(i, 4) for i in range(1, 5)]


def test_tables_that_do_not_belong_to_the_weights_are_an_error(
    model: Hyperprior, images: ImageSet, tmp_path: Path
) -> None:
    """They decode, to the same pixels: only the bits give them away."""
    tampered = Hyperprior(model.architecture)
    tampered.load_state_dict(model.state_dict())
    conditional = tampered.gaussian_conditional
    right = conditional.scale_table
    conditional.update_scale_table((right * 3).tolist(), force=True)
    conditional.scale_table = right
    path = tmp_path / "tampered.safetensors"
    path.write_bytes(codec_bytes(tampered, {}))
    with pytest.raises(CodecError, match="more than 1 % apart") as failed:
        evaluate_learned(path, images)
    assert "finalise" in failed.value.fix


def test_a_decoder_that_gives_other_pixels_is_an_error(
    path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = expectation

    def one_pixel_off(*arguments: object) -> Expectation:
        expect = right(*arguments)  # type: ignore[arg-type]
        expect.reconstruction[0, 0, 0] ^= 1
        return expect

    monkeypatch.setattr(evaluate, "expectation", one_pixel_off)
    with pytest.raises(CodecError, match="4 of 4 files decode to other pixels"):
        evaluate_learned(path, images)


def test_photos_beyond_the_first_are_believed_as_the_decoder_gives_them(
    path: Path, images: ImageSet, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their images are not computed twice: what the other process gives is what is compared."""
    height, width = SIZES[0]
    told: list[Expectation] = []
    right = expectation
    monkeypatch.setattr(evaluate, "CHECKED_PX", height * width)

    def expect(*arguments: object) -> Expectation:
        told.append(right(*arguments))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(evaluate, "expectation", expect)
    found = evaluate_learned(path, images)
    assert [e.reconstruction.shape[:2] for e in told] == [SIZES[0]] * 2
    assert found.curve.points == evaluation.curve.points
    assert found.bitstreams_sha == evaluation.bitstreams_sha


def test_photos_are_decoded_in_groups_that_fit(
    path: Path, images: ImageSet, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate._groups(images, 2) == [[0, 1]]
    monkeypatch.setattr(evaluate, "DECODED_BYTES", 1)
    assert evaluate._groups(images, 2) == [[0], [1]]
    found = evaluate_learned(path, images)
    assert found.curve.image_psnr_db == evaluation.curve.image_psnr_db
    assert found.bitstreams_sha == evaluation.bitstreams_sha


def test_an_image_that_was_cut_short_on_its_way_is_an_error(
    path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Decoded.pixels

    def cut_short(decoded: Decoded, name: str, shape: tuple[int, ...]) -> Image:
        raw = (decoded.folder / name).with_suffix(RAW)
        raw.write_bytes(raw.read_bytes()[:-1])
        return right(decoded, name, shape)

    monkeypatch.setattr(Decoded, "pixels", cut_short)
    with pytest.raises(CodecError, match="was decoded to 107999 samples, not the 180x200 px"):
        evaluate_learned(path, images)


def test_a_decoder_that_cannot_decode_is_an_error_that_says_why(
    path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = encode_analysed
    monkeypatch.setattr(evaluate, "encode_analysed", lambda *a: right(*a)[:-5])
    with pytest.raises(CodecError, match=r"process of its own failed: .*damaged or cut short"):
        evaluate_learned(path, images)


@pytest.mark.parametrize(
    ("coded", "agrees"), [(100_000, True), (101_050, True), (101_200, False), (98_800, False)]
)
def test_real_bits_may_differ_by_one_percent_and_the_coders_flush(coded: int, agrees: bool) -> None:
    if agrees:
        evaluate._check_bits(coded, 100_000.0, n_files=1)
    else:
        with pytest.raises(
            CodecError, match=f"wrote {coded} bits where the model estimates 100000"
        ):
            evaluate._check_bits(coded, 100_000.0, n_files=1)


# --- classical codecs and MS-SSIM --------------------------------------------------------------


def test_a_classical_codec_is_measured_alike(images: ImageSet) -> None:
    codec = classical("jpeg")
    evaluation = evaluate_classical(codec, images)
    curve = evaluation.curve
    assert sorted(p.level for p in curve.points) == sorted(codec.levels)
    assert [p.bpp for p in curve.points] == sorted(p.bpp for p in curve.points)
    assert curve.estimated_over_real_bits is None
    point, image = curve.points[0], images.image(0)
    data = codec.encode(image, point.level)
    assert curve.image_bpp[0][0] == len(data) * 8 / (image.shape[0] * image.shape[1])
    assert curve.image_psnr_db[0][0] == psnr_db(image, codec.decode(data), peak=255)
    assert evaluation.bitstreams_sha == evaluate_classical(codec, images).bitstreams_sha


@pytest.mark.parametrize(("side", "known"), [(160, False), (161, True)])
def test_ms_ssim_is_known_from_161_pixels_a_side_on(side: int, known: bool, tmp_path: Path) -> None:
    pixels = load_images("builtin", "validation").image(0)[:side, :300]
    PillowImage.fromarray(pixels).save(tmp_path / "0.png")
    curve = evaluate_classical(classical("jpeg"), load_images(tmp_path, "evaluation")).curve
    assert [point.ms_ssim is not None for point in curve.points] == [known] * len(curve.points)


def test_each_photo_is_compared_with_itself_whatever_the_order() -> None:
    """The tally keeps what belongs to a photo; photos come level by level, too."""
    tally, level = evaluate._Tally(), 0
    photos = [load_images("builtin", "validation").image(i)[:200, :180] for i in range(2)]
    for image in (photos[0], photos[1], photos[0]):
        tally.add(level, b"", image, photos[0])
    first, other, again = tally.ms_ssim[level]
    assert first == again == pytest.approx(1)
    assert other is not None
    assert other < 0.9


# --- samples -----------------------------------------------------------------------------------


def test_samples_of_the_first_photo_are_what_its_files_decode_to(
    evaluation: Evaluation, path: Path, images: ImageSet
) -> None:
    alone = learned_samples(path, images.image(0))
    assert [s.level for s in evaluation.samples] == [s.level for s in alone] == [0, 1]
    codec, _ = load_codec(path)
    for kept, again in zip(evaluation.samples, alone, strict=True):
        data = encode_image(codec, images.image(0), kept.level)
        assert np.array_equal(kept.pixels, cut(decode_image(codec, data)))
        assert np.array_equal(kept.pixels, again.pixels)
        at = [p.level for p in evaluation.curve.points].index(kept.level)
        assert kept.bpp == again.bpp == evaluation.curve.image_bpp[at][0]
        assert kept.psnr_db == again.psnr_db == evaluation.curve.image_psnr_db[at][0]


def test_a_classical_codec_has_a_sample_a_level(images: ImageSet) -> None:
    codec = classical("jpeg")
    found = classical_samples(codec, images.image(0))
    assert [s.level for s in found] == list(codec.levels)
    first = codec.encode(images.image(0), found[0].level)
    assert np.array_equal(found[0].pixels, cut(codec.decode(first)))
