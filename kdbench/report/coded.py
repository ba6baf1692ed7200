"""What `encode` and `decode` print."""

from typing import Any

from kdbench.coding import Coded
from kdbench.records import plain


def coded_text(coded: Coded) -> str:
    """Three lines: the file, how good and how large, how long it took."""
    quality = "its one level" if coded.quality is None else f"quality {coded.quality:.4g}"
    trained = "" if coded.rd_lambda is None else f", rd_lambda {coded.rd_lambda:.4g}"
    psnr = "" if coded.psnr_db is None else f", PSNR {coded.psnr_db:.2f} dB"
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in coded.seconds.items())
    h_s = "integer h_s" if coded.is_integer else "float h_s"
    return (
        f"{coded.file}: {coded.width}x{coded.height} px by {coded.codec} at {quality} "
        f"(level {coded.level:.4g}{trained})\n"
        f"{coded.bpp:.4f} bpp ({coded.n_bytes} bytes){psnr}\n"
        f"{seconds}, {h_s}; encoded on {coded.machine or 'a machine that the file does not name'}\n"
    )


def coded_json(coded: Coded) -> dict[str, Any]:
    """The same for programs."""
    found: dict[str, Any] = {**plain(coded), "file": str(coded.file), "bpp": coded.bpp}
    return found
