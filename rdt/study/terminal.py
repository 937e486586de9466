"""What was made and what was found, for who sits at the terminal."""

import math
from collections.abc import Mapping
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdt.pareto import Interval
from rdt.study import Written
from rdt.study.tally import Row, Votes


def print_written(made: Written) -> None:
    """Where the study is, what it holds and who gets which file."""
    pairs, settings = made.key["pairs"], made.key["settings"]
    paired, images = sum(pair["same_noise"] for pair in pairs), made.key["set"]
    for failure in made.failures:
        print(f"failed   {failure.path}: {failure.reason}")
    print(f"study    {made.key['study']}: {len(pairs)} pairs of {images} image{'s' * (images > 1)} a side, {paired} of"
          f" them from the same noise; {len(settings)} settings: {', '.join(settings)}")  # fmt: skip
    print(f"page     {made.page}, {made.page.stat().st_size / 1e6:.1f} MB: for the raters")
    print(f"key      {made.page.with_name('key.json')}: for you alone; the tally reads it")


def print_tally(rows: list[Row], agreement: Mapping[str, float], votes: Votes) -> None:
    """One table, then who voted and how far they agree."""
    console = Console(highlight=False)
    table = Table(title="Preferred, with 95 % intervals; a tie is half a win", title_justify="left", box=SIMPLE_HEAD)
    for name in ("question", "of", "against"):
        table.add_column(name)
    for name in ("wins", "ties", "losses", "rate", "if votes are independent", "over raters", "alpha"):
        table.add_column(name, justify="right")
    for k, row in enumerate(rows):
        new = k == 0 or rows[k - 1].question != row.question
        table.add_row(
            row.question if new else "", row.first, row.second, *map(str, (row.wins, row.ties, row.losses)),
            f"{row.rate.mean:.1%}", _spread(row.rate), _spread(row.over_raters), _number(row.alpha),
            end_section=k + 1 < len(rows) and rows[k + 1].question != row.question,
        )  # fmt: skip
    console.print(table)
    seconds = [vote.seconds for own in votes.values() for vote in own.values()]
    raters = f"{len(votes)} rater{'s' * (len(votes) != 1)}"
    print(f"votes    {raters}, {len(seconds)} pairs answered, {median(seconds):.1f} s in the median")
    alphas = ", ".join(f"{question} {_number(value)}" for question, value in agreement.items())
    print(f"alpha    {alphas} (Krippendorff's, over all pairs; 1 agreement, 0 chance)")


def _spread(value: Interval | None) -> str:
    return f"{value.lo:.1%} to {value.hi:.1%}" if value else "–"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
