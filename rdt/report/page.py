"""Builds report.html, one file that needs no network and no server.

It holds a card per group, the figure, an interactive scatter, the tables, the samples, the training curves and, for
every run, its command, cost, versions and config.
"""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rdt.report.columns import Column, TableRow, columns_of, group_row
from rdt.report.compare import Comparison
from rdt.report.figure import INK, colour_of
from rdt.report.grids import Grid, data_uri, embedded, grids_of
from rdt.report.read import Failure, Run
from rdt.report.scatter import scatter_html
from rdt.report.tables import tables_html
from rdt.report.text import difference, number, unit
from rdt.text import printable

GRIDS, CURVES = 200, 12  # at most, per comparison; the others stay in the run folders
FIGURE = (2080, 1_000_000)  # most pixels across and bytes of the figure: browsers are slow to parse long addresses
UNITS = {"seconds": (1, "s"), "peak_memory_bytes": (2**30, "GiB peak memory"), "tflop": (1, "TFLOP")}
LEADING = ("train/reward", "train/kl_nats")  # the curves that are drawn first
WIDTH, HEIGHT, POINTS = 300, 120, 150  # pixels of a curve, and at most how many points it has
Line = list[tuple[float, float]]


def report_html(comparisons: list[Comparison], failures: list[Failure], figure: Path) -> str:
    """Return the whole page; `figure` is the PNG below the cards."""
    assets = files("rdt.report")
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(f"Reward against diversity: {', '.join(methods)}"),
        subtitle=escape(_subtitle(comparisons)),
        style=(assets / "page.css").read_text("utf-8"),
        script=(assets / "page.js").read_text("utf-8"),
        body="\n".join(_body(comparisons, failures, figure)),
    )


def _subtitle(comparisons: list[Comparison]) -> str:
    runs = sum(len(comparison.runs) for comparison in comparisons)
    sets = [f"{c.model}, {c.n_prompts} held-out prompts × {c.n_per_prompt} images" for c in comparisons]
    return f"{runs} run{'s' * (runs != 1)} · {' · '.join(sets)} · intervals are 95 %, differences paired by prompt"


def _body(comparisons: list[Comparison], failures: list[Failure], figure: Path) -> Iterator[str]:
    if failures:
        items = "".join(f"<li><code>{escape(printable(f.path))}</code>: {escape(f.reason)}</li>" for f in failures)
        yield f'<section class="failed"><b>{len(failures)} failed</b><ul>{items}</ul></section>'
    if repeats := [repeat for comparison in comparisons for repeat in comparison.repeats]:
        items = "".join(f"<li>{escape(repeat.line)}</li>" for repeat in repeats)
        yield f"<section><b>{len(repeats)} repeated</b><ul>{items}</ul></section>"
    for comparison in comparisons:
        yield f'<div class="cards">{"".join(_card(comparison, group_row(g)) for g in comparison.groups)}</div>'
    yield f'<img class="hero" decoding="async" alt="Reward against diversity" src="{data_uri(figure, *FIGURE)}">'
    grids = [grids_of(comparison, GRIDS) for comparison in comparisons]
    for index, (comparison, own) in enumerate(zip(comparisons, grids, strict=True)):
        model = f" ({escape(comparison.model)})" if len(comparisons) > 1 else ""
        ids = {_key(grid): f"grid{index}-{place}" for place, grid in enumerate(own)}
        yield f"<h2>Any score against any other{model}</h2>{scatter_html(comparison, f'scatter{index}', ids)}"
        yield f"<h2>Scores{model}</h2>{tables_html(comparison)}"
        yield from _samples(comparison, own, ids, sum(map(len, grids)))
        yield from _training(comparison)
    runs = [run for comparison in comparisons for run in comparison.runs]
    yield f"<h2>Runs</h2>{''.join(_run(run, opened=len(runs) == 1) for run in runs)}"


def _card(comparison: Comparison, row: TableRow) -> str:
    """Return what a group gained and lost against the base."""
    assert row.group is not None
    columns = columns_of(comparison, "page cards")
    items = "".join(f"<dt>{escape(c.title)}</dt><dd>{gain}</dd>" for c in columns if (gain := _gain(c, row)))
    seeds = f' <span class="quiet">{len(row.runs)} seeds</span>' if len(row.runs) > 1 else ""
    hue = colour_of(comparison, row.group.method)
    return f'<div class="card" style="--hue:{hue}"><h3>{escape(row.group.name)}{seeds}</h3><dl>{items}</dl></div>'


