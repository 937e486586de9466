"""Prints the main scores in the terminal, then fronts against the limit and each other, repeats and failures.

A table that is wider than the terminal is stacked, a block for each setting, so that no name and no number is cut.
"""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rdt.report.columns import Column, TableRow, base_row, change, columns_of, group_row
from rdt.report.compare import Comparison
from rdt.report.duels import method_pairs
from rdt.report.read import Failure
from rdt.report.text import NONE, half, number, short, unit
from rdt.text import NAME, folded, printable

BOUNDLESS = 10_000  # columns, to learn how wide a table would be
MOST = 6  # lines about limits, and as many about pairs of methods; report.html holds all of them


def print_tables(comparisons: list[Comparison], failures: list[Failure]) -> None:
    """Print what was measured, and what could not be read."""
    console = Console(highlight=False)
    for comparison in comparisons:
        table = _table(comparison)
        if Measurement.get(console, console.options.update(max_width=BOUNDLESS), table).maximum <= console.width:
            console.print(table)
        else:
            console.print(Text(_title(comparison), style="italic"))
            for words in stacked(comparison):
                console.print(words, soft_wrap=True)
        for line in (*_first(list(_limits(comparison))), *_first(list(_pairs(comparison)))):
            console.print(Text(printable(line)), style="dim")
        for repeat in comparison.repeats:
            console.print(Text(f"repeated: {repeat.line}"), style="yellow", soft_wrap=True)
    for failure in failures:
        line = f"failed: {printable(failure.path)}: {folded(failure.reason, NAME)}"
        console.print(Text(line), style="red", soft_wrap=True)


def print_line(name: str, comparisons: list[Comparison]) -> None:
    """Print what the first group reached, in one line under a name."""
    comparison = comparisons[0]
    group = comparison.groups[0]
    names = [key for key in (*comparison.rewards, comparison.diversity) if key in group.scores]
    pairs = [(short(key), group.scores[key].diff) for key in names]
    words = [f"Δ{key} {half(diff, '+') or number(diff.mean)}" for key, diff in pairs if diff is not None]
    print(f"{printable(name)}: {', '.join(words)}{', hacked' * group.hacked}", flush=True)


def stacked(comparison: Comparison) -> Iterator[Text]:
    """Yield the table as lines: the name of a row, then a line for each of its scores."""
    columns = columns_of(comparison, "terminal")
    wide = max(len(_head(column)) for column in columns)
    for row in _rows(comparison):
        yield Text(_name(row).replace("\n", "  "), style="bold")
        for column in columns:
            value, _, paired = _cell(column, row).partition("\n")
            yield Text(f"  {_head(column):<{wide}}  {value}  {paired}".rstrip())


def _first(lines: list[str]) -> list[str]:
    """Return the first MOST lines and how many are left to the page."""
    more = [f"and {len(lines) - MOST} more lines of this kind in report.html"] if len(lines) > MOST else []
    return lines[:MOST] + more


def _limits(comparison: Comparison) -> Iterator[str]:
    for one in comparison.limit_shares():
        gap = f", largest gap to it {number(one.gap)}" if one.gap == one.gap else ""
        yield f"{one.method}: {one.share:.1%} of the limit's hypervolume in {short(one.reward)}{gap}"


def _pairs(comparison: Comparison) -> Iterator[str]:
    for pair in method_pairs(comparison):
        first, second, reward, verdict, area, larger, *_ = pair.cells
        yield f"{first} against {second} in {reward}: {verdict}, hypervolume {area}, P(larger) {larger}"


def _title(comparison: Comparison) -> str:
    images = f"{comparison.n_prompts} prompts × {comparison.n_per_prompt} images"
    over = ", one seed: over prompts only" if comparison.seeds == 1 else ""
    return f"{folded(comparison.model, NAME)}, {images}; ± half the 95 % interval{over}, Δ paired"


def _table(comparison: Comparison) -> Table:
    columns = columns_of(comparison, "terminal")
    title = Text(_title(comparison))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(Text(_head(column)), justify="right", no_wrap=True)
    for row in _rows(comparison):
        cells = [_cell(column, row).partition("\n") for column in columns]
        texts = [Text.assemble(value, split, (paired, "dim")) for value, split, paired in cells]
        table.add_row(Text(_name(row)), *texts)
    return table


def _rows(comparison: Comparison) -> list[TableRow]:
    return [base_row(comparison), *map(group_row, comparison.groups)]


def _head(column: Column) -> str:
    """Return the head of a column: its name, its unit and an arrow to the better side."""
    return f"{folded(column.title)}{',' * bool(unit(column.name))}{unit(column.name)} {column.arrow}".strip()


def _name(row: TableRow) -> str:
    """Return the method with the number of its seeds and, below, its setting."""
    if row.group is None:
        return "base"
    seeds = f" ×{len(row.runs)} seeds" if len(row.runs) > 1 else ""
    hacked = " (hacked)" if row.group.hacked else ""
    return f"{folded(row.group.method, NAME)}{seeds}{hacked}\n{folded(row.group.setting, NAME)}".strip()


def _cell(column: Column, row: TableRow) -> str:
    """Return a value and, below, its paired difference to the base."""
    score = column.value(row)
    if score is None:
        return NONE
    value, diff = score.value, change(score)
    paired = "" if diff is None else f"\nΔ {half(diff, '+') or number(diff.mean)}"
    return (half(value) or column.form(value.mean)) + paired
