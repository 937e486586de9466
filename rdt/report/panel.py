"""Draws one plane of a comparison with matplotlib: the base, the limit, the named quadrants, and every group."""

from typing import Any

import numpy as np

from rdt.pareto import Interval, front
from rdt.report.compare import Comparison, Group
from rdt.report.path import paths_of
from rdt.report.planes import Plane, spot
from rdt.report.style import BEYOND, FAINT, INK, MARKERS, QUIET, Mark, mark_of
from rdt.report.text import short, unit
from rdt.result import Score
from rdt.text import folded

LONGEST = 80  # characters of a name in the picture
LETTER, LINE = 4.1, 9.5  # points that a letter of a label is wide and a line of it high
AROUND = ((7, 4), (7, -10), (-7, 4), (-7, -10), (0, 9), (0, -15))  # where a label may stand, in points from its point
Corners = tuple[float, float, float, float]  # left, bottom, right and top, in points


def draw_plane(axes: Any, comparison: Comparison, plane: Plane, absolute: bool) -> None:
    """Draw a plane with its frame and title."""
    _frame(axes, comparison, plane, absolute)
    _limit(axes, comparison, plane, absolute)
    if not absolute:
        _quadrants(axes, plane)
        _paths(axes, comparison, plane)
    for method in comparison.methods:
        _method(axes, comparison, plane, method, absolute)
    start = _both(comparison, comparison.base, plane, absolute)
    if start is not None:
        _crosses(axes, [start], INK, "D", filled=True)
    _labels(axes, comparison, plane, absolute)
    axes.set_xlabel(f"{_axis(plane.across, absolute)}  →", labelpad=4)
    axes.set_ylabel(f"{_axis(plane.up, absolute)}  →", labelpad=3)
    axes.set_title(folded(plane.title(absolute), LONGEST), fontweight="bold", fontsize=10, pad=20)
    style = {"ha": "left", "color": QUIET, "fontsize": 8.5}
    axes.annotate(_role(comparison, plane.up), (0, 1), (0, 8), "axes fraction", "offset points", **style)


def _axis(name: str, absolute: bool) -> str:
    """Return the name of an axis with its unit."""
    return folded(f"{'' if absolute else 'Δ '}{short(name)}{unit(name)}", LONGEST)


def _role(comparison: Comparison, reward: str) -> str:
    """Return what a reward is to the runs: what they were trained on, what is to be gained, or a judge."""
    name = reward.partition("/")[2]
    if name in {run.result.reward for run in comparison.runs}:
        return "what is optimised"
    return "what is wanted" if name == (comparison.limit or {}).get("reward") else "a judge"


def _both(
    comparison: Comparison, scores: dict[str, Score], plane: Plane, absolute: bool
) -> tuple[Interval, Interval] | None:
    """Return where scores lie across and up; None if one of them is missing."""
    across, up = (spot(comparison, scores, name, absolute) for name in (plane.across, plane.up))
    return None if across is None or up is None else (across, up)


def _placed(
    comparison: Comparison, plane: Plane, absolute: bool, method: str = ""
) -> list[tuple[Group, tuple[Interval, Interval]]]:
    """Return the groups of a method, or of all, that have both scores, and where they lie."""
    groups = [group for group in comparison.groups if method in ("", group.method)]
    found = [(group, _both(comparison, group.scores, plane, absolute)) for group in groups]
    return [(group, at) for group, at in found if at is not None]


def _frame(axes: Any, comparison: Comparison, plane: Plane, absolute: bool) -> None:
    """Fit the axes to all intervals and the base, which keeps the limit outside unless it is near."""
    places = [at for _, at in _placed(comparison, plane, absolute)]
    start = _both(comparison, comparison.base, plane, absolute)
    places += [start] if start is not None else []
    if not absolute:
        steps = [step for path in paths_of(comparison) for step in path.along(plane.across, plane.up)]
        places += [(Interval(x, x, x), Interval(y, y, y)) for x, y in steps]
    for side, fit in enumerate((axes.set_xlim, axes.set_ylim)):
        bounds = [bound for at in places for bound in (at[side].lo, at[side].hi)] or [0.0, 1.0]
        pad = max(0.14 * (max(bounds) - min(bounds)), 1e-6)
        fit(min(bounds) - pad, max(bounds) + pad)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4, labelsize=8)
    axes.locator_params(nbins=5)
    axes.ticklabel_format(useOffset=False)


