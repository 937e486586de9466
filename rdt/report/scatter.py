"""The interactive scatter of report.html: any quantity against any other, drawn by page.js from the data below.

Hovering over a point shows what was varied, its values, the command that repeats the run, and its samples.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from rdt.config.keys import override_key
from rdt.report.columns import TableRow, columns_of, summary_rows
from rdt.report.compare import Comparison
from rdt.report.figure import INK, colour_of
from rdt.report.read import Run
from rdt.report.text import short

NAMED = ("seed", "method", "output_dir")  # overrides that the name of a point states, or that change no score
CURVES = (("frontier", False, ""), ("frontier", True, "6 4"), ("kl_frontier", False, "1 4"))  # kind, exact, dashes


def scatter_html(comparison: Comparison, name: str, pictures: dict[str, str]) -> str:
    """Return the box that page.js fills; `name` is its id, `pictures` the ids of grids by group, "" for the base's."""
    points, columns = scatter_points(comparison, pictures), columns_of(comparison, "page scatter")
    known = {title for point in points for title in point["scores"]}
    axes = {column.title: column.better for column in columns if column.title in known}
    x = short(comparison.diversity)
    y = short(comparison.rewards[-1]) if comparison.rewards else next(iter(axes), "")
    keys = "".join(
        f'<button type="button" data-method="{escape(method)}" style="--hue:{colour_of(comparison, method)}">'
        f'<span class="dot"></span>{escape(method)}</button>'
        for method in comparison.methods
    )
    better = {title: sign for title, sign in axes.items() if sign}
    record = {"id": name, "points": points, "curves": _curves(comparison), "better": better}
    data = json.dumps(record).replace("<", "\\u003c")
    return (
        f'<div class="scatter" id="{name}">'
        f"<label>across {_select(list(axes), x)}</label><label>up {_select(list(axes), y)}</label>"
        f'<div class="keys">{keys}</div><div class="plot"></div><div class="tip" hidden></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def scatter_points(comparison: Comparison, pictures: dict[str, str]) -> list[dict[str, Any]]:
    """Return the base, every group, and the seeds of a group that has several."""
    columns, varied = columns_of(comparison, "page scatter"), _varied(comparison.runs)
    points = []
    for row in summary_rows(comparison):
        found = {column.title: score.value for column in columns if (score := column.value(row)) is not None}
        values = {title: [value.mean, value.lo, value.hi] for title, value in found.items()}
        points.append(_described(comparison, row, varied, pictures) | {"scores": values})
    return points


def _described(
    comparison: Comparison, row: TableRow, varied: dict[Path, str], pictures: dict[str, str]
) -> dict[str, Any]:
    """Return what a point is: its kind, name, method and colour, its settings and command, and its samples."""
    group, run, seeds = row.group, row.runs[0], len(row.runs)
    if group is None:
        return {"kind": "base", "name": "base", "method": "", "colour": INK, "grid": pictures.get("")}
    over = f"mean of {seeds} seeds" if seeds > 1 else f"seed {run.result.seed}"
    return {
        "kind": "seed" if row.kind == "point" else "mean",
        "name": f"{group.name} · {over}",
        "method": group.method,
        "colour": colour_of(comparison, group.method),
        "config": varied[run.path] or group.setting,
        "command": run.command,
        "grid": pictures.get(group.name),
        "drawn": f"samples of seed {group.runs[0].result.seed}" if len(group.runs) > 1 else "",
    }


def _varied(runs: tuple[Run, ...]) -> dict[Path, str]:
    """Return, by run, the overrides that not all of the others share."""
    typed = {run.path: run.overrides or [] for run in runs}
    shared = set.intersection(*map(set, typed.values()))
    return {
        path: "  ".join(word for word in words if word not in shared and override_key(word) not in NAMED)
        for path, words in typed.items()
    }


def _select(names: list[str], chosen: str) -> str:
    options = "".join(f"<option{' selected' * (name == chosen)}>{escape(name)}</option>" for name in names)
    return f"<select>{options}</select>"


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
