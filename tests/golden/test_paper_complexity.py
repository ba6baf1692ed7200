"""Tables 2 to 4 of arXiv 2509.10366: parameters and GMAC of the teacher and its five students."""

import json
from pathlib import Path
from typing import Any

import pytest
from compressai.models import ScaleHyperprior

from kdbench.complexity import HEIGHT_PX, WIDTH_PX, measure_complexity

MODELS = json.loads((Path(__file__).parent / "paper_tables.json").read_text())["models"]
K_PX = HEIGHT_PX * WIDTH_PX * 1000


@pytest.mark.parametrize("row", MODELS, ids=lambda row: f"n{row['n']}")
def test_the_paper_s_models_cost_what_the_paper_says(row: dict[str, Any]) -> None:
    found = measure_complexity(ScaleHyperprior(row["n"], 192))
    assert found.params == row["params"]
    macs = round(found.kmac_per_px * K_PX)
    assert macs == round(row["kmac_per_px"] * K_PX)  # to the last multiply
    assert round(macs / 1e9, 2) == row["gmac_768x512"]


def test_the_entropy_model_s_products_are_the_fifth_part() -> None:
    assert round(measure_complexity(ScaleHyperprior(16, 192)).entropy_model * K_PX) == 101_376
