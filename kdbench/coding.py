"""What `kdbench encode` and `kdbench decode` do: photos to .kdb files and back.

Both compute with one thread and in fp32, as evaluations do, so that a float h_s sees the same
thread count on either side.
"""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from kdbench.anchor import codec_files
from kdbench.cards import training_of
from kdbench.codecs.bitfile import Image, decode_image, encode_image, lay_out
from kdbench.codecs.fileform import read_header
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.weights import load_codec
from kdbench.data import UnusableError, read_rgb
from kdbench.device import machine, one_thread, synchronise
from kdbench.errors import CodecError, DataError
from kdbench.files import write_atomic
from kdbench.rd import psnr_db
from kdbench.store import Store

LOSSLESS = (".png", ".ppm", ".bmp", ".tif", ".tiff")
MIDDLE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """One file written or read.

    Attributes:
        codec: As it was named.
        quality: 0 to 1; None of a codec of one level.
        level: Where that lies among the trained levels.
        rd_lambda: Of this quality, interpolated like the gains; None where the codec's card does
            not tell.
        psnr_db: RGB, 8-bit, against the original [dB]; None where there is none to compare with.
        seconds: Wall seconds by what was done, `encode` and `decode`; reading and writing the
            image files not counted.
        is_integer: Whether h_s computed in integers.
        machine: That encoded; None of a file that does not say.
    """

    file: Path
    codec: str
    width: int
    height: int
    n_bytes: int
    quality: float | None
    level: float
    rd_lambda: float | None
    psnr_db: float | None
    seconds: dict[str, float]
    is_integer: bool
    machine: str | None

    @property
    def bpp(self) -> float:
        """Whole file x 8 / pixels [bit/px]."""
        return self.n_bytes * 8 / (self.width * self.height)


def position(quality: float, n_levels: int) -> float:
    """Where `quality` lies among the trained levels, 0 to `n_levels` - 1.

    Raises:
        CodecError: It is not within 0 to 1.
    """
    if not 0 <= quality <= 1:  # NaN neither
        raise CodecError(
            f"a quality of {quality} is outside 0 to 1",
            fix="0 is the codec's lowest trained level, 1 its highest",
        )
    return quality * (n_levels - 1)


def rd_lambda_at(level: float, rd_lambdas: tuple[float, ...]) -> float | None:
    """What a codec would be trained for at `level`, between two of `rd_lambdas` geometrically."""
    if not 0 <= level <= len(rd_lambdas) - 1:
        return None
    below = min(int(level), max(len(rd_lambdas) - 2, 0))
    part = level - below
    above = rd_lambdas[min(below + 1, len(rd_lambdas) - 1)]
    return float(rd_lambdas[below] ** (1 - part) * above**part)


def encode_file(
    photo: Path,
    out: Path,
    codec: str,
    quality: float | None,
    *,
    store: Store,
    device: str,
    overwrite: bool = False,
) -> Coded:
    """Writes `photo` as a .kdb file, and decodes it again to say how good it is.

    Args:
        photo: Any still image of 8-bit samples without transparency (see `data.pixels`).
        out: A file that need not be there.
        codec: A package's folder, `teacher:NAME`, `file:PATH`, `trial:STUDY/N`.
        quality: 0 to 1; None for the middle.
        store: Where trials are found.
        device: Where it computes.
        overwrite: Whether a file at `out` may be replaced.

    Raises:
        KdbenchError: No such photo or codec, a quality outside 0 to 1, or `out` is there or cannot
            be written.
    """
    _require_no_folder(out)
    pixels = read_photo(photo)
    model, rd_lambdas = load_named(codec, store)
    n = model.architecture.n_levels
    if n == 1 and quality is not None:
        raise CodecError(
            f"{codec} has one level, and no quality to choose",
            fix="leave `--quality` away",
        )
    level = position(MIDDLE if quality is None else quality, n)
    here = machine(device, threads=1)
    lay_out(model).to(device)
    seconds = {}
    with one_thread():
        began = time.perf_counter()
        data = encode_image(model, pixels, level, machine=here)
        synchronise(device)
        seconds["encode"] = time.perf_counter() - began
        decoded, seconds["decode"] = _decoded(model, data, here, device)
    _write(out, data, overwrite)
    psnr = psnr_db(pixels, decoded, peak=255)
    return _coded(out, codec, data, model=model, rd_lambdas=rd_lambdas, seconds=seconds, psnr=psnr)


