"""Colours and shapes of the figures: by role, and no two roles by colour alone.

Four hues of Okabe and Ito (2008), which people with any colour blindness tell apart, and grey; the
yellow, orange and sky blue of that palette are left out, since they fade on white. Every colour has
a contrast of 3:1 or more (WCAG 2.1, 1.4.11) on the white and on the dark page.
"""

from typing import Literal, NamedTuple

from kdbench.report.chart import Role, Series

WHITE, DARK = "#ffffff", "#14171c"  # the two pages
BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
HUES = (BLUE, VERMILLION, GREEN, PURPLE, GREY)

Shape = Literal["circle", "cross", "star", "diamond", "square", "triangle", "down", "plus"]
Dash = Literal["solid", "dash", "dot", "dashdot"]
SHAPES: tuple[Shape, ...] = (
    "circle",
    "square",
    "diamond",
    "triangle",
    "cross",
    "star",
    "down",
    "plus",
)
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


class Look(NamedTuple):
    """How a series is drawn."""

    colour: str
    shape: Shape
    dash: Dash
    size_px: int = 9


_ROLES: dict[Role, Look] = {
    "front": Look(BLUE, "circle", "solid", 10),
    "beaten": Look(GREY, "cross", "solid", 7),
    "anchor": Look(VERMILLION, "star", "dash", 13),
    "twin": Look(PURPLE, "diamond", "dot", 9),
    "codec": Look(GREEN, "square", "dashdot", 9),
    "other": Look(VERMILLION, "triangle", "solid", 10),
    "quiet": Look(GREY, "circle", "solid", 6),
}


def look(role: Role, place: int = 0) -> Look:
    """How the series at `place` of those of `role` is drawn.

    `member`s go through hues, shapes and dashes side by side: 40 of them differ.
    """
    if role == "member":
        return Look(
            HUES[place % len(HUES)],
            SHAPES[place % len(SHAPES)],
            DASHES[place // len(HUES) % len(DASHES)],
            7,
        )
    found = _ROLES[role]
    if place:
        start = SHAPES.index(found.shape)
        shape, dash = SHAPES[(start + place) % len(SHAPES)], DASHES[place % len(DASHES)]
        return found._replace(shape=shape, dash=dash)
    return found


def look_of(series: Series) -> Look:
    """How a series is drawn."""
    return look(series.role, series.place)
