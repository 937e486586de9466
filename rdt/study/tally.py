"""Counts votes: how often one setting is preferred to another, with intervals, and how far raters agree."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rdt.pareto import Interval, bootstrap_mean
from rdt.study.votes import Vote
from rdt.text import NAME, csv_cell, folded

Votes = Mapping[str, Mapping[str, Vote]]  # by rater and pair
Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
HASTY = 1.0  # seconds; nobody compares two images in less
HEADER = ("question", "first", "second", "votes", "raters", "first_wins", "ties", "second_wins", "win_rate",
          "wilson_lo", "wilson_hi", "raters_lo", "raters_hi", "alpha", "alpha_question")  # fmt: skip


@dataclass(frozen=True)
class Preference:
    """Counts the answers to one question about two settings; the shares are those of the first."""

    question: str
    first: str
    second: str
    wins: int  # of the first
    ties: int
    losses: int
    raters: int
    rate: Interval  # a tie is half a win; votes are taken as independent
    over_raters: Interval | None  # None for a single rater
    alpha: float

    @property
    def votes(self) -> int:
        """Return the number of answers."""
        return self.wins + self.ties + self.losses


def preferences(key: dict[str, Any], votes: Votes) -> list[Preference]:
    """Return one row per question and pair of settings that has a vote."""
    couples = [(q, a, b) for q in key["questions"] for a, b in combinations(key["settings"], 2)]
    return [row for couple in couples if (row := _preference(key, votes, *couple))]


def agreement(key: dict[str, Any], votes: Votes) -> dict[str, float]:
    """Return Krippendorff's alpha over all pairs, by question; the units are left, tie and right as shown."""
    return {question: alpha(_units(key["pairs"], votes, question)) for question in key["questions"]}


def _preference(key: dict[str, Any], votes: Votes, question: str, first: str, second: str) -> Preference | None:
    pairs = [pair for pair in key["pairs"] if {pair["left"]["setting"], pair["right"]["setting"]} == {first, second}]
    by_rater = [list(_outcomes(pairs, of_rater, question, first)) for of_rater in votes.values()]
    by_rater = [outcomes for outcomes in by_rater if outcomes]
    every = [outcome for outcomes in by_rater for outcome in outcomes]
    if not every:
        return None
    wins = [sum(POINTS[outcome] for outcome in outcomes) for outcomes in by_rater]
    return Preference(
        question=question,
        first=first,
        second=second,
        wins=every.count("first"),
        ties=every.count("tie"),
        losses=every.count("second"),
        raters=len(by_rater),
        rate=wilson(sum(wins), len(every)),
        over_raters=over_raters(wins, [len(outcomes) for outcomes in by_rater]),
        alpha=alpha(_units(pairs, votes, question)),
    )


def _outcomes(pairs: list[dict], votes: Mapping[str, Vote], question: str, first: str) -> Iterator[str]:
    """Yield "first", "tie" or "second" for every pair on which one rater has voted."""
    for pair in pairs:
        answer = votes[pair["id"]].answers.get(question) if pair["id"] in votes else None
        if answer:
            yield "tie" if answer == "tie" else "first" if pair[answer]["setting"] == first else "second"


def _units(pairs: list[dict], votes: Votes, question: str) -> Iterator[list[str]]:
    """Yield the raters' answers to every pair."""
    for pair in pairs:
        answers = (of_rater[pair["id"]].answers.get(question) for of_rater in votes.values() if pair["id"] in of_rater)
        yield [answer for answer in answers if answer]


# rates and agreement


def wilson(wins: float, votes: int) -> Interval:
    """Return the share of wins and its 95 % score interval (Wilson 1927) for independent votes; a tie is half a win."""
    share, spread = wins / votes, Z * Z / votes
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / votes + spread / votes / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def over_raters(wins: Sequence[float], votes: Sequence[int], seed: int = 0) -> Interval | None:
    """Return the share of wins and its 95 % bootstrap interval over raters, from each rater's wins and votes.

    None for a single rater. The ratio of sums is linearised, so that a rater weighs as much as their votes.
    """
    if len(votes) < 2:
        return None
    share, each = sum(wins) / sum(votes), sum(votes) / len(votes)
    values = [share + (w - share * n) / each for w, n in zip(wins, votes, strict=True)]
    found = bootstrap_mean(values, seed)
    return Interval(share, max(0.0, found.lo), min(1.0, found.hi))


