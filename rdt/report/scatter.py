"""The plots of report.html: the planes of the differences to the base, and any quantity against any other.

page.js draws them from the data below. A click on a point pins its values, its command and its samples beside the
base's.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from rdt.config.keys import override_key
from rdt.pareto import Interval
from rdt.report.columns import Column, TableRow, columns_of, summary_rows
from rdt.report.compare import Comparison, Group
from rdt.report.knobs import knobs_of
from rdt.report.path import TRAINING, Trail, paths_of
from rdt.report.planes import Plane, planes_of, spot
from rdt.report.read import Run
from rdt.report.style import mark_html, mark_of
from rdt.report.text import short, unit

NAMED = ("seed", "method", "output_dir")  # overrides that the name of a point states, or that change no score
CURVES = (("frontier", False, ""), ("frontier", True, "6 4"), ("kl_frontier", False, "1 4"))  # kind, exact, dashes
UNITS = {"seconds": "s"}  # of what is no score


def planes_html(comparison: Comparison, name: str) -> str:
    """Return the planes of the first figure with their switch, legend and room for pinned points."""
    planes = "".join(_plane_html(plane, place) for place, plane in enumerate(planes_of(comparison)))
    views = "".join(
        f'<button type="button" data-view="{view}" aria-pressed="{pressed}">{words}</button>'
        for view, pressed, words in (
            ("difference", "true", "difference to the base"),
            ("absolute", "false", "absolute values"),
        )
    )
    return (
        f'<div class="chart" data-for="{name}"><div class="bar">'
        f'<div class="switch" role="group" aria-label="values">{views}</div>{_keys(comparison)}</div>'
        '<div class="bar knob" hidden><label>knob <select></select></label>'
        '<label>value <input type="range" min="0" step="1"> <output></output></label></div>'
        f'<div class="planes">{planes}</div><div class="pins" tabindex="-1" aria-live="polite" hidden></div>'
        f'<div class="tip" role="status" hidden></div></div>'
    )


def _plane_html(plane: Plane, place: int) -> str:
    title = escape(f"{short(plane.up)} against {short(plane.across)}")
    return (
        f'<figure><figcaption>{title}</figcaption><div class="plot" data-plane="{place}"></div>'
        f'<button type="button" class="svg" data-file="plane{place}" '
        f'aria-label="save {title} as SVG">SVG</button></figure>'
    )


def scatter_html(comparison: Comparison, name: str, pictures: dict[str, str]) -> str:
    """Return the plot of any score against any other, and the data of all plots.

    `name` is the id of the comparison, `pictures` the ids of grids by group, "" for the base's.
    """
    points = scatter_points(comparison, pictures)
    known = {title for point in points for title in point["scores"]}
    columns = [column for column in columns_of(comparison, "page scatter") if column.title in known]
    axes = [column.title for column in columns]
    x = short(comparison.diversity)
    y = short(comparison.rewards[-1]) if comparison.rewards else next(iter(axes), "")
    data = json.dumps(_record(comparison, name, points, columns)).replace("<", "\\u003c")
    return (
        f'<div class="chart" data-for="{name}"><div class="bar">'
        f"<label>across {_select(axes, x)}</label><label>up {_select(axes, y)}</label>{_keys(comparison)}</div>"
        f'<figure class="free"><div class="plot"></div>'
        f'<button type="button" class="svg" data-file="scatter" aria-label="save the plot as SVG">SVG</button></figure>'
        f'<script type="application/json" data-chart>{data}</script></div>'
    )


def _record(comparison: Comparison, name: str, points: list[dict[str, Any]], columns: list[Column]) -> dict[str, Any]:
    """Return the data of a comparison's plots."""
    planes = [{"x": short(p.across), "y": short(p.up), "names": p.quadrants} for p in planes_of(comparison)]
    units = {c.title: found for c in columns if (found := UNITS.get(c.name, unit(c.name).strip()))}
    return {
        "id": name, "points": points, "curves": _curves(comparison), "planes": planes, "units": units,
        "rewards": [short(reward) for reward in comparison.rewards],
        "knobs": [{"title": k.title, "values": k.values, "groups": k.groups} for k in knobs_of(comparison)],
        "trails": [_trail(comparison, path) for path in paths_of(comparison)],
        "better": {column.title: column.better for column in columns if column.better},
        "plain": [column.title for column in columns if not column.spread],  # of which the base has 0
    }  # fmt: skip


def _trail(comparison: Comparison, path: Trail) -> dict[str, Any]:
    """Return the path of a training by score, from the base on."""
    method = path.run.result.method
    gains = {name: [0.0, *values] for name, values in path.gains.items()}
    return {"method": method, "colour": mark_of(comparison, method).colour, "gains": gains}


