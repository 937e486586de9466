"""The scores of comparisons as tables in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rdt.pareto import Interval
from rdt.report.duels import duels
from rdt.report.fronts import Comparison
from rdt.report.records import Failure
from rdt.report.table import columns, limit_rows
from rdt.report.text import number, short
from rdt.result import Score


def print_tables(comparisons: list[Comparison], failures: list[Failure]) -> None:
    """The main scores, the fronts against the limit, and the failures."""
    console = Console(highlight=False)
    for comparison in comparisons:
        console.print(_table(comparison))
        for method, reward, share, gap in limit_rows(comparison):
            known = f", largest gap to it {number(gap)}" if gap == gap else ""
            console.print(
                f"{method}: {share:.1%} of the limit's hypervolume in {reward}{known}", style="dim", markup=False
            )
        for duel in duels(comparison):
            ours, theirs, where, area, larger, *_, verdict = duel.cells
            said = f"{ours} against {theirs} in {where}: {verdict}, hypervolume {area}, P(larger) {larger}"
            console.print(said, style="dim", markup=False)
    for failure in failures:
        console.print(f"failed: {failure.path}: {failure.reason}", style="red", markup=False, soft_wrap=True)


def _table(comparison: Comparison) -> Table:
    names = [n for n in columns(comparison) if n in (*comparison.rewards, comparison.diversity, "kl_nats")]
    images = f"{comparison.n_prompts} prompts × {comparison.n_per_prompt} images"
    title = f"{comparison.model}, {images}; ± half the 95 % interval, Δ paired"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(short(name), justify="right", no_wrap=True)
    table.add_row("base", *(_cell(comparison.base.get(name)) for name in names))
    for group in comparison.groups:
        seeds = f" ×{len(group.runs)} seeds" if len(group.runs) > 1 else ""
        table.add_row(
            Text(f"{group.method}{seeds}\n{group.setting}".strip()), *(_cell(group.scores.get(name)) for name in names)
        )
    return table


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    change = f"\n[dim]Δ {_spread(score.diff, '+.2g')}[/dim]" if score.diff not in (None, score.value) else ""
    return _spread(score.value) + change


def _spread(value: Interval | None, form: str = "#.3g") -> str:
    if value is None or value.lo == value.hi:
        return number(value.mean) if value else "–"
    return f"{value.mean:{form}}".rstrip(".") + f" ±{(value.hi - value.lo) / 2:.1g}"
