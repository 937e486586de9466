"""Prints the columns of `rdt.report.columns` as HTML, LaTeX, CSV, Markdown, for W&B and in the terminal."""

import csv
import io
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
from rdt.report.figure import INK, colour_of
from rdt.report.read import Failure, Run
from rdt.report.text import NONE, difference, number, short
from rdt.result import Result
from rdt.text import NAME, csv_cell, folded, printable

LATEX = (
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"{{{c}}}" for c in "[]*"}
    | {  # [ and * belong to a \\ before them
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def tables_html(comparison: Comparison) -> str:
    """Return the scores, the fronts against the limit, and the fronts of every two methods."""
    return _scores_html(comparison) + _limits_html(comparison) + _pairs_html(comparison)


def _scores_html(comparison: Comparison) -> str:
    columns = columns_of(comparison, "page")
    head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    rows = "".join(_row_html(comparison, row, columns) for row in summary_rows(comparison))
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def _row_html(comparison: Comparison, row: TableRow, columns: list[Column]) -> str:
    cells = "".join(f"<td>{_cell_html(column, row)}</td>" for column in columns)
    if row.group is None:
        return f'<tr class=""><td>{_dot(INK)}base</td>{cells}</tr>'
    several, seed = len(row.runs) > 1, f"seed {row.runs[0].result.seed}"
    if row.kind == "point":
        return f'<tr class="seed"><td>{seed}</td>{cells}</tr>'
    name = f"{row.group.name}, {f'{len(row.runs)} seeds' if several else seed}"
    return f'<tr class=""><td>{_dot(colour_of(comparison, row.group.method))}{escape(name)}</td>{cells}</tr>'


def _cell_html(column: Column, row: TableRow) -> str:
    score = column.value(row)
    if score is None:
        return NONE
    value, diff = score.value, change(score)
    bounds = "" if value.lo == value.hi else f" [{number(value.lo)}, {number(value.hi)}]"
    paired = "" if diff is None else f'<small class="{column.verdict(score)}">{difference(diff)}</small>'
    return f"<b>{column.form(value.mean)}</b>{bounds}{paired}"


def _dot(hue: str) -> str:
    return f'<span class="dot" style="--hue:{hue}"></span>'


def _limits_html(comparison: Comparison) -> str:
    """Return a table of how close each front comes to the limit; empty if no limit is known."""
    rows = "".join(
        f"<tr><td>{_dot(colour_of(comparison, one.method))}{escape(one.method)}</td>"
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
        f'<div class="scroll"><table><tr>{_heads(titles)}</tr>{rows}</table></div>'
    )


def _pairs_html(comparison: Comparison) -> str:
    """Return a table of the fronts of every two methods; empty if there are no two."""
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in pair.cells)}</tr>" for pair in method_pairs(comparison)
    )
    if not rows:
        return ""
    return (
        '<h2>Fronts against each other</h2><p class="quiet">A front is the base and all settings of a method. Values '
        "are the first front minus the second, over common resamples of prompts and seeds. Hypervolume is a share of "
        "the limit's if a limit is known. Epsilon is the least gain that would make the first front dominate the "
        "second, as a share of the range that the fronts span. Values at equal reward or diversity cover only the "
        f'range that both fronts reach.</p><div class="scroll"><table><tr>{_heads(TITLES)}</tr>{rows}</table></div>'
    )


def _heads(titles: Iterable[str]) -> str:
    return "".join(f"<th>{escape(title)}</th>" for title in titles)


def front_tex(comparisons: list[Comparison]) -> str:
    """Return front.tex, one tabular per comparison, which needs the LaTeX package booktabs.

    A cell holds a value and its paired difference to the base, each with half its 95 % interval.
    """
    return "\n".join(_tabular(comparison) for comparison in comparisons)


def _tabular(comparison: Comparison) -> str:
    columns = columns_of(comparison, "front.tex")
    rows = [["", *(_latex(column.title) for column in columns)]]
    for row in (base_row(comparison), *map(group_row, comparison.groups)):
        seeds = f" ({len(row.runs)} seeds)" if row.group and len(row.runs) > 1 else ""
        name = _latex(row.group.name) + seeds if row.group else "base"
        rows.append([name, *(_cell_tex(column, row) for column in columns)])
    head, *body = [" & ".join(row) + r" \\" for row in rows]
    about = f"% {folded(comparison.model)}: {comparison.n_prompts} held-out prompts x {comparison.n_per_prompt} images"
    frame = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([about, *frame, r"\end{tabular}", ""])


def _latex(words: str) -> str:
    """Return text on one line that LaTeX prints as it is."""
    return "".join(LATEX.get(c, c) for c in folded(words))


def _cell_tex(column: Column, row: TableRow) -> str:
    score = column.value(row)
    if score is None:
        return "--"
    diff = change(score)
    paired = "" if diff is None else f" (${'+' * (diff.mean >= 0)}{number(diff.mean)}{_half_tex(diff)}$)"
    return f"${_latex(column.form(score.value.mean))}{_half_tex(score.value)}${paired}"