def _quadrants(axes: Any, plane: Plane) -> None:
    """Draw the lines through the base and write into the corners what the quadrants mean."""
    axes.axhline(0, color=QUIET, linewidth=0.9, zorder=1.4)
    axes.axvline(0, color=QUIET, linewidth=0.9, zorder=1.4)
    corners = ((0.985, 0.975), (0.015, 0.975), (0.985, 0.025), (0.015, 0.025))
    for (x, y), words in zip(corners, plane.quadrants, strict=True):
        sides = {"ha": "right" if x > 0.5 else "left", "va": "top" if y > 0.5 else "bottom"}
        style = {"fontsize": 7, "color": QUIET, "style": "italic", "zorder": 1.5, "linespacing": 1.1}
        axes.text(x, y, folded(words, 26), transform=axes.transAxes, **sides, **style)


def _paths(axes: Any, comparison: Comparison, plane: Plane) -> None:
    """Draw the paths of the trainings, thin and with small dots, so far as they lie inside the frame."""
    for path in paths_of(comparison):
        steps = path.along(plane.across, plane.up)
        colour = mark_of(comparison, path.run.result.method).colour
        if steps:
            style = {"color": colour, "alpha": 0.45, "zorder": 1.8}
            axes.plot(*zip(*steps, strict=True), "-o", linewidth=0.8, markersize=2.4, markeredgewidth=0, **style)


def _limit(axes: Any, comparison: Comparison, plane: Plane, absolute: bool) -> None:
    """Draw the limit as measured and exact and shade what lies beyond it, or point at it if it is outside."""
    curve = comparison.curve(plane.up) if plane.across == comparison.diversity else None
    if curve is None:
        return
    origin = [0.0, 0.0] if absolute else [comparison.base[name].value.mean for name in (plane.across, plane.up)]
    exact, sampled, reward = curve.exact - origin[0], curve.sampled - origin[0], curve.reward - origin[1]
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    level = [min(y0, reward[0]), *reward, reward[-1], max(y1, reward[-1])]
    edge = [sampled[0], *sampled, x0, x0]
    axes.fill_betweenx(level, edge, max(x1, *edge), color=BEYOND, linewidth=0, zorder=0.4)
    axes.plot(edge[:-2], level[:-2], color=QUIET, linewidth=1.5, zorder=1.6)
    axes.plot(exact, reward, color=QUIET, linewidth=1.1, dashes=(4, 2.5), zorder=1.6)
    kl = comparison.curve(plane.up, "kl_frontier")
    if kl is not None:
        axes.plot(kl.sampled - origin[0], kl.reward - origin[1], color=QUIET, linewidth=1.1, linestyle=":", zorder=1.6)
    if not np.any((sampled > x0) & (sampled < x1) & (reward > y0) & (reward < y1)):
        style = {"ha": "right", "va": "center", "fontsize": 7.5, "color": QUIET}
        axes.text(0.985, 0.88, "limit →", transform=axes.transAxes, **style)


