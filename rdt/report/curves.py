"""The training curves of report.html: a small picture per metric, with a line in its own dashes for every run."""

import csv
import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rdt.report.compare import Comparison
from rdt.report.scatter import varied_settings
from rdt.report.style import mark_of
from rdt.report.text import number

CURVES = 12  # at most, per comparison; metrics.csv holds all of them
LEADING = ("train/reward", "train/kl_nats", "eval/hacking_gap")  # the curves that are drawn first
WIDTH, HEIGHT, POINTS = 320, 150, 150  # pixels of a curve, and at most how many points it has
LEAST = 0.05  # of the largest value: an axis spans at least that, so that noise does not look like a trend
DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "12 4")  # what tells the runs of a method apart
NAMED = 12  # with more runs the legend names methods alone
Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Traced:
    """Holds the curves of a run by metric, and how they are drawn."""

    name: str
    colour: str
    dash: str
    lines: dict[str, Line]


def curves_html(comparison: Comparison) -> str:
    """Return the section of the curves, those of LEADING first and the others by name; empty if there are none."""
    traced = _traced(comparison)
    names = {name for one in traced for name in one.lines}
    shown = [name for name in LEADING if name in names] + sorted(names.difference(LEADING))
    if not shown:
        return ""
    drawn = "".join(_curve(name, [one for one in traced if name in one.lines]) for name in shown[:CURVES])
    left = f'<p class="quiet">{len(shown) - CURVES} more metrics are in metrics.csv.</p>' if len(shown) > CURVES else ""
    return f'<h2>Training</h2>{_legend(traced)}<div class="curves">{drawn}</div>{left}'


def _traced(comparison: Comparison) -> list[Traced]:
    """Return the curves of every run; the runs of a method share its colour and differ in their dashes."""
    varied, counts = varied_settings(comparison.runs), dict.fromkeys(comparison.methods, 0)
    found = []
    for run in comparison.runs:
        method = run.result.method
        name = f"{method} {varied[run.path]}".strip() + f", seed {run.result.seed}"
        dash, counts[method] = DASHES[counts[method] % len(DASHES)], counts[method] + 1
        found.append(Traced(name, mark_of(comparison, method).colour, dash, read_curves(run.path / "metrics.csv")))
    return found


def _legend(traced: list[Traced]) -> str:
    """Return the names of the runs with their lines; empty if there are too many to tell apart."""
    if len(traced) > NAMED:
        return f'<p class="quiet">{len(traced)} runs; the pointer over a line names its run.</p>'
    items = "".join(
        f'<li><svg width="30" height="8" aria-hidden="true"><path d="M0 4H30" stroke="{one.colour}" stroke-width="2" '
        f'stroke-dasharray="{one.dash}"/></svg>{escape(one.name)}</li>'
        for one in traced
    )
    return f'<ul class="legend">{items}</ul>'


def read_curves(path: Path) -> dict[str, Line]:
    """Return (iteration, value) by column of a metrics.csv, thinned.

    Cells without a finite number are left out, and so is all from the first row that is not CSV.
    """
    curves: dict[str, Line] = defaultdict(list)
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            iteration = _finite(row.pop("iteration", None))
            for name, cell in row.items():
                value = _finite(cell)
                if name and iteration is not None and value is not None:
                    curves[name].append((iteration, value))
    return {name: _thinned(line) for name, line in curves.items() if len(line) > 1}


def _finite(cell: str | None) -> float | None:
    """Return the number in a cell, None if it holds no finite one."""
    try:
        value = float(cell or "")
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _thinned(line: Line) -> Line:
    """Return at most POINTS points, each the mean of neighbours."""
    size = math.ceil(len(line) / POINTS)
    parts = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _curve(name: str, traced: list[Traced]) -> str:
    """Return the picture of a metric."""
    xs, ys = zip(*(pair for one in traced for pair in one.lines[name]), strict=True)
    x0, x1, (y0, y1) = min(xs), max(xs), _span(min(ys), max(ys))
    across, drawn = (x1 - x0) or 1.0, ""
    for one in traced:
        places = [(52 + (x - x0) / across * 258, 114 - (y - y0) / (y1 - y0) * 100) for x, y in one.lines[name]]
        at, last = " ".join(f"{x:.1f},{y:.1f}" for x, y in places), number(one.lines[name][-1][1])
        drawn += (
            f'<polyline fill="none" stroke="{one.colour}" stroke-width="1.6" stroke-dasharray="{one.dash}" '
            f'points="{at}"><title>{escape(one.name)}: {last} at the end</title></polyline>'
        )
    middle = [(181, 145, "middle", "iteration")]
    marks = [(48, 118, "end", number(y0)), (48, 18, "end", number(y1)), (52, 130, "start", f"{x0:.0f}")]
    marks += [(310, 130, "end", f"{x1:.0f}"), *middle]
    words = "".join(f'<text x="{x}" y="{y}" text-anchor="{side}">{escape(word)}</text>' for x, y, side, word in marks)
    frame = '<path class="frame" d="M52 14H310M52 64H310M52 114H310"/>'
    label = f"{escape(name)} over iterations {x0:.0f} to {x1:.0f}, from {number(min(ys))} to {number(max(ys))}"
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{frame}{drawn}{words}</svg>'
    return f'<figure class="curve"><figcaption>{escape(name)}</figcaption>{picture}</figure>'


def _span(least: float, most: float) -> tuple[float, float]:
    """Return the ends of an axis around values from `least` to `most`."""
    short = LEAST * max(abs(least), abs(most)) - (most - least)
    pad = max(short / 2, 0.0) or (0.5 if most == least else 0.0)
    return least - pad, most + pad