def _half_tex(value: Interval) -> str:
    return f" \\pm {number((value.hi - value.lo) / 2)}" if value.hi > value.lo else ""


def print_tables(comparisons: list[Comparison], failures: list[Failure]) -> None:
    """Print the main scores, the fronts against the limit and each other, repeated runs and failures."""
    console = Console(highlight=False)
    for comparison in comparisons:
        console.print(_table(comparison))
        for one in comparison.limit_shares():
            gap = f", largest gap to it {number(one.gap)}" if one.gap == one.gap else ""
            line = f"{one.method}: {one.share:.1%} of the limit's hypervolume in {short(one.reward)}{gap}"
            console.print(Text(printable(line)), style="dim")
        for pair in method_pairs(comparison):
            first, second, reward, area, larger, *_, verdict = pair.cells
            line = f"{first} against {second} in {reward}: {verdict}, hypervolume {area}, P(larger) {larger}"
            console.print(Text(printable(line)), style="dim")
        for repeat in comparison.repeats:
            console.print(Text(f"repeated: {repeat.line}"), style="yellow", soft_wrap=True)
    for failure in failures:
        line = f"failed: {printable(failure.path)}: {folded(failure.reason, NAME)}"
        console.print(Text(line), style="red", soft_wrap=True)


def _table(comparison: Comparison) -> Table:
    columns = columns_of(comparison, "terminal")
    images = f"{comparison.n_prompts} prompts × {comparison.n_per_prompt} images"
    title = f"{folded(comparison.model, NAME)}, {images}; ± half the 95 % interval, Δ paired"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(Text(folded(column.title)), justify="right", no_wrap=True)
    for row in (base_row(comparison), *map(group_row, comparison.groups)):
        table.add_row(_name(row.group), *(_cell(column, row) for column in columns))
    return table


def _name(group: Group | None) -> Text:
    if group is None:
        return Text("base")
    seeds = f" ×{len(group.runs)} seeds" if len(group.runs) > 1 else ""
    return Text(f"{folded(group.method, NAME)}{seeds}\n{folded(group.setting, NAME)}".strip())


def _cell(column: Column, row: TableRow) -> str:
    score = column.value(row)
    if score is None:
        return NONE
    value, diff = score.value, change(score)
    paired = "" if diff is None else f"\n[dim]Δ {_half(diff, '+.2g') or number(diff.mean)}[/dim]"
    return (_half(value, "#.3g") or column.form(value.mean)) + paired


def _half(value: Interval, form: str) -> str:
    """Return a mean with half its interval; empty if that has no width."""
    return f"{value.mean:{form}}".rstrip(".") + f" ±{(value.hi - value.lo) / 2:.1g}" if value.hi > value.lo else ""


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
    """Return columns and rows: the base, then every point with its group, whether that is on a front, and its means."""
    columns, fronts = columns_of(comparison, "wandb"), [_on_front(comparison, reward) for reward in comparison.rewards]
    rows = [["base", "base", None, *(None for _ in fronts), *_means(columns, base_row(comparison))]]
    for group in comparison.groups:
        on = [id(group) in front for front in fronts]
        for row in point_rows(group):
            rows.append([group.name, group.method, row.runs[0].result.seed, *on, *_means(columns, row)])
    places = [f"on front of {reward}" for reward in comparison.rewards]
    return ["group", "method", "seed", *places, *(column.name for column in columns)], rows


def _on_front(comparison: Comparison, reward: str) -> set[int]:
    """Return the identities of the groups that no other group of their method dominates."""
    found = (comparison.on_front(method, reward) for method in comparison.methods)
    return {id(group) for groups, mask in found for group, on in zip(groups, mask, strict=True) if on}


def _means(columns: list[Column], row: TableRow) -> list[float | None]:
    scores = [column.value(row) for column in columns]
    return [None if score is None else score.value.mean for score in scores]


def code_span(text: object) -> str:
    """Return a text on one line of Markdown that is neither markup nor HTML, nor a column of a table."""
    kept = (c if c.isprintable() and c not in "`|\\" else f"\\u{ord(c):04x}" for c in str(text))
    return f"`{''.join(kept) or ' '}`"


def card_table(result: Result) -> str:
    """Return the table of a model card in Markdown: a line per quantity, a column per point of the run."""
    (comparison,) = compare([Run(Path(), result)])
    rows = run_rows(comparison)
    lines = [["", *(code_span(row.points[0].label) for row in rows)], ["---"] * (1 + len(rows))]
    for column in columns_of(comparison, "model card"):
        lines.append([code_span(column.name), *(_cell_card(column, row) for row in rows)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell_card(column: Column, row: TableRow) -> str:
    score = column.value(row)
    if score is None:
        return ""
    value = score.value
    mean = f"{value.mean:.4g}" if column.spread else column.form(value.mean)
    return mean + ("" if value.lo == value.hi else f" [{value.lo:.4g}, {value.hi:.4g}]")
