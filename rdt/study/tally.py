"""Votes and the key -> per question and pair of settings, who was preferred how often, and whether raters agree."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rdt.pareto import Interval
from rdt.study.rates import alpha, over_raters, wilson
from rdt.study.votes import Vote

Votes = Mapping[str, Mapping[str, Vote]]  # by rater and pair
HEADER = ("question", "first", "second", "votes", "raters", "first_wins", "ties", "second_wins", "win_rate",
          "wilson_lo", "wilson_hi", "raters_lo", "raters_hi", "alpha", "alpha_question")  # fmt: skip
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Row:
    """One question about two settings; shares are those of the first."""

    question: str
    first: str
    second: str
    wins: int  # of the first
    ties: int
    losses: int
    raters: int
    rate: Interval  # a tie is half a win; votes taken as independent
    over_raters: Interval | None  # None: a single rater
    alpha: float

    @property
    def votes(self) -> int:
        """Answers that were given."""
        return self.wins + self.ties + self.losses


def rows(key: dict[str, Any], votes: Votes) -> list[Row]:
    """One per question and pair of settings that anybody has voted on."""
    couples = [(q, a, b) for q in key["questions"] for a, b in combinations(key["settings"], 2)]
    return [row for couple in couples if (row := _row(key, votes, *couple))]


def agreement(key: dict[str, Any], votes: Votes) -> dict[str, float]:
    """Krippendorff's alpha of every question over all pairs: of left, tie and right, which chance has dealt out."""
    return {question: alpha(_units(key["pairs"], votes, question)) for question in key["questions"]}


def tally_csv(rows: list[Row], agreement: Mapping[str, float]) -> str:
    """tally.csv; an empty cell is what cannot be known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rows:
        over = (row.over_raters.lo, row.over_raters.hi) if row.over_raters else (None, None)
        alphas = (None if math.isnan(value) else value for value in (row.alpha, agreement[row.question]))
        counts = row.votes, row.raters, row.wins, row.ties, row.losses
        rate = row.rate.mean, row.rate.lo, row.rate.hi
        writer.writerow([row.question, row.first, row.second, *counts, *rate, *over, *alphas])
    return out.getvalue()


def _row(key: dict[str, Any], votes: Votes, question: str, first: str, second: str) -> Row | None:
    pairs = [pair for pair in key["pairs"] if {pair["left"]["setting"], pair["right"]["setting"]} == {first, second}]
    by_rater = [list(_outcomes(pairs, own, question, first)) for own in votes.values()]
    by_rater = [outcomes for outcomes in by_rater if outcomes]
    every = [outcome for outcomes in by_rater for outcome in outcomes]
    if not every:
        return None
    wins = [sum(POINTS[outcome] for outcome in outcomes) for outcomes in by_rater]
    return Row(
        question, first, second, every.count("first"), every.count("tie"), every.count("second"), len(by_rater),
        wilson(sum(wins), len(every)),
        over_raters(wins, [len(outcomes) for outcomes in by_rater]), alpha(_units(pairs, votes, question)),
    )  # fmt: skip


def _outcomes(pairs: list[dict], own: Mapping[str, Vote], question: str, first: str) -> Iterator[str]:
    """For one rater, "first", "tie" or "second" of every pair that was voted on."""
    for pair in pairs:
        answer = own[pair["id"]].answers.get(question) if pair["id"] in own else None
        if answer:
            yield "tie" if answer == "tie" else "first" if pair[answer]["setting"] == first else "second"


def _units(pairs: list[dict], votes: Votes, question: str) -> Iterator[list[str]]:
    """Per pair what the raters answered."""
    for pair in pairs:
        given = (own[pair["id"]].answers.get(question) for own in votes.values() if pair["id"] in own)
        yield [answer for answer in given if answer]
