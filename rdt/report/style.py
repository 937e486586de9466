"""Colours and shapes of methods, the same in every picture and table of one report.

The colours are those of Okabe and Ito (2008), the lighter ones darkened until all of them stand out from white and from
the dark page by 3 : 1; orange is left out, since darkened it is vermilion to a deuteranope. A shape goes with each
colour. The numbers of both have no common divisor, so that 40 methods look different.
"""

from dataclasses import dataclass

from rdt.report.compare import Comparison

INK, QUIET, FAINT, BEYOND = "#1d2733", "#5b6673", "#e6e9ee", "#f1f2f5"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c46c9d", "#3d98cf")
SHAPES = ("circle", "square", "triangle", "down", "pentagon", "star", "plus", "cross")  # page.js draws them by name
MARKERS = dict(zip(SHAPES, "os^vp*PX", strict=True))  # what matplotlib calls them


@dataclass(frozen=True)
class Mark:
    """Holds how the points of a method look."""

    colour: str
    shape: str


def mark_of(comparison: Comparison, method: str) -> Mark:
    """Return the mark of a method."""
    place = comparison.methods.index(method)
    return Mark(COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)])


def mark_html(comparison: Comparison, method: str | None) -> str:
    """Return the mark of a method, or that of the base, for legends and tables."""
    if method is None:
        return '<span class="mark diamond" style="--hue:var(--ink)"></span>'
    mark = mark_of(comparison, method)
    return f'<span class="mark {mark.shape}" style="--hue:{mark.colour}"></span>'
