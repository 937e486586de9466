"""Compares the fronts of every two methods, over common resamples of prompts and seeds."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from rdt.pareto import Draws, Interval, Versus, versus
from rdt.report.compare import Comparison
from rdt.report.text import difference, short
from rdt.result import Point
from rdt.text import csv_cell

RESAMPLES = 1000
TITLES = ("front", "against", "reward", "verdict", "hypervolume", "P(larger)", "P(dominates)", "epsilon",
          "diversity at equal reward", "reward at equal diversity")  # fmt: skip
ONE_SEED = {"better": "ahead on these prompts (one seed)", "worse": "behind on these prompts (one seed)"}
INTERVALS = ("hypervolume", "epsilon", "diversity", "reward")  # the quantities of a Versus that have an interval


@dataclass(frozen=True)
class MethodPair:
    """Compares one method with another in the plane of one reward and the comparison's diversity."""

    first: str
    second: str
    reward: str
    difference: Versus  # first minus second
    limit: float  # the limit's hypervolume, of which shares are taken; 1 if no limit is known
    seeds: int  # the least that a setting of the two methods has

    @property
    def verdict(self) -> str:
        """Return the verdict; one seed judges no method, since it says nothing about others."""
        found = self.difference.verdict
        if self.seeds > 1 or found not in ONE_SEED:
            return found if self.seeds > 1 else f"{found} (one seed)"
        return ONE_SEED[found]

    @property
    def cells(self) -> list[str]:
        """Return the cells of a table row whose columns are TITLES."""
        d, area = self.difference, self.difference.hypervolume
        share = Interval(area.mean / self.limit, area.lo / self.limit, area.hi / self.limit)
        odds = [f"{d.larger:.2f}", f"{d.dominates:.2f}"]
        others = [difference(d.epsilon), difference(d.diversity), difference(d.reward)]
        return [self.first, self.second, short(self.reward), self.verdict, difference(share), *odds, *others]


@lru_cache(maxsize=16)
def method_pairs(comparison: Comparison) -> tuple[MethodPair, ...]:
    """Return every pair of methods that recorded values by prompt, for each reward, in the order of the methods."""
    return tuple(pair for reward in comparison.rewards for pair in _pairs(comparison, reward))


def _pairs(comparison: Comparison, reward: str) -> Iterator[MethodPair]:
    resampled = {method: _resampled_front(comparison, method, reward) for method in comparison.methods}
    fronts = {method: front for method, front in resampled.items() if front is not None}
    if len(fronts) < 2:
        return
    corner, scale = (comparison.base[reward].value.mean, 0.0), _scale(list(fronts.values()))
    for first, second in combinations(fronts, 2):
        found = versus(fronts[first], fronts[second], corner, scale)
        seeds = min(len(group.runs) for group in comparison.groups if group.method in (first, second))
        yield MethodPair(first, second, reward, found, comparison.limit_hypervolume(reward), seeds)


def duels_csv(comparisons: list[Comparison]) -> str:
    """Return duels.csv: one row per pair and reward; intervals have columns name, name_lo and name_hi."""
    out = io.StringIO()
    columns = [f"{name}{end}" for name in INTERVALS for end in ("", "_lo", "_hi")]
    head = [
        "model",
        "front",
        "against",
        "in",
        *columns,
        "larger",
        "dominates",
        "dominated",
        "limit",
        "seeds",
        "verdict",
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for comparison in comparisons:
        writer.writerows(map(csv_cell, _csv_row(comparison, pair)) for pair in method_pairs(comparison))
    return out.getvalue()


def _csv_row(comparison: Comparison, pair: MethodPair) -> list[str | float]:
    """Return a row of duels.csv; a value that does not exist is empty."""
    d = pair.difference
    intervals = [getattr(d, name) for name in INTERVALS]
    values = [value if np.isfinite(value) else "" for one in intervals for value in (one.mean, one.lo, one.hi)]
    odds = (d.larger, d.dominates, d.dominated)
    return [
        comparison.model,
        pair.first,
        pair.second,
        pair.reward,
        *values,
        *odds,
        pair.limit,
        pair.seeds,
        pair.verdict,
    ]


def _resampled_front(comparison: Comparison, method: str, reward: str) -> np.ndarray | None:
    """Return base and groups of a method, (1 + RESAMPLES, N, 2): as measured, then resampled.

    None if values by prompt are missing. A resample may hold easier prompts than another; its rewards are therefore
    shifted so that the base keeps the reward that was measured.
    """
    groups = [group for group in comparison.groups if group.method == method]
    members: list[Sequence[Point]] = [[run.result.base for run in groups[0].runs]]
    members += [group.points for group in groups]
    points = [_resampled(comparison, one, reward) for one in members]
    known = [point for point in points if point is not None]
    if len(known) < len(points):
        return None
    front = np.array(known).transpose(2, 0, 1)
    front[..., 0] -= front[:, :1, 0] - front[0, 0, 0]
    return front


def _resampled(comparison: Comparison, points: Sequence[Point], reward: str) -> list[np.ndarray] | None:
    """Return the means of reward and diversity, (1 + RESAMPLES,) each; None if values by prompt are missing."""
    rows = [row for name in (reward, comparison.diversity) if (row := _by_prompt(points, name)) is not None]
    if len(rows) < 2 or any(row.shape[1] != comparison.n_prompts for row in rows):
        return None
    draws = Draws(len(points), comparison.n_prompts, seed=0, resamples=RESAMPLES)
    return [np.concatenate([[row.mean()], draws.means(row)]) for row in rows]


def _by_prompt(points: Sequence[Point], name: str) -> np.ndarray | None:
    """Return one score by seed and prompt, (S, P); None if a seed or a prompt has none."""
    rows = [point.per_prompt.get(name) or [] for point in points]
    if not rows[0] or len({len(row) for row in rows}) > 1 or not np.isfinite(rows).all():
        return None
    return np.array(rows, dtype=float)


def _scale(fronts: list[np.ndarray]) -> np.ndarray:
    """Return the range (2,) that the fronts span in each quantity, in shares of which epsilon is given."""
    points = np.concatenate([front[0] for front in fronts])
    span = points.max(0) - points.min(0)
    return np.where(span > 0, span, 1)
