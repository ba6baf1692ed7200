"""Tables 2 to 4 of arXiv 2509.10366: parameters and GMAC of the teacher and its five students."""

import json
from pathlib import Path
from typing import Any

import pytest
from compressai.models import ScaleHyperprior

from kdbench.adopt import architecture_of
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.complexity import HEIGHT_PX, WIDTH_PX, measure_complexity
from kdbench.records import RDCurve, RDPoint
from kdbench.report.paper import Row, cost_tables, quality_table
from tests.support.results import curve

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


def test_the_tables_print_the_paper_s_figures_as_the_paper_does() -> None:
    teacher, *students = [_row(row) for row in MODELS]
    size, compute, _ = (text.splitlines() for text in cost_tables(teacher, students))
    for i, row in enumerate(MODELS):
        params = size[3 + i].split()
        gmac = compute[3 + i].split()
        assert params[1] == f"{row['params']:,}"
        assert gmac[1] == f"{row['gmac_768x512']:.2f}"
        if i > 0:
            change = 100 * (row["params"] / MODELS[0]["params"] - 1)
            assert params[2] == f"{change:+.1f}"
            change = 100 * (row["kmac_per_px"] / MODELS[0]["kmac_per_px"] - 1)
            assert gmac[2] == f"{change:+.1f}"


def _row(row: dict[str, Any]) -> Row:
    """A student as a study would build it: `Hyperprior` of one rate."""
    model = Hyperprior(architecture_of(row["n"], 192))
    return Row(name=f"n{row['n']}", rd=curve(), complexity=measure_complexity(model), energy=None)


def test_a_point_is_compared_with_the_reference_s_of_its_rd_lambda() -> None:
    def at(name: str, rd_lambdas: tuple[float, ...], *points: tuple[float, float]) -> Row:
        rd = RDCurve(
            images=("a.png",),
            points=tuple(RDPoint(level=i, bpp=b, psnr_db=p) for i, (b, p) in enumerate(points)),
            image_bpp=tuple((b,) for b, _ in points),
            image_psnr_db=tuple((p,) for _, p in points),
        )
        return Row(name=name, rd=rd, complexity=None, energy=None, rd_lambdas=rd_lambdas)

    teacher = at("teacher", (0.013, 0.025), (0.48, 32.8), (0.67, 34.53))
    n16, other = at("n16", (0.025,), (0.45, 29.98)), at("other", (0.0018,), (0.1, 27.0))
    text = quality_table(teacher, [n16, other]).splitlines()
    assert text[-2].split() == ["n16", "0.450", "-32.8", "29.98", "-4.55", "-"]
    assert text[-1].split() == ["other", "0.100", "-", "27.00", "-", "-"]
