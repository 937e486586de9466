"""One method's front against another's: by how much it is better, and how surely; arrays only.

A front here is (R, N, 2), N points of two maximised quantities: row 0 as measured, the others under resamples that both
sides share (`rdt.pareto.Draws`). Additive epsilon indicator: Zitzler et al. 2003, Performance assessment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rdt.pareto import Interval, interval, matched_difference


@dataclass(frozen=True)
class Versus:
    """Ours minus theirs, with 95 % intervals; nan where a quantity has no value."""

    hypervolume: Interval
    larger: float  # P(our hypervolume is the larger one)
    dominates: float  # P(every point of theirs is no better than some point of ours)
    dominated: float  # P(the reverse)
    epsilon: Interval  # the least gain on all our points, in shares of the scale, that would make ours dominate theirs
    diversity: Interval  # at equal reward, over the common range
    reward: Interval  # at equal diversity, over the common range

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "not told apart", by the interval of the hypervolumes' difference."""
        if self.hypervolume.lo > 0:
            return "better"
        return "worse" if self.hypervolume.hi < 0 else "not told apart"


def versus(ours: np.ndarray, theirs: np.ndarray, reference: ArrayLike, scale: ArrayLike) -> Versus:
    """Fronts (R, N, 2) and (R, M, 2) of (reward, diversity); `scale` (2,) makes the two comparable in epsilon."""
    if len(ours) != len(theirs):
        raise ValueError(f"ours has {len(ours)} resamples, theirs {len(theirs)}; both want the same")
    gain = hypervolumes(ours, reference) - hypervolumes(theirs, reference)
    shifts, back = epsilons(ours, theirs, scale), epsilons(theirs, ours, scale)
    pairs = list(zip(ours, theirs, strict=True))
    diversity = np.array([matched_difference(a, b) for a, b in pairs])
    reward = np.array([matched_difference(a[:, ::-1], b[:, ::-1]) for a, b in pairs])
    return Versus(
        _told(gain), _share(gain > 0), _share(shifts <= 0), _share(back <= 0), _told(shifts), _told(diversity),
        _told(reward),
    )  # fmt: skip


def hypervolumes(fronts: np.ndarray, reference: ArrayLike) -> np.ndarray:
    """(R,) areas that fronts (R, N, 2) dominate above reference (2,): `rdt.pareto.hypervolume` of each row."""
    above = np.clip(fronts - np.asarray(reference, dtype=float), 0, None)
    above = np.take_along_axis(above, np.argsort(-above[..., :1], axis=1, kind="stable"), axis=1)
    heights = np.maximum.accumulate(above[..., 1], axis=1)
    return (above[..., 0] * np.diff(heights, prepend=0, axis=1)).sum(1)


def epsilons(ours: np.ndarray, theirs: np.ndarray, scale: ArrayLike) -> np.ndarray:
    """(R,) additive epsilon indicators, in shares of scale (2,); 0 or less where ours weakly dominates theirs."""
    lacking = (theirs[:, :, None] - ours[:, None]) / np.asarray(scale, dtype=float)  # (R, M, N, 2)
    return lacking.max(-1).min(-1).max(-1)


def _told(values: np.ndarray) -> Interval:
    return interval(float(values[0]), values[1:])


def _share(true: np.ndarray) -> float:
    return float(true[1:].mean())
