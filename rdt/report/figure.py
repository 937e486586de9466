"""Draws front.png and front.svg: rewards against diversity with the limit, and samples of the models below.

The y axes are the comparison's rewards, the x axis is its diversity. Points carry 95 % intervals.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np

from rdt.pareto import front
from rdt.report.compare import Comparison, Group
from rdt.report.grids import Grid
from rdt.result import Score
from rdt.text import folded

INK, QUIET, FAINT, BEYOND = "#1d2733", "#6b7684", "#e6e9ee", "#f1f2f5"
COLOURS = ("#0b6fb8", "#d1501f", "#12906b", "#8e5bb5", "#c58a00", "#c2407e", "#3a97c9", "#7a6a4f")
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
WIDTH, MARGIN, HEAD, PANEL, ROW = 10.4, 0.35, 1.12, 3.6, 4.6  # inches; a row is a panel with its title and axis
ROW_LABELS, BETWEEN, OVER = 1.35, 0.35, 0.42  # inches beside, between and above the sample grids
LONGEST = 80  # characters of a name in the picture
LABELLED = 14  # with more groups in a panel, their settings are left to the table


@dataclass(frozen=True)
class Box:
    """Places a rectangle on the figure, in inches from its left and top."""

    left: float
    top: float
    width: float
    height: float


def colour_of(comparison: Comparison, method: str) -> str:
    """Return the colour of a method, the same in every picture of one report."""
    return COLOURS[comparison.methods.index(method) % len(COLOURS)]


def draw(comparisons: list[Comparison], grids: list[Grid], path: Path, form: str = "png") -> None:
    """Write the picture as PNG of 200 dpi or as SVG; without grids there is no strip of samples."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for what the font lacks
        top = HEAD + ROW * len(comparisons)
        boxes, strip = _boxes(grids, top)
        figure = Figure(figsize=(WIDTH, top + strip))
        FigureCanvasAgg(figure)
        _head(figure, comparisons)
        for row, comparison in enumerate(comparisons):
            _panels(figure, comparison, HEAD + ROW * row)
        for grid, box in zip(grids, boxes, strict=True):
            _picture(figure, grid, comparisons[0], box)
        figure.savefig(path, dpi=200, format=form)


def _axes(figure: Any, box: Box) -> Any:
    """Return new axes that fill the box."""
    height = figure.get_figheight()
    bottom = 1 - (box.top + box.height) / height
    return figure.add_axes((box.left / WIDTH, bottom, box.width / WIDTH, box.height / height))


def _head(figure: Any, comparisons: list[Comparison]) -> None:
    """Write title, subtitle and legend."""
    height, first = figure.get_figheight(), comparisons[0]
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    measured = f"{folded(first.model, LONGEST)}, {first.n_prompts} held-out prompts × {first.n_per_prompt} images"
    if len(comparisons) > 1:
        measured = f"{len(comparisons)} sets of prompts or models"
    title = folded(f"Reward against diversity: {', '.join(methods)}", 2 * LONGEST)
    figure.text(MARGIN / WIDTH, 1 - 0.42 / height, title, fontsize=15, fontweight="bold", va="baseline")
    subtitle = f"{measured}.  Bars: 95 % intervals.  Hollow: dominated.  Better is up and to the right."
    figure.text(MARGIN / WIDTH, 1 - 0.66 / height, subtitle, fontsize=9, color=QUIET, va="baseline")
    corner = ((MARGIN - 0.06) / WIDTH, 1 - 0.72 / height)
    spacing = {"handlelength": 1.7, "columnspacing": 1.5, "handletextpad": 0.6, "borderpad": 0.1}
    placed = {"loc": "upper left", "bbox_to_anchor": corner, "ncols": 9, "frameon": False, "fontsize": 9}
    figure.legend(*_legend(comparisons), **placed, **spacing)


