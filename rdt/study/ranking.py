"""Ranks settings by people's votes: the model of Bradley and Terry (1952), in which a tie is half a win.

    P(a is preferred to b) = 1 / (1 + exp(strength_b - strength_a)),   strengths of a question sum to 0

They are fitted by the iteration of Hunter (2004), MM algorithms for generalized Bradley-Terry models. Half a tie is
added to every two settings that met, so that a setting that won every vote has a finite strength.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt.pareto import Interval, interval
from rdt.study.tally import POINTS, Votes
from rdt.text import NAME, csv_cell, folded

PRIOR = 0.25  # wins that are added to both settings of a pair that met
RESAMPLES, STEPS = 500, 200
HEADS = ("question", "setting", "votes", "strength", "strength_lo", "strength_hi")


@dataclass(frozen=True)
class Rank:
    """Holds the strength of a setting in one question, in log-odds against the mean setting."""

    question: str
    setting: str
    votes: int
    strength: Interval  # over raters, or over votes if there is one rater


def ranking(key: dict[str, Any], votes: Votes) -> list[Rank]:
    """Return the settings of every question that has votes, the strongest first."""
    return [rank for question in key["questions"] for rank in _ranked(key, votes, question)]


def strengths(wins: np.ndarray) -> np.ndarray:
    """Return strengths (B, K) of wins (B, K, K), in which [b, i, j] is how often i was preferred to j."""
    met = (wins + wins.transpose(0, 2, 1)) > 0
    counted = wins + PRIOR * met
    games, own = counted + counted.transpose(0, 2, 1), counted.sum(2)
    worth = np.ones(own.shape)
    for _ in range(STEPS):
        expected = (games / (worth[:, :, None] + worth[:, None])).sum(2)
        worth = np.where(own > 0, own / np.maximum(expected, 1e-12), 1.0)
        worth /= np.exp(np.log(worth).mean(1, keepdims=True))
    return np.log(worth)


def _ranked(key: dict[str, Any], votes: Votes, question: str) -> list[Rank]:
    names = list(key["settings"])
    units = np.array(list(_wins(key, votes, question, names))).reshape(-1, len(names), len(names))
    if not len(units):
        return []
    found, total = strengths(units.sum(0)[None])[0], units.sum(0)
    weights = np.random.default_rng(0).multinomial(len(units), np.full(len(units), 1 / len(units)), RESAMPLES)
    resampled = strengths(np.einsum("bu,uij->bij", weights, units))
    counts = (total + total.T).sum(1)
    ranks = [
        Rank(question, name, round(counts[k]), interval(float(found[k]), resampled[:, k]))
        for k, name in enumerate(names)
        if counts[k]
    ]
    return sorted(ranks, key=lambda rank: -rank.strength.mean)


def _wins(key: dict[str, Any], votes: Votes, question: str, names: list[str]) -> Iterator[np.ndarray]:
    """Yield wins (K, K) of each rater or, of a single rater, of each vote."""
    sides = {pair["id"]: (pair["left"]["setting"], pair["right"]["setting"]) for pair in key["pairs"]}
    for of_rater in votes.values():
        found = []
        for pair, vote in of_rater.items():
            left, right = (names.index(name) for name in sides[pair])
            if answer := vote.answers.get(question):
                points = POINTS[{"left": "first", "tie": "tie", "right": "second"}[answer]]
                found.append(np.zeros((len(names), len(names))))
                found[-1][left, right], found[-1][right, left] = points, 1 - points
        if len(votes) == 1:
            yield from found
        elif found:
            yield np.sum(found, axis=0)


def ranking_csv(ranks: list[Rank]) -> str:
    """Return ranks.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    for rank in ranks:
        value = rank.strength
        writer.writerow([csv_cell(rank.question), csv_cell(rank.setting), rank.votes, value.mean, value.lo, value.hi])
    return out.getvalue()


def print_ranking(ranks: list[Rank]) -> None:
    """Print the settings of each question from the strongest, with a bar of their interval."""
    ends = [bound for rank in ranks for bound in (rank.strength.lo, rank.strength.hi)]
    least, most = min(ends), max(ends)
    wide = max(len(folded(rank.setting, NAME)) for rank in ranks)
    for k, rank in enumerate(ranks):
        if k == 0 or ranks[k - 1].question != rank.question:
            print(f"ranking  {folded(rank.question, NAME)}: log-odds against the mean setting, 95 % interval")
        value = rank.strength
        words = f"{value.mean:+.2f} [{value.lo:+.2f}, {value.hi:+.2f}]"
        print(f"  {folded(rank.setting, NAME):<{wide}}  {words:<22} {_bar(value, least, most)}".rstrip())


def _bar(value: Interval, least: float, most: float, across: int = 24) -> str:
    """Return an interval as a line of characters, with its mean."""
    places = [round((at - least) / ((most - least) or 1.0) * (across - 1)) for at in (value.lo, value.mean, value.hi)]
    return "".join(
        "●" if k == places[1] else "─" if places[0] <= k <= places[2] else " " for k in range(across)
    ).rstrip()