def alpha(units: Iterable[Sequence[str]]) -> float:
    """Return Krippendorff's alpha of nominal answers, one unit per judged pair; 1 is agreement, 0 is chance.

    It is nan if nothing was judged twice or every answer is the same. Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability; with n_c answers c among n in units judged twice or more, and m_u in unit u,
    alpha = 1 - (n - 1) sum_u (m_u^2 - sum_c n_uc^2) / (m_u - 1) / (n^2 - sum_c n_c^2).
    """
    judged = [Counter(unit) for unit in units if len(unit) > 1]
    total = sum(judged, Counter[str]())
    n, chance = total.total(), total.total() ** 2 - _squares(total)
    if not chance:
        return math.nan
    disagreement = sum((unit.total() ** 2 - _squares(unit)) / (unit.total() - 1) for unit in judged)
    return 1 - (n - 1) * disagreement / chance


def _squares(counts: Counter[str]) -> int:
    return sum(count * count for count in counts.values())


# tally.csv and the terminal


def tally_csv(rows: list[Preference], agreement: Mapping[str, float]) -> str:
    """Return tally.csv; a cell is empty if its value cannot be known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rows:
        over = (row.over_raters.lo, row.over_raters.hi) if row.over_raters else (None, None)
        alphas = (None if math.isnan(value) else value for value in (row.alpha, agreement[row.question]))
        counts = row.votes, row.raters, row.wins, row.ties, row.losses
        rate = row.rate.mean, row.rate.lo, row.rate.hi
        writer.writerow([*map(csv_cell, (row.question, row.first, row.second)), *counts, *rate, *over, *alphas])
    return out.getvalue()


def print_tally(rows: list[Preference], agreement: Mapping[str, float], votes: Votes) -> None:
    """Print the rows as a table, then the number of votes and how far the raters agree."""
    console, table = Console(highlight=False), _table(rows)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
    else:
        print("\n".join(_stacked(rows)))
    seconds = [vote.seconds for of_rater in votes.values() for vote in of_rater.values()]
    raters = f"{len(votes)} rater{'s' * (len(votes) != 1)}"
    print(f"votes    {raters}, {len(seconds)} pairs answered, {median(seconds):.1f} s in the median")
    hasty = sum(one < HASTY for one in seconds)
    if hasty:
        print(
            f"hasty    {hasty} of {len(seconds)} pairs were answered in under {HASTY:g} s; look before you count them"
        )
    alphas = ", ".join(f"{folded(question, NAME)} {_number(value)}" for question, value in agreement.items())
    print(f"alpha    {alphas} (Krippendorff's, over all pairs; 1 agreement, 0 chance)")


def _stacked(rows: list[Preference]) -> Iterator[str]:
    """Yield the table as two lines for each pair, for terminals that are too narrow for it."""
    for row in rows:
        question, first, second = (folded(name, NAME) for name in (row.question, row.first, row.second))
        yield f"{question}: {first} against {second}"
        over = f"{_range(row.over_raters)} over raters" if row.over_raters else f"{_range(row.rate)} if independent"
        yield f"  {row.wins} wins, {row.ties} ties, {row.losses} losses: {row.rate.mean:.1%}, {over}"


def _table(rows: list[Preference]) -> Table:
    table = Table(title="Preferred, with 95 % intervals; a tie is half a win", title_justify="left", box=SIMPLE_HEAD)
    for name in ("question", "of", "against"):
        table.add_column(name)
    for name in ("wins", "ties", "losses", "rate", "if votes are independent", "over raters", "alpha"):
        table.add_column(name, justify="right")
    for k, row in enumerate(rows):
        new = k == 0 or rows[k - 1].question != row.question
        rates = f"{row.rate.mean:.1%}", _range(row.rate), _range(row.over_raters), _number(row.alpha)
        counts = str(row.wins), str(row.ties), str(row.losses)
        last = k + 1 < len(rows) and rows[k + 1].question != row.question
        names = (Text(folded(name, NAME)) for name in (row.question if new else "", row.first, row.second))
        table.add_row(*names, *counts, *rates, end_section=last)
    return table


def _range(value: Interval | None) -> str:
    return f"{value.lo:.1%} to {value.hi:.1%}" if value else "–"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