def _legend(comparisons: list[Comparison]) -> tuple[list[Any], list[str]]:
    """Return handles and labels: the base, the methods, then the limits that any panel shows."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"markersize": 7, "markeredgecolor": "white"}
    entries: dict[str, Any] = {"base": Line2D([], [], marker="D", color=INK, linestyle="", **dot)}
    for comparison in comparisons:
        for method in comparison.methods:
            hue = colour_of(comparison, method)
            entries[folded(method, LONGEST)] = Line2D([], [], marker="o", color=hue, linestyle="-", **dot)
        if any(comparison.curve(reward) is not None for reward in comparison.rewards):
            entries["limit, measured alike"] = Line2D([], [], color=QUIET, linewidth=1.5)
            entries["limit, exact"] = Line2D([], [], color=QUIET, linewidth=1.1, dashes=(4, 2.5))
            entries["beyond the limit"] = Patch(color=BEYOND)
        if any(comparison.curve(reward, "kl_frontier") is not None for reward in comparison.rewards):
            entries["best under KL"] = Line2D([], [], color=QUIET, linewidth=1.1, linestyle=":")
    return list(entries.values()), list(entries)


def _panels(figure: Any, comparison: Comparison, top: float) -> None:
    """Draw one panel per reward, side by side."""
    left, gap, count = MARGIN + 0.4, 0.75, len(comparison.rewards)
    width = min((WIDTH - left - MARGIN - gap * (count - 1)) / max(count, 1), 7.0)
    for column, reward in enumerate(comparison.rewards):
        axes = _axes(figure, Box(left + column * (width + gap), top + 0.4, width, PANEL))
        _panel(axes, comparison, reward)


def _panel(axes: Any, comparison: Comparison, reward: str) -> None:
    """Draw one reward against the diversity: the limit, every method and the base."""
    _frame(axes, comparison, reward)
    _limit(axes, comparison, reward)
    for method in comparison.methods:
        _front(axes, comparison, method, reward)
    if {reward, comparison.diversity} <= set(comparison.base):
        _cross(axes, comparison.base[comparison.diversity], comparison.base[reward], INK, "D", True)
    name = folded(comparison.diversity.partition("/")[2], LONGEST)
    axes.set_xlabel(f"{name}  →  more diverse", labelpad=5)
    axes.set_title(folded(reward.partition("/")[2], LONGEST), fontweight="bold", fontsize=11, pad=9)
    style = {"ha": "right", "color": QUIET, "fontsize": 8.5}
    axes.annotate(_role(comparison, reward), (1, 1), (0, 9), "axes fraction", "offset points", **style)


def _role(comparison: Comparison, reward: str) -> str:
    """Return what a reward is to the runs: what they were trained on, what is to be gained, or a judge."""
    name = reward.partition("/")[2]
    if name in {run.result.reward for run in comparison.runs}:
        return "what is optimised"
    return "what is wanted" if name == (comparison.limit or {}).get("reward") else "a judge"


def _frame(axes: Any, comparison: Comparison, reward: str) -> None:
    """Set the axes' limits around all that was measured, and around the limit as far as it comes near."""
    scores = [comparison.base, *(group.scores for group in comparison.groups)]
    spans = []
    for name in (comparison.diversity, reward):
        bounds = [bound for s in scores if name in s for bound in (s[name].value.lo, s[name].value.hi)] or [0.0, 1.0]
        spans.append((min(bounds), max(bounds)))
    curve = comparison.curve(reward)
    if curve is not None:
        near = curve.reward[curve.sampled >= spans[0][0]]
        spans = [(spans[0][0], max(spans[0][1], curve.exact.max())), (spans[1][0], max([spans[1][1], *near[-1:]]))]
    pads = [max(0.09 * (hi - lo), 1e-3) for lo, hi in spans]
    (x0, x1), (y0, y1) = ((lo - pad, hi + pad) for (lo, hi), pad in zip(spans, pads, strict=True))
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.locator_params(nbins=6)


