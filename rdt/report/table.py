"""The scores of a comparison, and its fronts against the limit, as tables of report.html."""

from collections.abc import Iterator
from html import escape

from rdt.report.duels import HEAD, duels
from rdt.report.fronts import Comparison
from rdt.report.panel import INK, colour_of
from rdt.report.text import difference, number, short, verdict
from rdt.result import Score


def columns(comparison: Comparison) -> list[str]:
    """Names of all scores, what the figure shows first."""
    names = dict.fromkeys(n for scores in (comparison.base, *(g.scores for g in comparison.groups)) for n in scores)
    leading = [name for name in (*comparison.rewards, comparison.diversity) if name in names]
    return leading + [name for name in names if name not in leading]


def table_html(comparison: Comparison) -> str:
    """The base, every group, and its seeds where there are several; then the fronts against the limit."""
    names = columns(comparison)
    rows = [_row("", "base", INK, comparison.base, names)]
    for group in comparison.groups:
        hue = colour_of(comparison, group.method)
        seeds = f", {len(group.runs)} seeds" if len(group.runs) > 1 else f", seed {group.runs[0].seed}"
        rows.append(_row("", group.name + seeds, hue, group.scores, names))
        if len(group.runs) > 1:
            pairs = zip(group.runs, group.points, strict=True)
            rows += [_row("seed", f"seed {run.seed}", hue, point.scores, names) for run, point in pairs]
    head = "".join(f"<th>{escape(short(name))}</th>" for name in names)
    scores = f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    return scores + _limit_html(comparison) + _duels_html(comparison)


def _row(kind: str, name: str, hue: str, scores: dict[str, Score], names: list[str]) -> str:
    cells = "".join(f"<td>{_cell(scores[n], n) if n in scores else '–'}</td>" for n in names)
    dot = "" if kind else f'<span class="dot" style="--hue:{hue}"></span>'
    return f'<tr class="{kind}"><td>{dot}{escape(name)}</td>{cells}</tr>'


def _cell(score: Score, name: str) -> str:
    spread = "" if score.value.lo == score.value.hi else f" [{number(score.value.lo)}, {number(score.value.hi)}]"
    change = (
        ""
        if score.diff in (None, score.value)
        else f'<small class="{verdict(score, name)}">{difference(score.diff)}</small>'
    )
    return f"<b>{number(score.value.mean)}</b>{spread}{change}"


def limit_rows(comparison: Comparison) -> Iterator[tuple[str, str, float, float]]:
    """(method, reward, share of the limit's hypervolume, largest gap) wherever a limit is known."""
    for method in comparison.methods:
        for reward in comparison.rewards:
            found = comparison.against_limit(method, reward)
            if found is not None:
                yield method, short(reward), *found


def _limit_html(comparison: Comparison) -> str:
    rows = "".join(
        f'<tr><td><span class="dot" style="--hue:{colour_of(comparison, m)}"></span>{escape(m)}</td>'
        f"<td>{escape(r)}</td><td>{share:.1%}</td><td>{number(gap) if gap == gap else '–'}</td></tr>"
        for m, r, share, gap in limit_rows(comparison)
    )
    if not rows:
        return ""
    titles = ("front", "reward", "share of the limit's hypervolume", "largest gap to the limit")
    head = "".join(f"<th>{title}</th>" for title in titles)
    lost = escape(short(comparison.diversity))
    return (
        f'<h2>Against the limit</h2><p class="quiet">Hypervolume above the base\'s reward and no {lost}. The gap is '
        f"{lost} lost at equal reward. The limit is measured on as many images.</p>"
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _duels_html(comparison: Comparison) -> str:
    fought = [duel.cells for duel in duels(comparison)]
    if not fought:
        return ""
    head, rows = "".join(f"<th>{escape(name)}</th>" for name in HEAD), ""
    for cells in fought:
        rows += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    return (
        '<h2>Fronts against each other</h2><p class="quiet">Base and settings of each method, first minus second, over '
        "common resamples of prompts and seeds. Hypervolume as a share of the limit's where one is known; epsilon: "
        "what the first lacks to dominate the second, in shares of what the fronts span; at equal levels inside "
        f'the common range only.</p><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    )
