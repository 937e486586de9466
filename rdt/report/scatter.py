"""The interactive scatter of report.html: two axis selectors, a legend that hides methods, and its data."""

import json
from html import escape
from typing import Any

from rdt.report.dots import COSTS, dots
from rdt.report.fronts import Comparison
from rdt.report.panel import colour_of
from rdt.report.text import short


def scatter_html(comparison: Comparison, name: str, pictures: dict[str, str]) -> str:
    """The box that page.js fills; name is its id, pictures are the ids of the page's grids by group, "" the base's."""
    points = dots(comparison, pictures)
    scores = sorted(dict.fromkeys(score for point in points for score in point["scores"]), key=COSTS.__contains__)
    x, y = short(comparison.diversity), short(comparison.rewards[-1]) if comparison.rewards else scores[0]
    hues = [(method, colour_of(comparison, method)) for method in comparison.methods]
    keys = "".join(
        f'<button type="button" data-method="{escape(method)}" style="--hue:{hue}"><span class="dot"></span>'
        f"{escape(method)}</button>"
        for method, hue in hues
    )
    choices = f"<label>across {_select(scores, x)}</label><label>up {_select(scores, y)}</label>"
    record = {"id": name, "points": points, "curves": _curves(comparison), "better": _better(comparison)}
    data = json.dumps(record).replace("<", "\\u003c")
    return (
        f'<div class="scatter" id="{name}">{choices}'
        f'<div class="keys">{keys}</div><div class="plot"></div><div class="tip" hidden></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def _select(names: list[str], chosen: str) -> str:
    options = "".join(f"<option{' selected' * (name == chosen)}>{escape(name)}</option>" for name in names)
    return f"<select>{options}</select>"


def _better(comparison: Comparison) -> dict[str, int]:
    """1 for what is the better the more there is of it, -1 for what is paid; what has no better side is left out."""
    names = dict.fromkeys(
        name for scores in (comparison.base, *(g.scores for g in comparison.groups)) for name in scores
    )
    gained = {short(name): 1 for name in names if name.startswith(("reward/", "diversity/"))}
    return gained | dict.fromkeys((short("kl_nats"), *COSTS), -1)


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
