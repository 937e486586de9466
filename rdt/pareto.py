"""Fronts of two maximised quantities, intervals over prompts and runs, and one front against another; arrays only.

A front is (N, 2): N points of (reward, diversity). `versus` takes it as (R, N, 2): row 0 as measured, the others under
resamples that both fronts share (`Draws`). Additive epsilon indicator: Zitzler et al. 2003, Performance assessment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def front(points: ArrayLike) -> np.ndarray:
    """Return a mask (N,) of the points (N, 2) that no other point dominates; of equal points all are kept."""
    p = _pairs(points, "points")
    no_worse = (p[None] >= p[:, None]).all(-1)  # (N, N): column against row
    better = (p[None] > p[:, None]).any(-1)
    return ~(no_worse & better).any(1)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the exact area that points (N, 2) dominate above reference (2,); points below it add nothing."""
    p, (x0, y0) = _pairs(points, "points"), _pairs([reference], "reference")[0]
    p = p[(p[:, 0] > x0) & (p[:, 1] > y0)]
    p = p[np.argsort(-p[:, 0], kind="stable")]
    heights = np.maximum.accumulate(p[:, 1])
    return float(((p[:, 0] - x0) * np.diff(heights, prepend=y0)).sum())


def hypervolume_under(curve: ArrayLike, reference: ArrayLike) -> float:
    """Return the area between reference (2,) and the straight lines through a curve (M, 2)."""
    return hypervolume(_dense(_pairs(curve, "curve")), reference)


def largest_gap(points: ArrayLike, frontier: ArrayLike) -> float:
    """Return the most diversity by which (reward, diversity) points (N, 2) fall below the frontier (M, 2).

    Points are compared at equal reward, inside the frontier's range of reward: nan if no point is inside, negative if
    all of them lie above the frontier.
    """
    p, f = _pairs(points, "points"), _pairs(frontier, "frontier")
    if not len(p) or not len(f):
        return float("nan")
    f = f[np.argsort(f[:, 0], kind="stable")]
    p = p[(p[:, 0] >= f[0, 0]) & (p[:, 0] <= f[-1, 0])]
    gaps = np.interp(p[:, 0], f[:, 0], f[:, 1]) - p[:, 1]
    return float(gaps.max()) if len(gaps) else float("nan")