def _limit(axes: Any, comparison: Comparison, reward: str) -> None:
    """Draw the limit as measured and exact, and shade what lies beyond it."""
    curve, kl = comparison.curve(reward), comparison.curve(reward, "kl_frontier")
    if curve is None:
        return
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    level = [min(y0, curve.reward[0]), *curve.reward, curve.reward[-1], max(y1, curve.reward[-1])]
    edge = [curve.sampled[0], *curve.sampled, x0, x0]
    axes.fill_betweenx(level, edge, max(x1, *edge), color=BEYOND, linewidth=0, zorder=0.4)
    axes.plot(edge[:-2], level[:-2], color=QUIET, linewidth=1.5, zorder=1.6)
    axes.plot(curve.exact, curve.reward, color=QUIET, linewidth=1.1, dashes=(4, 2.5), zorder=1.6)
    if kl is not None:
        axes.plot(kl.sampled, kl.reward, color=QUIET, linewidth=1.1, linestyle=":", zorder=1.6)


def _front(axes: Any, comparison: Comparison, method: str, reward: str) -> None:
    """Draw the groups of a method, hollow if its front or the base dominates them; a line joins base and front."""
    groups, best = comparison.on_front(method, reward)
    colour, plane = colour_of(comparison, method), comparison.plane([g.scores for g in groups], reward)
    start = comparison.plane([comparison.base], reward)
    line = np.concatenate([start, plane[best]])
    axes.plot(*line[np.argsort(-line[:, 1])].T[::-1], color=colour, linewidth=1.6, alpha=0.55, zorder=2.5)
    gains = front(np.concatenate([plane, start]))[: len(plane)]
    for group, filled in zip(groups, gains, strict=True):
        if len(group.points) > 1:
            seeds = comparison.plane([point.scores for point in group.points], reward)
            axes.plot(*seeds.T[::-1], "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=2.6)
        _cross(axes, group.scores[comparison.diversity], group.scores[reward], colour, "o", bool(filled))
        if group.setting and len(comparison.groups) <= LABELLED:
            _label(axes, group, comparison, reward, colour)


def _cross(axes: Any, across: Score, up: Score, colour: str, marker: str, filled: bool) -> None:
    """Draw a point with its two intervals."""
    x, y = across.value, up.value
    bars = {"xerr": [[x.mean - x.lo], [x.hi - x.mean]], "yerr": [[y.mean - y.lo], [y.hi - y.mean]]}
    face, edge = (colour, "white") if filled else ("white", colour)
    dot: dict[str, Any] = {"markersize": 7, "markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.9}
    style = {"color": colour, "ecolor": colour, "elinewidth": 1.1, "capsize": 0, "zorder": 3}
    axes.errorbar(x.mean, y.mean, fmt=marker, **bars, **dot, **style)


def _label(axes: Any, group: Group, comparison: Comparison, reward: str, colour: str) -> None:
    """Write the setting of a group beside its point."""
    from matplotlib.patheffects import withStroke

    at = (group.scores[comparison.diversity].value.mean, group.scores[reward].value.mean)
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    style = {"fontsize": 7.5, "color": colour, "zorder": 4, "path_effects": halo}
    axes.annotate(folded(group.setting, LONGEST), at, (6, 5), textcoords="offset points", **style)


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
    scores = grid.group.scores if grid.group else comparison.base
    colour = colour_of(comparison, grid.group.method) if grid.group else INK
    shown = [name for name in (*comparison.rewards, comparison.diversity) if name in scores]
    words = "   ".join(f"{folded(name.partition('/')[2], LONGEST)} {scores[name].value.mean:#.3g}" for name in shown)
    title = folded(grid.title, LONGEST)
    size = min(10, 200 / max(len(title), 1))  # a long title must not run into the scores
    axes.set_title(title, fontsize=size, fontweight="bold", color=colour, pad=6)
    axes.annotate(words, (1, 1), (0, 7), "axes fraction", "offset points", ha="right", fontsize=8.5, color=QUIET)
    if box.left < MARGIN + ROW_LABELS + 0.01:
        _row_labels(axes, grid.prompts)


def _row_labels(axes: Any, prompts: Sequence[str]) -> None:
    """Write the prompts beside the rows of a grid."""
    style = {"xycoords": "axes fraction", "ha": "right", "va": "center", "fontsize": 8.5, "color": INK}
    for row, prompt in enumerate(prompts):
        at = (-0.02, 1 - (row + 0.5) / len(prompts))
        axes.annotate(fill(shorten(prompt, 60, placeholder=" …"), 20), at, **style)
