"""Builds report.html, one file that needs no network and no server.

It holds the planes of the differences to the base, a card per group if they are few, the tables, a plot of any score
against any other, the samples, the training curves and, for every run, its command, cost, versions and config.
"""

import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from rdt.report.columns import Column, TableRow, columns_of, group_row
from rdt.report.compare import Comparison
from rdt.report.curves import curves_html
from rdt.report.grids import Grid, embedded, grids_of
from rdt.report.read import Failure, Run
from rdt.report.scatter import planes_html, scatter_html, varied_settings
from rdt.report.style import mark_html, mark_of
from rdt.report.tables import hacked_html, tables_html
from rdt.report.text import difference, half, number, short, unit
from rdt.text import printable

GRIDS = 200  # at most, per comparison; the others stay in the run folders
CARDS = 6  # with more groups the table alone shows them
SCRIPTS = ("tables.js", "chart.js", "panel.js", "page.js")  # in the order in which they need each other
UNITS = {"seconds": (1, "s"), "peak_memory_bytes": (2**30, "GiB peak memory"), "tflop": (1, "TFLOP")}


def report_html(comparisons: list[Comparison], failures: list[Failure]) -> str:
    """Return the whole page."""
    assets = files("rdt.report")
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(f"Reward against diversity: {', '.join(methods)}"),
        subtitle=escape(_subtitle(comparisons)),
        style=(assets / "page.css").read_text("utf-8"),
        script="\n".join((assets / name).read_text("utf-8") for name in SCRIPTS),
        body="\n".join(_body(comparisons, failures)),
    )


def _subtitle(comparisons: list[Comparison]) -> str:
    runs = sum(len(comparison.runs) for comparison in comparisons)
    sets = [f"{c.model}, {c.n_prompts} held-out prompts × {c.n_per_prompt} images" for c in comparisons]
    over = (
        "over prompts only where there is one seed"
        if min(c.seeds for c in comparisons) == 1
        else "over seeds and prompts"
    )
    return f"{runs} run{'s' * (runs != 1)} · {' · '.join(sets)} · intervals are 95 %, {over}"


def _body(comparisons: list[Comparison], failures: list[Failure]) -> Iterator[str]:
    yield from _problems(comparisons, failures)
    grids = [grids_of(comparison, GRIDS) for comparison in comparisons]
    for index, (comparison, own) in enumerate(zip(comparisons, grids, strict=True)):
        model = f" ({escape(comparison.model)})" if len(comparisons) > 1 else ""
        ids = {_key(grid): f"grid{index}-{place}" for place, grid in enumerate(own)}
        yield f"<h2>Difference to the base{model}</h2>{_lead(comparison)}{planes_html(comparison, f'chart{index}')}"
        yield _cards(comparison)
        yield f"<h2>Scores{model}</h2>{tables_html(comparison)}"
        yield f"<h2>Any score against any other{model}</h2>{scatter_html(comparison, f'chart{index}', ids)}"
        yield from _samples(comparison, own, ids, sum(map(len, grids)))
        yield curves_html(comparison)
    runs = [run for comparison in comparisons for run in comparison.runs]
    varied = varied_settings(tuple(runs))
    yield f"<h2>Runs</h2>{''.join(_run(run, varied[run.path], opened=len(runs) == 1) for run in runs)}"


def _problems(comparisons: list[Comparison], failures: list[Failure]) -> Iterator[str]:
    """Yield what could not be read, and what counts once though it was read twice."""
    if failures:
        items = "".join(f"<li><code>{escape(printable(f.path))}</code>: {escape(f.reason)}</li>" for f in failures)
        yield f'<section class="failed"><b>{len(failures)} failed</b><ul>{items}</ul></section>'
    if repeats := [repeat for comparison in comparisons for repeat in comparison.repeats]:
        items = "".join(f"<li>{escape(repeat.line)}</li>" for repeat in repeats)
        yield f"<section><b>{len(repeats)} repeated</b><ul>{items}</ul></section>"


def _lead(comparison: Comparison) -> str:
    """Return how to read the planes, and which groups were hacked."""
    hacked = [group.name for group in comparison.groups if group.hacked]
    words = "Better than the base is up and to the right. Hollow: the base or another setting dominates it."
    flag = ""
    if hacked:
        names = ", ".join(map(escape, hacked))
        flag = f'<section class="failed"><b>Hacked:</b> the trained reward rose while a judge fell: {names}</section>'
    return f'<p class="quiet">{words}</p>{flag}'


def _cards(comparison: Comparison) -> str:
    """Return a card per group; with many groups only how many there are."""
    if len(comparison.groups) > CARDS:
        return f'<p class="quiet">{len(comparison.groups)} settings: the table below holds all of them.</p>'
    return f'<div class="cards">{"".join(_card(comparison, group_row(group)) for group in comparison.groups)}</div>'


