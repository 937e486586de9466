"""report.html: one file that needs no network and no server."""

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from rdt.report.curves import curve_svg, names_of, read_curves
from rdt.report.fronts import Comparison, Group
from rdt.report.grids import Grid, data_uri, embedded, grids_of
from rdt.report.panel import INK, colour_of
from rdt.report.records import Failure, Run
from rdt.report.runs import run_html
from rdt.report.scatter import scatter_html
from rdt.report.table import table_html
from rdt.report.text import difference, number, short, verdict

GRIDS, CURVES = 200, 12  # per comparison; the rest stays in the run folders
HERO = (2080, 1_000_000)  # pixels across and bytes of the figure at the head; a browser is slow to parse long addresses


def page(comparisons: list[Comparison], failures: list[Failure], figure: Path) -> str:
    """The whole page; figure is the PNG at its head."""
    assets = files("rdt.report")
    methods = dict.fromkeys(method for comparison in comparisons for method in comparison.methods)
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(f"Reward against diversity: {', '.join(methods)}"), subtitle=escape(_subtitle(comparisons)),
        style=(assets / "page.css").read_text("utf-8"), script=(assets / "page.js").read_text("utf-8"),
        body="\n".join(_body(comparisons, failures, figure)),
    )  # fmt: skip


def members(comparison: Comparison) -> list[Run]:
    """Every run of a comparison, once."""
    return list({run.path: run for group in comparison.groups for run in group.runs}.values())


def _subtitle(comparisons: list[Comparison]) -> str:
    runs = sum(len(members(comparison)) for comparison in comparisons)
    worlds = [f"{c.model}, {c.n_prompts} held-out prompts × {c.n_per_prompt} images" for c in comparisons]
    return f"{runs} run{'s' * (runs != 1)} · {' · '.join(worlds)} · intervals are 95 %, differences paired by prompt"


def _body(comparisons: list[Comparison], failures: list[Failure], figure: Path) -> Iterator[str]:
    if failures:
        items = "".join(f"<li><code>{escape(str(f.path))}</code>: {escape(f.reason)}</li>" for f in failures)
        yield f'<section class="failed"><b>{len(failures)} failed</b><ul>{items}</ul></section>'
    for comparison in comparisons:
        yield f'<div class="cards">{"".join(_card(comparison, group) for group in comparison.groups)}</div>'
    yield f'<img class="hero" decoding="async" alt="Reward against diversity" src="{data_uri(figure, *HERO)}">'
    grids = [grids_of(comparison, GRIDS) for comparison in comparisons]
    for index, (comparison, own) in enumerate(zip(comparisons, grids, strict=True)):
        where = f" ({escape(comparison.model)})" if len(comparisons) > 1 else ""
        ids = {_key(grid): f"grid{index}-{place}" for place, grid in enumerate(own)}
        yield f"<h2>Any score against any other{where}</h2>{scatter_html(comparison, f'scatter{index}', ids)}"
        yield f"<h2>Scores{where}</h2>{table_html(comparison)}"
        yield from _pictures(comparison, own, ids, sum(map(len, grids)))
    runs = [run for comparison in comparisons for run in members(comparison)]
    yield f"<h2>Runs</h2>{''.join(run_html(run, opened=len(runs) == 1) for run in runs)}"


def _card(comparison: Comparison, group: Group) -> str:
    """What a group gained and paid against the base."""
    shown = [name for name in (*comparison.rewards, comparison.diversity) if name in group.scores]
    rows = [f"<dt>{escape(short(name))}</dt><dd>{_gain(group, name)}</dd>" for name in shown]
    kept = [s[comparison.diversity].value.mean for s in (group.scores, comparison.base) if comparison.diversity in s]
    if len(kept) == 2 and kept[1] > 0:
        rows.append(f"<dt>kept</dt><dd>{kept[0] / kept[1]:.0%}</dd>")
    if "kl_nats" in group.scores:
        rows.append(f"<dt>KL</dt><dd>{number(group.scores['kl_nats'].value.mean)} nats</dd>")
    seeds = f' <span class="quiet">{len(group.runs)} seeds</span>' if len(group.runs) > 1 else ""
    hue = colour_of(comparison, group.method)
    return f'<div class="card" style="--hue:{hue}"><h3>{escape(group.name)}{seeds}</h3><dl>{"".join(rows)}</dl></div>'


def _gain(group: Group, name: str) -> str:
    score = group.scores[name]
    if score.diff is None:
        return number(score.value.mean)
    return f'<span class="{verdict(score, name)}">{difference(score.diff)}</span>'


def _pictures(comparison: Comparison, grids: list[Grid], ids: dict[str, str], count: int) -> Iterator[str]:
    """Grids under their ids, count of them on the whole page, and training curves."""
    if grids:
        drawn = [_grid(comparison, grid, ids[_key(grid)], count) for grid in grids]
        yield '<h2>Samples</h2><p class="quiet">One prompt per row, the same noise in every column.</p>'
        yield f'<div class="grids">{"".join(drawn)}</div>'
    hues = {run.path: colour_of(comparison, group.method) for group in comparison.groups for run in group.runs}
    curves = {path: (read_curves(path / "metrics.csv"), hue) for path, hue in hues.items()}
    names = names_of([curve for curve, _ in curves.values()])[:CURVES]
    if names:
        drawn = [curve_svg(n, [(c[n], colour) for c, colour in curves.values() if n in c]) for n in names]
        yield f'<h2>Training</h2><div class="curves">{"".join(drawn)}</div>'


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
