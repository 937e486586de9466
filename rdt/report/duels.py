"""The methods of a comparison against each other, by the fronts that their runs trace."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from rdt.pareto import Draws, Interval, Versus, versus
from rdt.report.fronts import Comparison
from rdt.report.text import difference, short
from rdt.result import Point

RESAMPLES = 1000
HEAD = ("front", "against", "reward", "hypervolume", "P(larger)", "P(dominates)", "epsilon",
        "diversity at equal reward", "reward at equal diversity", "")  # fmt: skip


@dataclass(frozen=True)
class Duel:
    """One method against another in the plane of one reward and the comparison's diversity."""

    ours: str
    theirs: str
    reward: str
    found: Versus
    whole: float  # the limit's hypervolume, which shares are of; 1 where no limit is known

    @property
    def cells(self) -> list[str]:
        """As HEAD names them; what has no value is a dash."""
        f, area = self.found, (self.found.hypervolume.mean, self.found.hypervolume.lo, self.found.hypervolume.hi)
        told = [_told(Interval(*(value / self.whole for value in area)))]
        told += [f"{f.larger:.2f}", f"{f.dominates:.2f}", _told(f.epsilon), _told(f.diversity), _told(f.reward)]
        return [self.ours, self.theirs, short(self.reward), *told, f.verdict]


@lru_cache(maxsize=16)
def duels(comparison: Comparison) -> tuple[Duel, ...]:
    """Every pair of methods that carry values by prompt, in each plane; the first to appear is ours."""
    return tuple(_fought(comparison))


def _fought(comparison: Comparison) -> Iterator[Duel]:
    for reward in comparison.rewards:
        traced = {method: _traced(comparison, method, reward) for method in comparison.methods}
        fronts = {method: front for method, front in traced.items() if front is not None}
        if len(fronts) < 2:
            continue
        start = comparison.base[reward].value.mean
        corner, scale = (start, 0.0), _scale(list(fronts.values()))
        for ours, theirs in combinations(fronts, 2):
            found = versus(fronts[ours], fronts[theirs], corner, scale)
            yield Duel(ours, theirs, reward, found, comparison.limit_above(reward, start))


def duels_csv(comparisons: list[Comparison]) -> str:
    """One row per pair and plane: an interval has columns name, name_lo and name_hi; empty where it has no value."""
    out = io.StringIO()
    quantities = ("hypervolume", "epsilon", "diversity", "reward")
    columns = [f"{name}{end}" for name in quantities for end in ("", "_lo", "_hi")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "front", "against", "in", *columns, "larger", "dominates", "dominated", "limit", "verdict"]
    )
    for comparison in comparisons:
        for duel in duels(comparison):
            found = [getattr(duel.found, name) for name in quantities]
            values = [v if np.isfinite(v) else "" for one in found for v in (one.mean, one.lo, one.hi)]
            odds = (duel.found.larger, duel.found.dominates, duel.found.dominated)
            names = (comparison.model, duel.ours, duel.theirs, duel.reward)
            writer.writerow([*names, *values, *odds, duel.whole, duel.found.verdict])
    return out.getvalue()


def _traced(comparison: Comparison, method: str, reward: str) -> np.ndarray | None:
    """(1 + RESAMPLES, N, 2): base and groups of a method, as measured and resampled; None without values by prompt.

    What hard or easy prompts a resample has is taken out: its rewards are moved to where the base has its own.
    """
    names, points = (reward, comparison.diversity), []
    groups = [group for group in comparison.groups if group.method == method]
    for members in [[run.base for run in groups[0].runs], *(group.points for group in groups)]:
        rows = [row for name in names if (row := _values(members, name)) is not None]
        if len(rows) < len(names) or any(row.shape[1] != comparison.n_prompts for row in rows):
            return None
        draws = Draws(len(members), comparison.n_prompts, seed=0, resamples=RESAMPLES)
        points.append([np.concatenate([[row.mean()], draws.means(row)]) for row in rows])
    front = np.array(points).transpose(2, 0, 1)
    front[..., 0] -= front[:, :1, 0] - front[0, 0, 0]
    return front


def _values(points: Sequence[Point], name: str) -> np.ndarray | None:
    """(S, P) of one score; None where a seed or a prompt lacks it."""
    rows = [point.per_prompt.get(name) or [] for point in points]
    if not rows[0] or len({len(row) for row in rows}) > 1 or not np.isfinite(rows).all():
        return None
    return np.array(rows, dtype=float)


def _scale(fronts: list[np.ndarray]) -> np.ndarray:
    """(2,), the range that the fronts span in each quantity: what epsilon is a share of."""
    points = np.concatenate([front[0] for front in fronts])
    span = points.max(0) - points.min(0)
    return np.where(span > 0, span, 1)


def _told(value: Interval) -> str:
    return difference(value) if np.isfinite([value.mean, value.lo, value.hi]).all() else "–"
