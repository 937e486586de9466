"""Prints the columns of `rdt.report.columns` as HTML, LaTeX, CSV, Markdown and for W&B."""

import csv
import io
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from rdt.pareto import Interval
from rdt.report.columns import (
    Column,
    TableRow,
    base_row,
    change,
    columns_of,
    group_row,
    point_rows,
    run_rows,
    summary_rows,
)
from rdt.report.compare import Comparison, Group, compare
from rdt.report.duels import TITLES, method_pairs
from rdt.report.read import Run
from rdt.report.style import mark_html
from rdt.report.text import NONE, difference, half, measured_text, number, short, unit
from rdt.result import Result
from rdt.text import csv_cell, folded

LATEX = (
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"{{{c}}}" for c in "[]*"}
    | {  # [ and * belong to a \\ before them
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def tables_html(comparison: Comparison) -> str:
    """Return the scores, the fronts against the limit, and the fronts of every two methods."""
    return _scores_html(comparison) + _limits_html(comparison) + _pairs_html(comparison)


def _scores_html(comparison: Comparison) -> str:
    columns = columns_of(comparison, "page")
    heads = "".join(
        f'<th scope="col" data-better="{column.better}" data-name="{escape(column.title)}">'
        f"{escape(column.title)}{escape(unit(column.name))} {column.arrow}</th>"
        for column in columns
    )
    rows = "".join(_row_html(comparison, row, columns) for row in summary_rows(comparison))
    return table_html("scores", '<th scope="col">setting</th>' + heads, rows)


def table_html(file: str, heads: str, rows: str) -> str:
    """Return a table in a region that scrolls, by keyboard too; `file` names what is saved of it."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table of {file}"><table data-file="{file}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row_html(comparison: Comparison, row: TableRow, columns: list[Column]) -> str:
    cells = "".join(_cell_html(column, row) for column in columns)
    if row.group is None:
        return f'<tr class="base"><th scope="row">{mark_html(comparison, None)}base</th>{cells}</tr>'
    several, seed = len(row.runs) > 1, f"seed {row.runs[0].result.seed}"
    if row.kind == "point":
        return f'<tr class="seed"><th scope="row">{seed}</th>{cells}</tr>'
    name = f"{row.group.name}, {f'{len(row.runs)} seeds' if several else seed}"
    mark = mark_html(comparison, row.group.method)
    return f'<tr><th scope="row">{mark}{escape(name)}{hacked_html(row.group)}</th>{cells}</tr>'


def hacked_html(group: Group) -> str:
    """Return the tag of a group whose reward rose while a judge fell; empty for others."""
    return ' <span class="tag">hacked</span>' if group.hacked else ""


def _cell_html(column: Column, row: TableRow) -> str:
    """Return a cell with its value, its paired difference, and both again as page.js sorts and saves them."""
    score = column.value(row)
    if score is None:
        return f"<td>{NONE}</td>"
    value, diff = score.value, change(score)
    mean, _, bounds = measured_text(value).partition(" ")
    mean = mean if column.spread else column.form(value.mean)
    paired = "" if diff is None else f'<small class="{column.verdict(score)}">{difference(diff)}</small>'
    shown = value if row.group is None or score.diff is None else score.diff
    tex = (half(shown, "" if shown is value else "+") or mean).replace("±", r"\pm ")
    return f'<td data-v="{shown.mean!r}" data-tex="{escape(tex)}"><b>{mean}</b> {bounds}{paired}</td>'


def _limits_html(comparison: Comparison) -> str:
    """Return a table of how close each front comes to the limit; empty if no limit is known."""
    rows = "".join(
        f'<tr><th scope="row">{mark_html(comparison, one.method)}{escape(one.method)}</th>'
        f"<td>{escape(short(one.reward))}</td><td>{one.share:.1%}</td>"
        f"<td>{number(one.gap) if one.gap == one.gap else NONE}</td></tr>"
        for one in comparison.limit_shares()
    )
    if not rows:
        return ""
    titles = ("front", "reward", "share of the limit's hypervolume", "largest gap to the limit")
    lost = escape(short(comparison.diversity))
    return (
        f'<h2>Against the limit</h2><p class="quiet">The hypervolume is the area above the reward of the base and zero '
        f"{lost}. The gap is the {lost} lost at equal reward. The limit is measured on the same number of images.</p>"
        f"{table_html('limits', _heads(titles), rows)}"
    )


def _pairs_html(comparison: Comparison) -> str:
    """Return a table of the fronts of every two methods; empty if there are no two."""
    rows = "".join(
        f'<tr><th scope="row">{escape(pair.cells[0])}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in pair.cells[1:])}</tr>"
        for pair in method_pairs(comparison)
    )
    if not rows:
        return ""
    return (
        '<h2>Fronts against each other</h2><p class="quiet">A front is the base and all settings of a method. Values '
        "are the first front minus the second, over common resamples of prompts and seeds. Hypervolume is a share of "
        "the limit's if a limit is known. Epsilon is the least gain that would make the first front dominate the "
        "second, as a share of the range that the fronts span. Values at equal reward or diversity cover only the "
        "range that both fronts reach. A verdict needs two seeds of every setting.</p>"
        f"{table_html('fronts', _heads(TITLES), rows)}"
    )


def _heads(titles: Iterable[str]) -> str:
    return "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)


def front_tex(comparisons: list[Comparison], absolute: bool = False) -> str:
    """Return front.tex, one tabular per comparison, which needs the LaTeX package booktabs.

    The base's row holds its scores, every other row its paired differences to the base, or its scores if `absolute`,
    each with half the 95 % interval. Arrows tell which side is better; the best mean of a column is bold.
    """
    return "\n".join(_tabular(comparison, absolute) for comparison in comparisons)


def _tabular(comparison: Comparison, absolute: bool) -> str:
    columns = columns_of(comparison, "front.tex")
    rows = [["", *(f"{_latex(column.title)}{ARROWS[column.better]}" for column in columns)]]
    groups = [group_row(group) for group in comparison.groups]
    best = {column.name: _best(column, groups) for column in columns}
    for row in (base_row(comparison), *groups):
        seeds = f" ({len(row.runs)} seeds)" if row.group and len(row.runs) > 1 else ""
        name = _latex(row.group.name) + seeds if row.group else "base"
        cells = [_cell_tex(column, row, absolute, best[column.name] is row) for column in columns]
        rows.append([name, *cells])
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    shown = "scores" if absolute else "the base's scores, then paired differences to them"
    about = f"% {folded(comparison.model)}: {comparison.n_prompts} held-out prompts x {comparison.n_per_prompt} images"
    frame = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([f"{about}; {shown}", *frame, r"\end{tabular}", ""])


def _best(column: Column, rows: list[TableRow]) -> TableRow | None:
    """Return the row with the best mean of a column; None if neither side is better or there is nothing to choose."""
    found = [(score.value.mean, row) for row in rows if (score := column.value(row)) is not None]
    if not column.better or len(found) < 2:
        return None
    return max(found, key=lambda pair: column.better * pair[0])[1]


def _latex(words: str) -> str:
    """Return text on one line that LaTeX prints as it is."""
    return "".join(LATEX.get(c, c) for c in folded(words))


def _cell_tex(column: Column, row: TableRow, absolute: bool, bold: bool) -> str:
    score = column.value(row)
    if score is None:
        return "--"
    paired = not absolute and row.group is not None and score.diff is not None
    shown = score.diff if paired and score.diff else score.value
    words = half(shown, "+" * paired) if column.spread else ""
    words = (words or _latex(column.form(shown.mean))).replace("±", r"\pm ")
    return rf"$\mathbf{{{words}}}$" if bold else f"${words}$"


def front_csv(comparisons: list[Comparison]) -> str:
    """Return front.csv: one row per point of every run, its base included.

    A score has columns name, name_lo, name_hi and, except for the base, name_diff, name_diff_lo and name_diff_hi.
    """
    rows = [_record(comparison, row) for comparison in comparisons for row in run_rows(comparison)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _record(comparison: Comparison, row: TableRow) -> dict[str, Any]:
    (run,), (point,) = row.runs, row.points
    record: dict[str, Any] = {"path": str(run.path), "group": row.group.name if row.group else "base", "kind": row.kind}
    record |= {"label": point.label}
    record |= {name: getattr(run.result, name) for name in ("method", "reward", "model", "seed", "iterations")}
    record |= {"guidance": json.dumps(point.guidance), "n_prompts": point.n_prompts, "n_per_prompt": point.n_per_prompt}
    for column in columns_of(comparison, "front.csv"):
        if (score := column.value(row)) is not None:
            record |= _interval(column.name, score.value) if column.spread else {column.name: score.value.mean}
            record |= _interval(f"{column.name}_diff", score.diff) if score.diff else {}
    return record


def _interval(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_lo": value.lo, f"{name}_hi": value.hi}


def wandb_rows(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows: the base, then every point with its group, whether that is on a front, and its means.

    Behind the means come the paired differences to the base and the bounds of their intervals.
    """
    columns, fronts = columns_of(comparison, "wandb"), [_on_front(comparison, reward) for reward in comparison.rewards]
    rows = [["base", "base", None, *(None for _ in fronts), *_values(columns, base_row(comparison))]]
    for group in comparison.groups:
        on = [id(group) in front for front in fronts]
        for row in point_rows(group):
            rows.append([group.name, group.method, row.runs[0].result.seed, *on, *_values(columns, row)])
    places = [f"on front of {reward}" for reward in comparison.rewards]
    spread = [column.name for column in columns if column.spread]
    paired = [f"{name}_diff{end}" for name in spread for end in ("", "_lo", "_hi")]
    return ["group", "method", "seed", *places, *(column.name for column in columns), *paired], rows


def _on_front(comparison: Comparison, reward: str) -> set[int]:
    """Return the identities of the groups that no other group of their method dominates."""
    found = (comparison.on_front(method, reward) for method in comparison.methods)
    return {id(group) for groups, mask in found for group, on in zip(groups, mask, strict=True) if on}


def _values(columns: list[Column], row: TableRow) -> list[float | None]:
    """Return the means of all columns, then the paired differences with their bounds; None stands for what is not."""
    scores = [column.value(row) for column in columns]
    diffs = [score and score.diff for column, score in zip(columns, scores, strict=True) if column.spread]
    means = [None if score is None else score.value.mean for score in scores]
    return means + [
        bound for diff in diffs for bound in ((diff.mean, diff.lo, diff.hi) if diff else (None, None, None))
    ]


def code_span(text: object) -> str:
    """Return a text on one line of Markdown that is neither markup nor HTML, nor a column of a table."""
    kept = (c if c.isprintable() and c not in "`|\\" else f"\\u{ord(c):04x}" for c in str(text))
    return f"`{''.join(kept) or ' '}`"


def card_table(result: Result) -> str:
    """Return the table of a model card in Markdown: a line per quantity, the base, and two columns per point."""
    (comparison,) = compare([Run(Path(), result)])
    base, *points = run_rows(comparison)
    labels = ["tuned", *(row.points[0].label for row in points[1:])]
    heads = [code_span("base"), *(head for name in labels for head in (code_span(name), "difference"))]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    for column in columns_of(comparison, "model card"):
        cells = [cell for row in points for cell in (_cell_card(column, row), _change_card(column, row))]
        lines.append([code_span(column.name), _cell_card(column, base), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _change_card(column: Column, row: TableRow) -> str:
    score = column.value(row)
    return "" if score is None or score.diff is None else difference(score.diff)


def _cell_card(column: Column, row: TableRow) -> str:
    score = column.value(row)
    if score is None:
        return ""
    value = score.value
    mean = f"{value.mean:.4g}" if column.spread else column.form(value.mean)
    return mean + ("" if value.lo == value.hi else f" [{value.lo:.4g}, {value.hi:.4g}]")