def _method(axes: Any, comparison: Comparison, plane: Plane, method: str, absolute: bool) -> None:
    """Draw the groups of a method, hollow if another one or the base dominates them; a line joins the others."""
    placed, mark = _placed(comparison, plane, absolute, method), mark_of(comparison, method)
    if not placed:
        return
    means = np.array([[x.mean, y.mean] for _, (x, y) in placed])
    start = _both(comparison, comparison.base, plane, absolute)
    origin = np.array([[one.mean for one in start]] if start is not None else []).reshape(-1, 2)
    whole = np.concatenate([means, origin])
    filled = front(whole)
    if plane.across == comparison.diversity:
        line = whole[filled]
        axes.plot(*line[np.argsort(line[:, 0])].T, color=mark.colour, linewidth=1.4, alpha=0.5, zorder=2.5)
    for group, _ in placed:
        if len(group.points) > 1:
            _seeds(axes, comparison, plane, group, absolute)
    pairs = list(zip(placed, filled[: len(placed)], strict=True))
    for full in (True, False):
        chosen = [at for (_, at), on in pairs if bool(on) == full]
        _crosses(axes, chosen, mark.colour, MARKERS[mark.shape], full)


def _seeds(axes: Any, comparison: Comparison, plane: Plane, group: Group, absolute: bool) -> None:
    """Draw the seeds of a group as small dots."""
    mark: Mark = mark_of(comparison, group.method)
    seeds = [at for point in group.points if (at := _both(comparison, point.scores, plane, absolute)) is not None]
    dots = [[one.mean for one in side] for side in zip(*seeds, strict=True)]
    if dots:
        axes.plot(*dots, "o", color=mark.colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=2.6)


def _crosses(axes: Any, places: list[tuple[Interval, Interval]], colour: str, marker: str, filled: bool) -> None:
    """Draw points with their two intervals, all in one call, because each call takes matplotlib 10 ms."""
    if not places:
        return
    sides = [np.array([[one.mean, one.lo, one.hi] for one in side]).T for side in zip(*places, strict=True)]
    (x, *_), (y, *_) = sides
    errors = [np.stack([mean - lo, hi - mean]) for mean, lo, hi in sides]
    face, edge = (colour, "white") if filled else ("white", colour)
    dot: dict[str, Any] = {"markersize": 7, "markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 0.9}
    style = {"color": colour, "ecolor": colour, "elinewidth": 1.1, "capsize": 0, "zorder": 3}
    axes.errorbar(x, y, xerr=errors[0].clip(0), yerr=errors[1].clip(0), fmt=marker, **dot, **style)


def _labels(axes: Any, comparison: Comparison, plane: Plane, absolute: bool) -> None:
    """Write the settings of the groups beside their points, so far as there is room for them."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    placed = _placed(comparison, plane, absolute)
    points = [_in_points(axes, at) for _, at in placed]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for (group, at), point in zip(placed, points, strict=True):
        words = folded(f"{group.setting}{' (hacked)' if group.hacked else ''}", LONGEST)
        room = _room(axes, words, point, taken)
        if words.strip() and room is not None:
            taken.append(room[0])
            style = {"fontsize": 7.5, "color": INK, "zorder": 4, "path_effects": halo, "ha": room[2]}
            axes.annotate(words, (at[0].mean, at[1].mean), room[1], textcoords="offset points", **style)


def _in_points(axes: Any, at: tuple[Interval, Interval]) -> tuple[float, float]:
    x, y = axes.transData.transform((at[0].mean, at[1].mean)) * 72 / axes.figure.dpi
    return float(x), float(y)


def _room(
    axes: Any, words: str, point: tuple[float, float], taken: list[Corners]
) -> tuple[Corners, tuple[float, float], str] | None:
    """Return the first free place beside a point: its corners, its offset, and its side; None if none is free."""
    x0, y0, x1, y1 = axes.get_window_extent().extents * 72 / axes.figure.dpi
    for dx, dy in AROUND:
        side = "left" if dx > 0 else "right" if dx < 0 else "center"
        width = LETTER * len(words)
        left = point[0] + dx - width * {"left": 0.0, "right": 1.0, "center": 0.5}[side]
        box = (left, point[1] + dy, left + width, point[1] + dy + LINE)
        inside = box[0] > x0 and box[2] < x1 + 4 and box[1] > y0 and box[3] < y1
        if inside and not any(_overlap(box, other) for other in taken):
            return box, (dx, dy), side
    return None


def _overlap(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
