"""Draws front.png and front.svg: the planes of a comparison with a title and a legend, and samples of the models below.

Points lie at their paired difference to the base or, with `absolute`, at the scores themselves.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from rdt.report.compare import Comparison
from rdt.report.grids import Grid
from rdt.report.panel import LONGEST, draw_plane
from rdt.report.path import TRAINING, paths_of
from rdt.report.planes import planes_of
from rdt.report.style import BEYOND, INK, MARKERS, QUIET, mark_of
from rdt.report.text import half
from rdt.text import folded

STYLE = {
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
WIDTH, MARGIN, HEAD, PANEL, ROW = 11.6, 0.35, 1.12, 3.2, 4.3  # inches; a row is a panel with its title and axis
ROW_LABELS, BETWEEN, OVER = 1.35, 0.35, 0.62  # inches beside, between and above the sample grids


@dataclass(frozen=True)
class Box:
    """Places a rectangle on the figure, in inches from its left and top."""

    left: float
    top: float
    width: float
    height: float


def draw(
    comparisons: list[Comparison], grids: list[Grid], path: Path, form: str = "png", absolute: bool = False,
    left_out: int = 0,
) -> None:  # fmt: skip
    """Write the picture as PNG of 200 dpi or as SVG, with the grids below; a note says how many were left out."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for what the font lacks
        top = HEAD + ROW * len(comparisons)
        boxes, strip = _boxes(grids, top)
        figure = Figure(figsize=(WIDTH, top + strip))
        FigureCanvasAgg(figure)
        _head(figure, comparisons, absolute)
        for row, comparison in enumerate(comparisons):
            _panels(figure, comparison, HEAD + ROW * row, absolute)
        for grid, box in zip(grids, boxes, strict=True):
            _picture(figure, grid, comparisons[0], box)
        words = f"and {left_out} more sample grids in report.html" if left_out else ""
        figure.text(MARGIN / WIDTH, 0.1 / figure.get_figheight(), words, fontsize=8.5, color=QUIET)
        figure.savefig(path, dpi=200, format=form)


def _axes(figure: Any, box: Box) -> Any:
    """Return new axes that fill the box."""
    height = figure.get_figheight()
    bottom = 1 - (box.top + box.height) / height
    return figure.add_axes((box.left / WIDTH, bottom, box.width / WIDTH, box.height / height))


def _head(figure: Any, comparisons: list[Comparison], absolute: bool) -> None:
    """Write title, subtitle and legend."""
    height, first = figure.get_figheight(), comparisons[0]
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    measured = f"{folded(first.model, LONGEST)}, {first.n_prompts} held-out prompts × {first.n_per_prompt} images"
    if len(comparisons) > 1:
        measured = f"{len(comparisons)} sets of prompts or models"
    title = folded(f"{_subject(absolute)}: {', '.join(methods)}", 2 * LONGEST)
    figure.text(MARGIN / WIDTH, 1 - 0.42 / height, title, fontsize=15, fontweight="bold", va="baseline")
    subtitle = f"{measured}.  {_bars(comparisons, absolute)}  Hollow: dominated.  Better is up and to the right."
    figure.text(MARGIN / WIDTH, 1 - 0.66 / height, subtitle, fontsize=9, color=QUIET, va="baseline")
    corner = ((MARGIN - 0.06) / WIDTH, 1 - 0.72 / height)
    spacing = {"handlelength": 1.7, "columnspacing": 1.5, "handletextpad": 0.6, "borderpad": 0.1}
    placed = {"loc": "upper left", "bbox_to_anchor": corner, "ncols": 9, "frameon": False, "fontsize": 9}
    figure.legend(*_legend(comparisons, absolute), **placed, **spacing)


def _subject(absolute: bool) -> str:
    return "Reward against diversity" if absolute else "Difference to the base"


def _bars(comparisons: list[Comparison], absolute: bool) -> str:
    """Return what the intervals hold: of one seed each they say nothing about other seeds."""
    paired = "95 % intervals" if absolute else "95 % intervals, paired by prompt"
    single = min(comparison.seeds for comparison in comparisons) == 1
    return f"Bars: {paired}; one seed: over prompts only." if single else f"Bars: {paired}."