def decode_file(
    file: Path,
    out: Path,
    codec: str,
    *,
    store: Store,
    device: str,
    original: Path | None = None,
    overwrite: bool = False,
) -> Coded:
    """Writes the image in a .kdb file.

    Args:
        file: What `encode_file` wrote.
        out: A file that need not be there, of a lossless format: `LOSSLESS`.
        codec: The one it was encoded with.
        store: Where trials are found.
        device: Where it computes.
        original: The photo, for PSNR.
        overwrite: Whether a file at `out` may be replaced.

    Raises:
        KdbenchError: No such file or codec; a file that is damaged, of another codec, or decoded to
            other latents than were encoded; or `out` is there or cannot be written.
    """
    if out.suffix.lower() not in LOSSLESS:
        raise DataError(
            f"{out} would not keep the decoded pixels as they are",
            fix=f"name a file that ends with {', '.join(LOSSLESS)}",
        )
    _require_no_folder(out)
    data = _read(file)
    model, rd_lambdas = load_named(codec, store)
    here = machine(device, threads=1)
    lay_out(model).to(device)
    try:
        with one_thread():
            decoded, seconds = _decoded(model, data, here, device)
    except CodecError as why:
        raise CodecError(f"{file}: {why.problem}", fix=why.fix) from None
    psnr = None
    if original is not None:
        pixels = read_photo(original)
        if pixels.shape != decoded.shape:
            raise DataError(
                f"{original} has {pixels.shape[1]}x{pixels.shape[0]} px, the decoded image "
                f"{decoded.shape[1]}x{decoded.shape[0]}",
                fix="name the photo that was encoded",
            )
        psnr = psnr_db(pixels, decoded, peak=255)
    _write(out, _image_file(decoded, out.suffix.lower()), overwrite)
    took = {"decode": seconds}
    return _coded(out, codec, data, model=model, rd_lambdas=rd_lambdas, seconds=took, psnr=psnr)


def load_named(codec: str, store: Store) -> tuple[LearnedCodec, tuple[float, ...]]:
    """The learned codec that `codec` names, and what its levels were trained for.

    Raises:
        CodecError: No such codec, a classical one, or one of a file a rate.
    """
    paths = codec_files(codec, cache=store.cache, store=store)
    if not paths:
        raise CodecError(
            f"{codec} has files of its own, and no .kdb files",
            fix="name a package, teacher:NAME, file:PATH or trial:STUDY/N",
        )
    if len(paths) > 1:
        raise CodecError(
            f"{codec} has a model for each of {len(paths)} rates, and a .kdb file is of one",
            fix=f"name one of them, file:{paths[0]}",
        )
    model, card = load_codec(paths[0])
    return model, tuple(training_of(card).get("rd_lambdas", ()))


def read_photo(path: Path) -> Image:
    """The pixels of one photo.

    Raises:
        DataError: Not there, no image, or one that would lose by becoming 8-bit RGB.
    """
    try:
        return read_rgb(path)
    except UnusableError as why:
        raise DataError(
            f"{path} cannot be used: {why}", fix="name a still image of 8-bit RGB or grey samples"
        ) from None


def _decoded(model: LearnedCodec, data: bytes, here: str, device: str) -> tuple[Image, float]:
    began = time.perf_counter()
    pixels = decode_image(model, data, machine=here)
    synchronise(device)
    return pixels, time.perf_counter() - began


def _coded(
    out: Path,
    codec: str,
    data: bytes,
    *,
    model: LearnedCodec,
    rd_lambdas: tuple[float, ...],
    seconds: dict[str, float],
    psnr: float | None,
) -> Coded:
    header = read_header(data)
    n = model.architecture.n_levels
    return Coded(
        file=out,
        codec=codec,
        width=header.width,
        height=header.height,
        n_bytes=len(data),
        quality=header.level / (n - 1) if n > 1 else None,
        level=header.level,
        rd_lambda=rd_lambda_at(header.level, rd_lambdas),
        psnr_db=psnr,
        seconds=seconds,
        is_integer=model.has_integer_prior,
        machine=header.machine,
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as why:
        raise DataError(
            f"{file} cannot be read: {(why.strerror or str(why)).lower()}",
            fix="name a file that `kdbench encode` wrote",
        ) from None


def _require_no_folder(out: Path) -> None:
    if out.is_dir():
        raise DataError(f"{out} is a folder", fix="name a file in it")


def _write(out: Path, data: bytes, overwrite: bool) -> None:
    """Writes `data` whole.

    A file that holds just that may be there: of the same command, whose disk failed at the very
    last.
    """
    if out.exists() and not overwrite and not _holds(out, data):
        raise DataError(f"{out} is there already", fix="name another file, or add `--force`")
    write_atomic(out, data, elsewhere="name a file in a folder that can be written")


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except OSError:
        return False


def _image_file(pixels: Image, suffix: str) -> bytes:
    kinds = {".png": "PNG", ".ppm": "PPM", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
    buffer = io.BytesIO()
    Pillow.fromarray(np.asarray(pixels)).save(buffer, kinds[suffix])
    return buffer.getvalue()
