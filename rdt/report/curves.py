"""Training curves: metrics.csv read, thinned and drawn as inline SVG."""

import csv
import math
from collections import defaultdict
from html import escape
from pathlib import Path

from rdt.report.text import number

STEPS = ("iteration", "step", "epoch")  # columns that count, the first one present is the x axis
LEADING = ("train/reward", "train/kl_nats", "train/loss")
WIDTH, HEIGHT, MOST = 300, 120, 150  # pixels, and points of a line
Line = list[tuple[float, float]]


def read_curves(path: Path) -> dict[str, Line]:
    """(iteration, value) by column of a metrics.csv; cells that are no finite number are left out."""
    curves: dict[str, Line] = defaultdict(list)
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file)
        step = next((name for name in STEPS if name in (rows.fieldnames or ())), None)
        for index, row in enumerate(rows):
            at = _value(row.get(step)) if step else float(index)
            for name, cell in row.items():
                value = _value(cell)
                if name and name not in STEPS and at is not None and value is not None:
                    curves[name].append((at, value))
    return {name: _thinned(line) for name, line in curves.items() if len(line) > 1}


def names_of(curves: list[dict[str, Line]]) -> list[str]:
    """Every curve's name, those that tell most first."""
    names = dict.fromkeys(name for curve in curves for name in curve)
    return [n for n in LEADING if n in names] + sorted(n for n in names if n not in LEADING)


def curve_svg(name: str, lines: list[tuple[Line, str]]) -> str:
    """One small picture of a metric: a line in its colour for every run."""
    xs, ys = zip(*(pair for line, _ in lines for pair in line), strict=True)
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    across, up = (x1 - x0) or 1.0, (y1 - y0) or 1.0
    paths = "".join(
        '<polyline fill="none" stroke="{}" stroke-width="1.4" stroke-opacity=".8" points="{}"/>'.format(
            colour,
            " ".join(f"{46 + (x - x0) / across * 244:.1f},{104 - (y - y0) / up * 92:.1f}" for x, y in line),
        )
        for line, colour in lines
    )
    marks = [(42, 107, "end", number(y0)), (42, 16, "end", number(y1)), (46, 118, "start", f"{x0:.0f}"),
             (290, 118, "end", f"{x1:.0f}")]  # fmt: skip
    words = "".join(f'<text x="{x}" y="{y}" text-anchor="{a}">{escape(word)}</text>' for x, y, a, word in marks)
    frame = '<path class="frame" d="M46 12H290M46 58H290M46 104H290"/>'
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{frame}{paths}{words}</svg>'
    return f'<figure class="curve"><figcaption>{escape(name)}</figcaption>{picture}</figure>'


def _value(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _thinned(line: Line) -> Line:
    """At most MOST points, each the mean of its stretch."""
    size = math.ceil(len(line) / MOST)
    stretches = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in stretches]