def _keys(comparison: Comparison) -> str:
    """Return the legend: a button for each method that hides it."""
    keys = "".join(
        f'<button type="button" data-method="{escape(method)}" aria-pressed="true">'
        f"{mark_html(comparison, method)}{escape(method)}</button>"
        for method in comparison.methods
    )
    limit = any(comparison.curve(reward) is not None for reward in comparison.rewards)
    lines = '<span class="quiet">grey: the limit, dashed exact</span>' if limit else ""
    lines += f'<span class="quiet">thin: {TRAINING}</span>' if paths_of(comparison) else ""
    return f'<div class="keys">{mark_html(comparison, None)}base {keys}{lines}</div>'


def scatter_points(comparison: Comparison, pictures: dict[str, str]) -> list[dict[str, Any]]:
    """Return the base, every group, and the seeds of a group that has several."""
    columns, varied = columns_of(comparison, "page scatter"), varied_settings(comparison.runs)
    points = []
    for row in summary_rows(comparison):
        found = {column: score.value for column in columns if (score := column.value(row)) is not None}
        changed = {column: _changed(comparison, column, row, value) for column, value in found.items()}
        values = {
            "scores": {column.title: _bounds(value) for column, value in found.items()},
            "diffs": {column.title: _bounds(value) for column, value in changed.items() if value is not None},
        }
        points.append(_described(comparison, row, varied, pictures) | values)
    return points


def _changed(comparison: Comparison, column: Column, row: TableRow, value: Interval) -> Interval | None:
    """Return the paired difference to the base; a cost is its own, since the base cost nothing."""
    return spot(comparison, row.scores, column.name, absolute=False) if column.spread else value


def _bounds(value: Interval) -> list[float]:
    return [value.mean, value.lo, value.hi]


def _described(
    comparison: Comparison, row: TableRow, varied: dict[Path, str], pictures: dict[str, str]
) -> dict[str, Any]:
    """Return what a point is: its kind, name, method and mark, its settings and command, and its samples."""
    group, run, seeds = row.group, row.runs[0], len(row.runs)
    if group is None:
        base = {"kind": "base", "name": "base", "method": "", "group": ""}
        return base | {"shape": "diamond", "grid": pictures.get("")}
    over, mark = f"mean of {seeds} seeds" if seeds > 1 else f"seed {run.result.seed}", mark_of(comparison, group.method)
    return {
        "kind": "seed" if row.kind == "point" else "mean",
        "name": f"{group.name} · {over}",
        "method": group.method,
        "group": group.name,
        "setting": group.setting,
        "colour": mark.colour,
        "shape": "circle" if row.kind == "point" else mark.shape,
        "hacked": group.hacked,
        "verdict": verdict_of(comparison, group),
        "config": varied[run.path] or group.setting,
        "command": run.command,
        "grid": pictures.get(group.name),
        "drawn": f"samples of seed {group.runs[0].result.seed}" if len(group.runs) > 1 else "",
    }


def verdict_of(comparison: Comparison, group: Group) -> str:
    """Return in words what a group did to the rewards and the diversity, so far as the paired intervals exclude 0."""
    names = [name for name in (*comparison.rewards, comparison.diversity) if name in group.scores]
    words = [f"{short(name)} {_moved(group, name)}" for name in names]
    judged = "hacked: " if group.hacked else ""
    return f"{judged}{', '.join(words)}{' (one seed: on these prompts)' if len(group.runs) == 1 else ''}"


def _moved(group: Group, name: str) -> str:
    diff = group.scores[name].diff
    if diff is None or diff.lo <= 0 <= diff.hi:
        return "not told apart"
    return "up" if diff.mean > 0 else "down"


def varied_settings(runs: tuple[Run, ...]) -> dict[Path, str]:
    """Return, by run, the overrides that not all of the others share."""
    typed = {run.path: run.overrides or [] for run in runs}
    shared = set.intersection(*map(set, typed.values()))
    return {
        path: "  ".join(word for word in words if word not in shared and override_key(word) not in NAMED)
        for path, words in typed.items()
    }


def _select(names: list[str], chosen: str) -> str:
    options = "".join(f"<option{' selected' * (name == chosen)}>{escape(name)}</option>" for name in names)
    return f'<select class="axis">{options}</select>'


def _curves(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the limits of every reward: as measured (solid), exact (dashed), and under KL alone (dotted)."""
    curves = []
    for reward in comparison.rewards:
        for kind, exact, dash in CURVES:
            curve = comparison.curve(reward, kind)
            if curve is None:
                continue
            across = curve.exact if exact else curve.sampled
            pairs = [[float(d), float(u)] for d, u in zip(across, curve.reward, strict=True)]
            if kind == "frontier":  # at lower rewards the limit keeps the diversity of its first point
                pairs.insert(0, [pairs[0][0], pairs[0][1] - 99 * abs(pairs[-1][1] - pairs[0][1])])
            curves.append({"x": short(comparison.diversity), "y": short(reward), "dash": dash, "points": pairs})
    return curves