def _gain(column: Column, row: TableRow) -> str:
    """Return the paired difference of what should grow, the value of other quantities; empty if there is none."""
    score = column.value(row)
    if score is None:
        return ""
    if column.better == 1 and score.diff is not None:
        return f'<span class="{column.verdict(score)}">{difference(score.diff)}</span>'
    return f"{column.form(score.value.mean)}{unit(column.name)}"


def _samples(comparison: Comparison, grids: list[Grid], ids: dict[str, str], count: int) -> Iterator[str]:
    """Yield the grids under their ids; the whole page has `count` of them."""
    if grids:
        drawn = "".join(_grid(comparison, grid, ids[_key(grid)], count) for grid in grids)
        yield '<h2>Samples</h2><p class="quiet">One prompt per row, the same noise in every column.</p>'
        yield f'<div class="grids">{drawn}</div>'


def _key(grid: Grid) -> str:
    return grid.group.name if grid.group else ""


def _grid(comparison: Comparison, grid: Grid, name: str, count: int) -> str:
    hue = colour_of(comparison, grid.group.method) if grid.group else INK
    rows = "".join(f"<span>{escape(prompt)}</span>" for prompt in grid.prompts)
    picture = (
        f'<img id="{name}" loading="lazy" decoding="async" alt="samples of {escape(grid.title)}" '
        f'src="{embedded(grid, count)}">'
    )
    body = f'<div class="pair"><div class="rows">{rows}</div>{picture}</div>' if rows else picture
    return f'<figure style="--hue:{hue}"><figcaption><b>{escape(grid.title)}</b></figcaption>{body}</figure>'


def _training(comparison: Comparison) -> Iterator[str]:
    """Yield the training curves, those of LEADING first and the others by name."""
    hues = {run.path: colour_of(comparison, group.method) for group in comparison.groups for run in group.runs}
    curves = [(read_curves(path / "metrics.csv"), hue) for path, hue in hues.items()]
    names = {name for lines, _ in curves for name in lines}
    shown = [name for name in LEADING if name in names] + sorted(names.difference(LEADING))
    if shown:
        drawn = (_curve(n, [(lines[n], hue) for lines, hue in curves if n in lines]) for n in shown[:CURVES])
        yield f'<h2>Training</h2><div class="curves">{"".join(drawn)}</div>'


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


def _curve(name: str, lines: list[tuple[Line, str]]) -> str:
    """Return a small picture of a metric, with a line in its colour for every run."""
    xs, ys = zip(*(pair for line, _ in lines for pair in line), strict=True)
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    across, up = (x1 - x0) or 1.0, (y1 - y0) or 1.0
    drawn = ""
    for line, hue in lines:
        at = " ".join(f"{46 + (x - x0) / across * 244:.1f},{104 - (y - y0) / up * 92:.1f}" for x, y in line)
        drawn += f'<polyline fill="none" stroke="{hue}" stroke-width="1.4" stroke-opacity=".8" points="{at}"/>'
    marks = [(42, 107, "end", number(y0)), (42, 16, "end", number(y1))]
    marks += [(46, 118, "start", f"{x0:.0f}"), (290, 118, "end", f"{x1:.0f}")]
    words = "".join(f'<text x="{x}" y="{y}" text-anchor="{side}">{escape(word)}</text>' for x, y, side, word in marks)
    frame = '<path class="frame" d="M46 12H290M46 58H290M46 104H290"/>'
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{frame}{drawn}{words}</svg>'
    return f'<figure class="curve"><figcaption>{escape(name)}</figcaption>{picture}</figure>'


def _run(run: Run, opened: bool) -> str:
    """Return a block that opens on the command, guidances, cost, versions and config of a run."""
    known = run.result
    name = f"{known.method} on {known.reward}, {known.model}, seed {known.seed}"
    versions = " · ".join(f"{package} {version}" for package, version in known.versions.items())
    costs = " · ".join(_cost(key, value) for key, value in known.compute.items() if value is not None)
    guidance = "".join(
        f"<p>{escape(p.label or 'point')}: <code>{escape(json.dumps(p.guidance))}</code></p>" for p in known.points
    )
    return (
        f"<details{' open' * opened}><summary>{escape(name)} "
        f'<span class="quiet">{known.iterations} iterations · {escape(printable(run.path))}</span></summary>'
        f"<pre>{escape(run.command)}</pre>{guidance}<p>{escape(costs)}</p>"
        f'<p class="quiet">{escape(versions)}</p><pre>{escape(run.config_text) or "no config.yaml"}</pre></details>'
    )


def _cost(name: str, value: Any) -> str:
    """Return a recorded cost with its unit."""
    if not isinstance(value, int | float):
        return f"{name} {value}"
    if name in UNITS:
        size, words = UNITS[name]
        return f"{number(value / size)} {words}"
    return f"{value:,.0f} {name.replace('_', ' ')}"
