"""BD-rate of published Kodak curves, against figures computed from the same files."""

import json
from pathlib import Path

import pytest

from kdbench.rd import bd_rate_pct

CODECS = json.loads((Path(__file__).parent / "kodak_rd.json").read_text())["codecs"]


@pytest.mark.parametrize(
    ("codec", "expected_pct"),
    [
        ("mbt2018-mean", -6.82),
        ("mbt2018", -14.24),
        ("bmshj2018-factorized", +26.75),
        ("webp", +39.72),
        ("jpeg", +122.17),
    ],
)
def test_bd_rate_against_the_hyperprior_is_the_published_one(
    codec: str, expected_pct: float
) -> None:
    test, anchor = CODECS[codec], CODECS["bmshj2018-hyperprior"]
    found_pct = bd_rate_pct(test["bpp"], test["psnr_db"], anchor["bpp"], anchor["psnr_db"])
    assert found_pct == pytest.approx(expected_pct, abs=0.05)  # percentage points
