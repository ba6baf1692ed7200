"""Colours are read on both pages, and told apart by people with any colour blindness."""

from itertools import combinations
from math import dist
from typing import get_args

import numpy as np
import pytest

from kdbench.report.chart import Role
from kdbench.report.interactive import INK
from kdbench.report.palette import DARK, HUES, WHITE, look

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, D65
LEAST_DISTANCE = 15.0  # CIE76; 2.3 is what an eye just sees side by side


def linear(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    encoded = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def contrast(one: str, two: str) -> float:
    """WCAG 2.1."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, blindness: str) -> list[float]:
    seen = np.clip(BLINDNESS[blindness] @ linear(colour), 0, 1)
    x, y, z = np.cbrt(TO_XYZ @ seen / (TO_XYZ @ np.ones(3)))
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("page", [WHITE, DARK])
@pytest.mark.parametrize("colour", HUES)
def test_every_colour_is_seen_on_the_page(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3.0


@pytest.mark.parametrize("page", [WHITE, DARK])
def test_words_of_figures_are_read_on_either_page(page: str) -> None:
    assert contrast(INK, page) >= 4.0


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_are_told_apart(blindness: str) -> None:
    distances = {
        pair: dist(lab(pair[0], blindness), lab(pair[1], blindness))
        for pair in combinations(HUES, 2)
    }
    nearest = min(distances, key=lambda pair: distances[pair])
    assert distances[nearest] >= LEAST_DISTANCE, (nearest, distances[nearest])


def test_roles_differ_by_shape_and_not_by_colour_alone() -> None:
    shapes = [look(role).shape for role in get_args(Role) if role not in ("member", "quiet")]
    assert len(set(shapes)) == len(shapes)


def test_forty_members_look_different() -> None:
    assert len({look("member", place)[:3] for place in range(40)}) == 40
    near = [(look("member", place), look("member", place + 1)) for place in range(39)]
    assert all(one.colour != two.colour and one.shape != two.shape for one, two in near)
