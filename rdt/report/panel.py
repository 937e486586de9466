"""One panel of front.png: a reward against diversity, with the limit, the fronts and every point's interval."""

from typing import Any

import numpy as np

from rdt.pareto import front
from rdt.report.fronts import Comparison, Group
from rdt.result import Score

INK, QUIET, FAINT, BEYOND = "#1d2733", "#6b7684", "#e6e9ee", "#f1f2f5"
COLOURS = ("#0b6fb8", "#d1501f", "#12906b", "#8e5bb5", "#c58a00", "#c2407e", "#3a97c9", "#7a6a4f")
LABELLED = 14  # groups in a panel, past which their settings are left to the table


def colour_of(comparison: Comparison, method: str) -> str:
    """The colour of a method, the same in every picture of one report."""
    return COLOURS[comparison.methods.index(method) % len(COLOURS)]


def draw_panel(axes: Any, comparison: Comparison, reward: str, title: str) -> None:
    """Fill the axes; x is the comparison's diversity, y the reward."""
    _frame(axes, comparison, reward)
    _limit(axes, comparison, reward)
    for method in comparison.methods:
        _front(axes, comparison, method, reward)
    if {reward, comparison.diversity} <= set(comparison.base):
        _cross(axes, comparison.base[comparison.diversity], comparison.base[reward], INK, "D", True)
    name = comparison.diversity.partition("/")[2]
    axes.set_xlabel(f"{name}  →  more diverse", labelpad=5)
    axes.set_title(reward.partition("/")[2], fontweight="bold", fontsize=11, pad=9)
    axes.annotate(title, (1, 1), (0, 9), "axes fraction", "offset points", ha="right", color=QUIET, fontsize=8.5)


def _frame(axes: Any, comparison: Comparison, reward: str) -> None:
    """Limits around everything measured, with room for the labels; the limit is shown as far as it comes near."""
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
    """Every group of a method, hollow where its front or the base dominates it; a line joins base and front."""
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
    x, y = across.value, up.value
    bars = {"xerr": [[x.mean - x.lo], [x.hi - x.mean]], "yerr": [[y.mean - y.lo], [y.hi - y.mean]]}
    axes.errorbar(
        x.mean, y.mean, **bars, fmt=marker, color=colour, ecolor=colour, elinewidth=1.1, capsize=0, markersize=7,
        markerfacecolor=colour if filled else "white", markeredgecolor="white" if filled else colour,
        markeredgewidth=0.9, zorder=3,
    )  # fmt: skip


def _label(axes: Any, group: Group, comparison: Comparison, reward: str, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    at = (group.scores[comparison.diversity].value.mean, group.scores[reward].value.mean)
    axes.annotate(
        group.setting, at, (6, 5), textcoords="offset points", fontsize=7.5, color=colour, zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.85)],
    )  # fmt: skip