def _card(comparison: Comparison, row: TableRow) -> str:
    """Return what a group gained and lost against the base."""
    assert row.group is not None
    columns = columns_of(comparison, "page cards")
    items = "".join(f"<dt>{escape(c.title)} {c.arrow}</dt><dd>{gain}</dd>" for c in columns if (gain := _gain(c, row)))
    seeds = f' <span class="quiet">{len(row.runs)} seeds</span>' if len(row.runs) > 1 else ""
    hue, mark = mark_of(comparison, row.group.method).colour, mark_html(comparison, row.group.method)
    name = f"{mark}{escape(row.group.name)}{seeds}{hacked_html(row.group)}"
    return f'<div class="card" style="--hue:{hue}"><h3>{name}</h3><dl>{items}</dl></div>'


def _gain(column: Column, row: TableRow) -> str:
    """Return the paired difference of what should grow, the value of other quantities; empty if there is none."""
    score = column.value(row)
    if score is None:
        return ""
    if column.better == 1 and score.diff is not None:
        return f'<span class="{column.verdict(score)}">{difference(score.diff)}</span>'
    return f"{half(score.value) or column.form(score.value.mean)}{unit(column.name)}"


def _samples(comparison: Comparison, grids: list[Grid], ids: dict[str, str], count: int) -> Iterator[str]:
    """Yield the grids under their ids; the whole page has `count` of them."""
    if grids:
        drawn = "".join(_grid(comparison, grid, ids[_key(grid)], count) for grid in grids)
        yield '<h2>Samples</h2><p class="quiet">One prompt per row, the same noise in every column.</p>'
        yield f'<div class="grids">{drawn}</div>'


def _key(grid: Grid) -> str:
    return grid.group.name if grid.group else ""


def _grid(comparison: Comparison, grid: Grid, name: str, count: int) -> str:
    rows = "".join(f"<span>{escape(prompt)}</span>" for prompt in grid.prompts)
    uri, pixels = embedded(grid, count)
    picture = (
        f'<button type="button" class="enlarge" aria-label="enlarge the samples of {escape(grid.title)}">'
        f'<img id="{name}"{" class=pixels" * pixels} loading="lazy" decoding="async" '
        f'alt="samples of {escape(grid.title)}" src="{uri}"></button>'
    )
    body = f'<div class="pair"><div class="rows">{rows}</div>{picture}</div>' if rows else picture
    mark = mark_html(comparison, grid.group.method if grid.group else None)
    words = f"{mark}<b>{escape(grid.title)}</b><small>{escape(_gains(comparison, grid))}</small>"
    return f"<figure><figcaption>{words}</figcaption>{body}</figure>"


def _gains(comparison: Comparison, grid: Grid) -> str:
    """Return how the drawn scores of a grid's model differ from the base's."""
    scores = grid.group.scores if grid.group else {}
    names = [name for name in (*comparison.rewards, comparison.diversity) if name in scores]
    pairs = [(short(name), scores[name].diff) for name in names]
    return " · ".join(f"Δ {name} {difference(diff)}" for name, diff in pairs if diff is not None)


def _run(run: Run, varied: str, opened: bool) -> str:
    """Return a block that opens on the command, guidances, cost, versions and config of a run."""
    known = run.result
    name = f"{known.method} on {known.reward}, {known.model}, seed {known.seed}"
    name = f"{name}: {varied}" if varied else name
    versions = " · ".join(f"{package} {version}" for package, version in known.versions.items())
    costs = " · ".join(_cost(key, value) for key, value in known.compute.items() if value is not None)
    guidance = "".join(
        f"<p>{escape(p.label or 'point')}: <code>{escape(json.dumps(p.guidance))}</code></p>" for p in known.points
    )
    return (
        f"<details{' open' * opened}><summary>{escape(name)} "
        f'<span class="quiet">{known.iterations} iterations · {escape(printable(run.path))}</span></summary>'
        f"<pre>{escape(run.command)}</pre>{guidance}<p>{escape(costs)}</p>"
        f'<p class="quiet">{escape(versions)}</p><details><summary>config.yaml</summary>'
        f"<pre>{escape(run.config_text) or 'no config.yaml'}</pre></details></details>"
    )


def _cost(name: str, value: Any) -> str:
    """Return a recorded cost with its unit."""
    if not isinstance(value, int | float):
        return f"{name} {value}"
    if name in UNITS:
        size, words = UNITS[name]
        return f"{number(value / size)} {words}"
    return f"{value:,.0f} {name.replace('_', ' ')}"