def matched_difference(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return how much more of the second quantity `ours` has at an equal first one, averaged over the common range.

    Both are curves through their points (N, 2). There is no extrapolation: nan if the ranges do not overlap.
    """
    a, b = (_curve(_pairs(points, name)) for points, name in ((ours, "ours"), (theirs, "theirs")))
    if not len(a) or not len(b):
        return float("nan")
    lo, hi = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    if lo >= hi:
        return float("nan")
    knots = np.concatenate([a[:, 0], b[:, 0]])
    at = np.unique(np.concatenate([[lo, hi], knots[(knots > lo) & (knots < hi)]]))
    gain = np.interp(at, a[:, 0], a[:, 1]) - np.interp(at, b[:, 0], b[:, 1])
    return float(np.trapezoid(gain, at) / (hi - lo))


@dataclass(frozen=True)
class Interval:
    """Hold a mean and its 95 % interval, in the unit of what was averaged."""

    mean: float
    lo: float
    hi: float


class Draws:
    """Draw one set of weights for everything that is to be compared: a multiplier bootstrap of S runs and P prompts.

    The multipliers make a mean of n vary as Student's t with n - 1 degrees of freedom: resampling 3 runs would cover
    80 %, this covers 95 %. The interaction of run and prompt counts in both, so intervals that it dominates are too
    wide rather than too narrow. The prompts' weights do not depend on the number of runs.
    """

    def __init__(self, runs: int, prompts: int, seed: int, resamples: int = 2000) -> None:
        self.runs, self.prompts = (
            _weights(np.random.default_rng((seed, axis, n)), n, resamples) for axis, n in enumerate((runs, prompts))
        )

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the resampled means (resamples,) of values (S, P)."""
        return self.runs @ values.mean(1) + self.prompts @ values.mean(0) - values.mean()


def interval(value: float, resampled: np.ndarray) -> Interval:
    """Return a statistic with the 95 % percentile interval of its resampled values, of which nan are left out."""
    known = resampled[np.isfinite(resampled)]
    lo, hi = np.percentile(known, [2.5, 97.5]) if len(known) else (float("nan"), float("nan"))
    return Interval(value, float(lo), float(hi))


def bootstrap_mean(values: ArrayLike, seed: int, resamples: int = 2000) -> Interval:
    """Return the mean of values (P,) or (S, P) and its 95 % interval over the P prompts and, if S > 1, the S runs."""
    v = np.atleast_2d(np.asarray(values, dtype=float))
    if v.ndim != 2 or v.size == 0 or not np.isfinite(v).all():
        raise ValueError(f"values has shape {v.shape}, finite={np.isfinite(v).all()}; want finite (P,) or (S, P)")
    return interval(float(v.mean()), Draws(v.shape[0], v.shape[1], seed, resamples).means(v))


def paired_difference(values: ArrayLike, base: ArrayLike, seed: int) -> Interval:
    """Return the mean and 95 % interval of values minus base, prompt by prompt; both are (P,) or (S, P)."""
    v, b = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    if v.shape != b.shape:
        raise ValueError(f"values has shape {v.shape}, base {b.shape}; a paired difference wants the same prompts")
    return bootstrap_mean(v - b, seed)


@dataclass(frozen=True)
class Versus:
    """Compare our front with theirs: differences are ours minus theirs, nan if a quantity has no value."""

    hypervolume: Interval
    larger: float  # P(our hypervolume is the larger one)
    dominates: float  # P(every point of theirs is no better than some point of ours)
    dominated: float  # P(the reverse)
    epsilon: Interval  # the least gain on all our points, in shares of the scale, that would make ours dominate theirs
    diversity: Interval  # at equal reward, over the common range
    reward: Interval  # at equal diversity, over the common range

    @property
    def verdict(self) -> str:
        """Return the verdict that the interval of the hypervolumes' difference gives."""
        if self.hypervolume.lo > 0:
            return "better"
        return "worse" if self.hypervolume.hi < 0 else "not told apart"


def versus(ours: np.ndarray, theirs: np.ndarray, reference: ArrayLike, scale: ArrayLike) -> Versus:
    """Compare fronts (R, N, 2) and (R, M, 2); `scale` (2,) makes the two quantities comparable in epsilon."""
    if len(ours) != len(theirs):
        raise ValueError(f"ours has {len(ours)} resamples, theirs {len(theirs)}; both want the same")
    gain = hypervolumes(ours, reference) - hypervolumes(theirs, reference)
    shifts, shifts_back = epsilons(ours, theirs, scale), epsilons(theirs, ours, scale)
    pairs = list(zip(ours, theirs, strict=True))
    return Versus(
        hypervolume=_first(gain),
        larger=_share(gain > 0),
        dominates=_share(shifts <= 0),
        dominated=_share(shifts_back <= 0),
        epsilon=_first(shifts),
        diversity=_first(np.array([matched_difference(a, b) for a, b in pairs])),
        reward=_first(np.array([matched_difference(a[:, ::-1], b[:, ::-1]) for a, b in pairs])),
    )


def hypervolumes(fronts: np.ndarray, reference: ArrayLike) -> np.ndarray:
    """Return the `hypervolume` (R,) of each of the fronts (R, N, 2) above reference (2,)."""
    above = np.clip(fronts - np.asarray(reference, dtype=float), 0, None)
    above = np.take_along_axis(above, np.argsort(-above[..., :1], axis=1, kind="stable"), axis=1)
    heights = np.maximum.accumulate(above[..., 1], axis=1)
    return (above[..., 0] * np.diff(heights, prepend=0, axis=1)).sum(1)


def epsilons(ours: np.ndarray, theirs: np.ndarray, scale: ArrayLike) -> np.ndarray:
    """Return additive epsilon indicators (R,), in shares of scale (2,); <= 0 if ours weakly dominates theirs."""
    lead = (theirs[:, :, None] - ours[:, None]) / np.asarray(scale, dtype=float)  # (R, M, N, 2)
    return lead.max(-1).min(-1).max(-1)


def _pairs(points: ArrayLike, name: str) -> np.ndarray:
    """Return points as a finite float array (N, 2); ValueError if they are not."""
    array = np.asarray(points, dtype=float)
    array = array.reshape(0, 2) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}, finite={np.isfinite(array).all()}; want finite (N, 2)")
    return array


def _dense(curve: np.ndarray, num: int = 2000) -> np.ndarray:
    """Return the curve (M, 2) sampled along straight lines, so that its area is not that of a coarse staircase."""
    curve = curve[np.argsort(curve[:, 0], kind="stable")]
    at, grid = np.arange(len(curve)), np.linspace(0, len(curve) - 1, max(num, len(curve)))
    lines = [np.interp(grid, at, curve[:, axis]) for axis in (0, 1)]
    return np.concatenate([curve, np.stack(lines, axis=1)])


def _curve(points: np.ndarray) -> np.ndarray:
    """Return points (N, 2) sorted by their first coordinate, equal ones averaged, as interpolation needs them."""
    at, place = np.unique(points[:, 0], return_inverse=True)
    return np.stack([at, np.bincount(place, points[:, 1]) / np.bincount(place)], axis=1) if len(at) else points


def _weights(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Return weights (resamples, n) whose rows sum to 1; a single run has no spread, so its weight is 1."""
    if n == 1:
        return np.ones((resamples, 1))
    normal = rng.standard_normal((resamples, n))
    student = (normal - normal.mean(1, keepdims=True)) * np.sqrt((n - 1) / rng.chisquare(n - 1, (resamples, 1)))
    return 1 / n + student / np.sqrt(n * (n - 1))


def _first(values: np.ndarray) -> Interval:
    """Return the measured value, in row 0, with the interval of the resampled ones."""
    return interval(float(values[0]), values[1:])


def _share(true: np.ndarray) -> float:
    """Return the share of resamples, without row 0, for which something is true."""
    return float(true[1:].mean())
