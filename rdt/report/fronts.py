"""Runs as what may be compared: groups of seeds, their fronts, and the limit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdt.pareto import front, hypervolume, hypervolume_under, largest_gap
from rdt.report.records import Run
from rdt.result import Point, Score


@dataclass(frozen=True)
class Group:
    """The same point of the same method and settings over seeds."""

    method: str
    name: str  # what a legend calls it
    setting: str  # what sets it apart from the other groups of its method; may be empty
    runs: tuple[Run, ...]
    points: tuple[Point, ...]  # one per run
    scores: dict[str, Score]  # over seeds and prompts


@dataclass(frozen=True)
class Curve:
    """A limit in one plane: (M,) rewards against diversity, exact and as the finite sample of a run would read it."""

    reward: np.ndarray
    exact: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True, eq=False)  # one is itself alone, so that what is found about it can be remembered
class Comparison:
    """Groups measured on the same model, prompts and number of images."""

    model: str
    n_prompts: int
    n_per_prompt: int
    diversity: str  # name of the score on the x axis
    rewards: tuple[str, ...]  # names of the scores on the y axes, what was optimised first
    base: dict[str, Score]
    groups: tuple[Group, ...]
    limit: dict[str, Any] | None

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group.method for group in self.groups))

    def plane(self, scores: Iterable[dict[str, Score]], reward: str) -> np.ndarray:
        """(N, 2) reward and diversity of those that carry both."""
        both = [s for s in scores if {reward, self.diversity} <= set(s)]
        return np.array([(s[reward].value.mean, s[self.diversity].value.mean) for s in both]).reshape(-1, 2)

    def on_front(self, method: str, reward: str) -> tuple[list[Group], np.ndarray]:
        """The groups of a method that carry both scores, and the mask of those that none of them dominates."""
        groups = [g for g in self.groups if g.method == method and {reward, self.diversity} <= set(g.scores)]
        return groups, front(self.plane([g.scores for g in groups], reward))

    def curve(self, reward: str, kind: str = "frontier") -> Curve | None:
        """The limit of that reward and this diversity; "kl_frontier" is what the KL penalty alone can reach."""
        limit, u, d = self.limit or {}, reward.partition("/")[2], self.diversity.partition("/")[2]
        rows = limit.get(kind if u == limit.get("reward") else f"proxy_{kind}") or []
        rows = sorted((row for row in rows if u in row and d in row), key=lambda row: row[u])
        if d != limit.get("diversity") or len(rows) < 2:
            return None
        columns = [
            [row[u] for row in rows],
            [row[d] for row in rows],
            [row.get(f"{d}_sampled", row[d]) for row in rows],
        ]
        return Curve(*(np.array(column, dtype=float) for column in columns))

    def against_limit(self, method: str, reward: str) -> tuple[float, float] | None:
        """Share of the limit's hypervolume above (base reward, no diversity), and the largest gap to the limit."""
        curve, (groups, mask) = self.curve(reward), self.on_front(method, reward)
        if curve is None or not groups or reward not in self.base:
            return None
        plane = self.plane([g.scores for g in groups], reward)[mask]
        limit, start = np.stack([curve.reward, curve.sampled], axis=1), self.base[reward].value.mean
        flat = np.maximum(plane, [limit[0, 0], -np.inf])  # below its first reward the limit is as diverse as can be
        return hypervolume(plane, (start, 0.0)) / self.limit_above(reward, start), largest_gap(flat, limit)

    def limit_above(self, reward: str, start: float) -> float:
        """The limit's hypervolume above (start, no diversity); 1 where no limit is known, nan where it has none."""
        curve = self.curve(reward)
        if curve is None:
            return 1.0
        limit = np.stack([curve.reward, curve.sampled], axis=1)
        return hypervolume_under(_above(limit, start), (start, 0.0)) or float("nan")


def _above(limit: np.ndarray, reward: float) -> np.ndarray:
    """The limit from that reward on, flat to the left of its first point."""
    at = np.interp(reward, limit[:, 0], limit[:, 1])
    return np.concatenate([[[reward, at]], limit[limit[:, 0] > reward]])
