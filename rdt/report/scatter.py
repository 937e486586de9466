"""The interactive scatter of report.html: two axis selectors, a legend that hides methods, and its data."""

import json
from html import escape
from typing import Any

from rdt.report.fronts import Comparison
from rdt.report.panel import INK, colour_of
from rdt.report.records import Score
from rdt.report.text import short


def scatter_html(comparison: Comparison, name: str) -> str:
    """The box that page.js fills; name is its id."""
    points = _points(comparison)
    scores = list(dict.fromkeys(score for point in points for score in point["scores"]))
    x, y = short(comparison.diversity), short(comparison.rewards[-1]) if comparison.rewards else scores[0]
    hues = [(method, colour_of(comparison, method)) for method in comparison.methods]
    keys = "".join(
        f'<button type="button" data-method="{escape(method)}" style="--hue:{hue}"><span class="dot"></span>'
        f"{escape(method)}</button>"
        for method, hue in hues
    )
    choices = f"<label>across {_select(scores, x)}</label><label>up {_select(scores, y)}</label>"
    data = json.dumps({"id": name, "points": points, "curves": _curves(comparison)}).replace("<", "\\u003c")
    return (
        f'<div class="scatter" id="{name}">{choices}'
        f'<div class="keys">{keys}</div><div class="plot"></div><div class="tip" hidden></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def _select(names: list[str], chosen: str) -> str:
    options = "".join(f"<option{' selected' * (name == chosen)}>{escape(name)}</option>" for name in names)
    return f"<select>{options}</select>"


def _points(comparison: Comparison) -> list[dict[str, Any]]:
    points = [_point("base", "base", "", INK, comparison.base)]
    for group in comparison.groups:
        hue, several = colour_of(comparison, group.method), len(group.points) > 1
        mean = (
            f"{group.name} · mean of {len(group.points)} seeds"
            if several
            else f"{group.name} · seed {group.runs[0].seed}"
        )
        points.append(_point("mean", mean, group.method, hue, group.scores))
        for run, point in zip(group.runs, group.points, strict=True):
            if several:
                points.append(_point("seed", f"{group.name} · seed {run.seed}", group.method, hue, point.scores))
    return points


def _point(kind: str, name: str, method: str, colour: str, scores: dict[str, Score]) -> dict[str, Any]:
    values = {short(key): [s.value.mean, s.value.lo, s.value.hi] for key, s in scores.items()}
    return {"kind": kind, "name": name, "method": method, "colour": colour, "scores": values}


def _curves(comparison: Comparison) -> list[dict[str, Any]]:
    """The limit in every plane that has one: as measured (solid), exact (dashed), and under KL alone (dotted)."""
    curves = []
    for reward in comparison.rewards:
        for kind, exact, dash in (("frontier", False, ""), ("frontier", True, "6 4"), ("kl_frontier", False, "1 4")):
            curve = comparison.curve(reward, kind)
            if curve is not None:
                across = curve.exact if exact else curve.sampled
                pairs = [[float(d), float(u)] for d, u in zip(across, curve.reward, strict=True)]
                if kind == "frontier":  # at less reward the limit is as diverse as can be
                    pairs.insert(0, [pairs[0][0], pairs[0][1] - 99 * abs(pairs[-1][1] - pairs[0][1])])
                curves.append({"x": short(comparison.diversity), "y": short(reward), "dash": dash, "points": pairs})
    return curves
