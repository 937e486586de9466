"""front.png and front.svg: reward against diversity with the exact limit, and under it what the models draw."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from rdt.report.fronts import Comparison
from rdt.report.grids import Grid
from rdt.report.panel import BEYOND, INK, QUIET, colour_of, draw_panel

STYLE = {
    "text.parse_math": False, "font.family": "sans-serif", "svg.fonttype": "none",
    "font.size": 9, "axes.edgecolor": QUIET, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": QUIET, "ytick.color": QUIET, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.linewidth": 0.8, "axes.titlelocation": "left", "figure.facecolor": "white",
}  # fmt: skip
WIDTH, MARGIN, HEAD, PANEL, ROW = 10.4, 0.35, 1.12, 3.6, 4.6  # inches; a row is a panel with its title and axis
ROW_LABELS, BETWEEN, OVER = 1.35, 0.35, 0.42  # inches beside, between and over the sample grids


def draw(comparisons: list[Comparison], grids: list[Grid], path: Path, form: str = "png") -> None:
    """Write the picture, as PNG of 200 dpi or as SVG; no grids, no strip of samples."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        places, strip = _places(grids)
        height = HEAD + ROW * len(comparisons) + strip
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        _head(figure, comparisons, height)
        for row, comparison in enumerate(comparisons):
            _panels(figure, comparison, (HEAD + ROW * row, height))
        for grid, place in zip(grids, places, strict=True):
            _picture(figure, grid, comparisons[0], place, height)
        figure.savefig(path, dpi=200, format=form)


def _axes(figure: Any, left: float, top: float, size: tuple[float, float], height: float) -> Any:
    """Axes at inches from the left and the top of a figure of that height."""
    return figure.add_axes((left / WIDTH, 1 - (top + size[1]) / height, size[0] / WIDTH, size[1] / height))


def _head(figure: Any, comparisons: list[Comparison], height: float) -> None:
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    first = comparisons[0]
    prompts = f"{first.n_prompts} held-out prompts × {first.n_per_prompt} images"
    says = f"{first.model}, {prompts}" if len(comparisons) == 1 else f"{len(comparisons)} sets of prompts or models"
    title = f"Reward against diversity: {', '.join(methods)}"
    figure.text(MARGIN / WIDTH, 1 - 0.42 / height, title, fontsize=15, fontweight="bold", va="baseline")
    note = f"{says}.  Bars: 95 % intervals.  Hollow: dominated.  Better is up and to the right."
    figure.text(MARGIN / WIDTH, 1 - 0.66 / height, note, fontsize=9, color=QUIET, va="baseline")
    figure.legend(
        *_legend(comparisons), loc="upper left", bbox_to_anchor=((MARGIN - 0.06) / WIDTH, 1 - 0.72 / height), ncols=9,
        frameon=False, fontsize=9, handlelength=1.7, columnspacing=1.5, handletextpad=0.6, borderpad=0.1,
    )  # fmt: skip


def _legend(comparisons: list[Comparison]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot: dict[str, Any] = {"linestyle": "", "markersize": 7, "markeredgecolor": "white"}
    entries: dict[str, Any] = {"base": Line2D([], [], marker="D", color=INK, **dot)}
    for comparison in comparisons:
        for method in comparison.methods:
            entries[method] = Line2D(
                [], [], marker="o", color=colour_of(comparison, method), **(dot | {"linestyle": "-"})
            )
        curves = [comparison.curve(reward) for reward in comparison.rewards]
        if any(curve is not None for curve in curves):
            entries["limit, measured alike"] = Line2D([], [], color=QUIET, linewidth=1.5)
            entries["limit, exact"] = Line2D([], [], color=QUIET, linewidth=1.1, dashes=(4, 2.5))
            entries["beyond the limit"] = Patch(color=BEYOND)
        if any(comparison.curve(reward, "kl_frontier") is not None for reward in comparison.rewards):
            entries["best under KL"] = Line2D([], [], color=QUIET, linewidth=1.1, linestyle=":")
    return list(entries.values()), list(entries)


def _panels(figure: Any, comparison: Comparison, place: tuple[float, float]) -> None:
    (top, height), count = place, len(comparison.rewards)
    left, gap = MARGIN + 0.4, 0.75
    width = min((WIDTH - left - MARGIN - gap * (count - 1)) / max(count, 1), 7.0)
    trained = {f"reward/{run.reward}" for group in comparison.groups for run in group.runs}
    for column, reward in enumerate(comparison.rewards):
        axes = _axes(figure, left + column * (width + gap), top + 0.4, (width, PANEL), height)
        draw_panel(axes, comparison, reward, "what is optimised" if reward in trained else "what is wanted")


def _places(grids: list[Grid]) -> tuple[list[tuple[float, float, float, float]], float]:
    """(left, top from the bottom, width, height) of every grid in inches, two abreast, and the height of them all."""
    from PIL import Image

    sizes = []
    for grid in grids:
        with Image.open(grid.path) as image:
            sizes.append(image.size)
    left = MARGIN + (ROW_LABELS if any(grid.prompts for grid in grids) else 0.0)
    width = min((WIDTH - left - MARGIN - BETWEEN) / 2, 4.6)
    heights = [width * size[1] / size[0] for size in sizes]
    rows = [max(heights[i : i + 2]) + OVER for i in range(0, len(heights), 2)]
    below = [sum(rows[i // 2 :]) + MARGIN for i in range(len(grids))]
    columns = [left + (i % 2) * (width + BETWEEN) for i in range(len(grids))]
    return list(zip(columns, below, [width] * len(grids), heights, strict=True)), sum(rows) + MARGIN * bool(rows)


def _picture(figure: Any, grid: Grid, comparison: Comparison, place: tuple[float, ...], height: float) -> None:
    from PIL import Image

    left, below, width, tall = place
    axes = _axes(figure, left, height - below + OVER, (width, tall), height)
    with Image.open(grid.path) as image:
        axes.imshow(image.convert("RGB"), aspect="auto", interpolation="bicubic")
    axes.set_axis_off()
    scores, colour = (
        (grid.group.scores, colour_of(comparison, grid.group.method)) if grid.group else (comparison.base, INK)
    )
    shown = [name for name in (*comparison.rewards, comparison.diversity) if name in scores]
    says = "   ".join(f"{name.partition('/')[2]} {scores[name].value.mean:#.3g}" for name in shown)
    size = min(10, 200 / len(grid.title))  # a long title leaves the scores their room
    axes.set_title(grid.title, fontsize=size, fontweight="bold", color=colour, pad=6)
    axes.annotate(says, (1, 1), (0, 7), "axes fraction", "offset points", ha="right", fontsize=8.5, color=QUIET)
    if left < MARGIN + ROW_LABELS + 0.01:  # the column at the left
        _row_labels(axes, grid.prompts)


def _row_labels(axes: Any, prompts: Sequence[str]) -> None:
    style = {"xycoords": "axes fraction", "ha": "right", "va": "center", "fontsize": 8.5, "color": INK}
    for row, prompt in enumerate(prompts):
        at = (-0.02, 1 - (row + 0.5) / len(prompts))
        axes.annotate(fill(shorten(prompt, 60, placeholder=" …"), 20), at, **style)