def _legend(comparisons: list[Comparison], absolute: bool) -> tuple[list[Any], list[str]]:
    """Return handles and labels: the base, the methods, then the limits that any panel shows."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"markersize": 7, "markeredgecolor": "white"}
    entries: dict[str, Any] = {"base": Line2D([], [], marker="D", color=INK, linestyle="", **dot)}
    for comparison in comparisons:
        for method in comparison.methods:
            mark = mark_of(comparison, method)
            line = Line2D([], [], marker=MARKERS[mark.shape], color=mark.colour, linestyle="-", **dot)
            entries[folded(method, LONGEST)] = line
        if paths_of(comparison) and not absolute:
            entries[TRAINING] = Line2D([], [], color=QUIET, linewidth=0.8, marker="o", markersize=2.4)
        if any(comparison.curve(reward) is not None for reward in comparison.rewards):
            entries["limit, measured alike"] = Line2D([], [], color=QUIET, linewidth=1.5)
            entries["limit, exact"] = Line2D([], [], color=QUIET, linewidth=1.1, dashes=(4, 2.5))
            entries["beyond the limit"] = Patch(color=BEYOND)
        if any(comparison.curve(reward, "kl_frontier") is not None for reward in comparison.rewards):
            entries["best under KL"] = Line2D([], [], color=QUIET, linewidth=1.1, linestyle=":")
    return list(entries.values()), list(entries)


def _panels(figure: Any, comparison: Comparison, top: float, absolute: bool) -> None:
    """Draw the planes of a comparison side by side."""
    planes = planes_of(comparison)
    left, gap, count = MARGIN + 0.45, 0.78, len(planes)
    width = min((WIDTH - left - MARGIN - gap * (count - 1)) / max(count, 1), 7.0)
    for column, plane in enumerate(planes):
        axes = _axes(figure, Box(left + column * (width + gap), top + 0.4, width, PANEL))
        draw_plane(axes, comparison, plane, absolute)


def _boxes(grids: list[Grid], top: float) -> tuple[list[Box], float]:
    """Return a box for every grid, two in a row, and the height of them all."""
    from PIL import Image

    sizes = []
    for grid in grids:
        with Image.open(grid.path) as image:
            sizes.append(image.size)
    left = MARGIN + (ROW_LABELS if any(grid.prompts for grid in grids) else 0.0)
    width = min((WIDTH - left - MARGIN - BETWEEN) / 2, 4.6)
    heights = [width * size[1] / size[0] for size in sizes]
    rows = [max(heights[i : i + 2]) + OVER for i in range(0, len(heights), 2)]
    lefts = [left + (i % 2) * (width + BETWEEN) for i in range(len(grids))]
    tops = [top + sum(rows[: i // 2]) + OVER for i in range(len(grids))]
    boxes = [Box(x, y, width, height) for x, y, height in zip(lefts, tops, heights, strict=True)]
    return boxes, sum(rows) + MARGIN * bool(rows)


def _picture(figure: Any, grid: Grid, comparison: Comparison, box: Box) -> None:
    """Draw a grid with its title, the scores of its model and, in the left column, the prompts of its rows."""
    from PIL import Image

    axes = _axes(figure, box)
    with Image.open(grid.path) as image:
        axes.imshow(image.convert("RGB"), aspect="auto", interpolation="bicubic")
    axes.set_axis_off()
    colour = mark_of(comparison, grid.group.method).colour if grid.group else INK
    title = fill(folded(grid.title, LONGEST), max(20, round(box.width * 12)))
    axes.set_title(title, fontsize=10, fontweight="bold", color=INK, pad=17, linespacing=1.1)
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8.5, "color": QUIET}
    axes.annotate(_words(comparison, grid), (0, 1), (0, 6), **style)
    axes.plot([0, 1], [1, 1], color=colour, linewidth=2.5, transform=axes.transAxes, clip_on=False)
    if box.left < MARGIN + ROW_LABELS + 0.01:
        _row_labels(axes, grid.prompts)


def _words(comparison: Comparison, grid: Grid) -> str:
    """Return the scores of a grid's model, or how they differ from the base's if that is known."""
    scores = grid.group.scores if grid.group else comparison.base
    shown = [name for name in (*comparison.rewards, comparison.diversity) if name in scores]
    pairs = [(folded(name.partition("/")[2], LONGEST), scores[name]) for name in shown]
    return "   ".join(f"Δ{n} {half(s.diff, '+')}" if s.diff else f"{n} {s.value.mean:#.3g}" for n, s in pairs)


def _row_labels(axes: Any, prompts: Sequence[str]) -> None:
    """Write the prompts beside the rows of a grid."""
    style = {"xycoords": "axes fraction", "ha": "right", "va": "center", "fontsize": 8.5, "color": INK}
    for row, prompt in enumerate(prompts):
        at = (-0.02, 1 - (row + 0.5) / len(prompts))
        axes.annotate(fill(shorten(prompt, 60, placeholder=" …"), 20), at, **style)
