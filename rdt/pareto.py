"""Fronts of two maximised quantities, their hypervolume, and intervals over prompts; arrays only.

One method's front against another's: by how much it is better, and how surely; arrays only.

A front here is (R, N, 2), N points of two maximised quantities: row 0 as measured, the others under resamples that both
sides share (`rdt.pareto.Draws`). Additive epsilon indicator: Zitzler et al. 2003, Performance assessment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, in the unit of what was averaged."""

    mean: float
    lo: float
    hi: float


def _pairs(points: ArrayLike, name: str) -> np.ndarray:
    """Finite float array (N, 2); ValueError otherwise."""
    array = np.asarray(points, dtype=float)
    array = array.reshape(0, 2) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}, finite={np.isfinite(array).all()}; want finite (N, 2)")
    return array


def front(points: ArrayLike) -> np.ndarray:
    """Mask (N,) of the points (N, 2) that no other point dominates, both maximised; equal points stay together."""
    p = _pairs(points, "points")
    no_worse = (p[None] >= p[:, None]).all(-1)  # (N, N): column against row
    better = (p[None] > p[:, None]).any(-1)
    return ~(no_worse & better).any(1)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Area that points (N, 2) dominate above reference (2,), exactly; points below the reference add nothing."""
    p, (x0, y0) = _pairs(points, "points"), _pairs([reference], "reference")[0]
    p = p[(p[:, 0] > x0) & (p[:, 1] > y0)]
    p = p[np.argsort(-p[:, 0], kind="stable")]
    heights = np.maximum.accumulate(p[:, 1])
    return float(((p[:, 0] - x0) * np.diff(heights, prepend=y0)).sum())


def hypervolume_share(points: ArrayLike, limit: ArrayLike, reference: ArrayLike) -> float:
    """Hypervolume of points as a share of the concave curve through limit (M, 2); nan where the limit has none."""
    whole = hypervolume_under(limit, reference)
    return hypervolume(points, reference) / whole if whole > 0 else float("nan")


def hypervolume_under(curve: ArrayLike, reference: ArrayLike) -> float:
    """Area between the straight lines through a curve (M, 2) and the reference (2,)."""
    return hypervolume(_dense(_pairs(curve, "curve")), reference)


def _dense(curve: np.ndarray, num: int = 2000) -> np.ndarray:
    """The curve (M, 2) sampled (num, 2) along straight lines, so that its area is not that of a coarse staircase."""
    curve = curve[np.argsort(curve[:, 0], kind="stable")]
    at, grid = np.arange(len(curve)), np.linspace(0, len(curve) - 1, max(num, len(curve)))
    lines = [np.interp(grid, at, curve[:, axis]) for axis in (0, 1)]
    return np.concatenate([curve, np.stack(lines, axis=1)])


def largest_gap(points: ArrayLike, frontier: ArrayLike) -> float:
    """Most diversity that (reward, diversity) points (N, 2) lack against the frontier (M, 2) at equal reward.

    Only points inside the frontier's range of reward count: nan where none is, negative where all lie above it.
    """
    p, f = _pairs(points, "points"), _pairs(frontier, "frontier")
    if not len(p) or not len(f):
        return float("nan")
    f = f[np.argsort(f[:, 0], kind="stable")]
    p = p[(p[:, 0] >= f[0, 0]) & (p[:, 0] <= f[-1, 0])]
    gaps = np.interp(p[:, 0], f[:, 0], f[:, 1]) - p[:, 1]
    return float(gaps.max()) if len(gaps) else float("nan")


def matched_difference(ours: ArrayLike, theirs: ArrayLike) -> float:
    """How much more of the second quantity `ours` (N, 2) holds at an equal first one, averaged over the common range.

    Both are curves through their points; there is no extrapolation: nan where the ranges do not overlap.
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


def _curve(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) by their first coordinate, equal ones averaged, as interpolation wants them."""
    at, where = np.unique(points[:, 0], return_inverse=True)
    return np.stack([at, np.bincount(where, points[:, 1]) / np.bincount(where)], axis=1) if len(at) else points


def bootstrap_mean(values: ArrayLike, seed: int, resamples: int = 2000) -> Interval:
    """Mean of values (P,) or (S, P) and its 95 % interval over prompts P and, where there are several, runs S."""
    v = np.atleast_2d(np.asarray(values, dtype=float))
    if v.ndim != 2 or v.size == 0 or not np.isfinite(v).all():
        raise ValueError(f"values has shape {v.shape}, finite={np.isfinite(v).all()}; want finite (P,) or (S, P)")
    return interval(float(v.mean()), Draws(v.shape[0], v.shape[1], seed, resamples).means(v))


def interval(value: float, resampled: np.ndarray) -> Interval:
    """A statistic with the 95 % percentile interval of its resampled values; those without a value are left out."""
    known = resampled[np.isfinite(resampled)]
    lo, hi = np.percentile(known, [2.5, 97.5]) if len(known) else (float("nan"), float("nan"))
    return Interval(value, float(lo), float(hi))


class Draws:
    """Multiplier bootstrap of S runs and P prompts: one set of weights for everything that is to be compared.

    The multipliers make a mean of n vary as Student's t of n - 1 degrees: resampling 3 runs covers 80 %, this 95 %.
    What run and prompt do together counts in both, so that where it dominates intervals are wide, not narrow.
    Prompts have the same weights beside any number of runs.
    """

    def __init__(self, runs: int, prompts: int, seed: int, resamples: int = 2000) -> None:
        self.runs, self.prompts = (
            _weights(np.random.default_rng((seed, axis, n)), n, resamples) for axis, n in enumerate((runs, prompts))
        )

    def means(self, values: np.ndarray) -> np.ndarray:
        """(resamples,) means of values (S, P)."""
        return self.runs @ values.mean(1) + self.prompts @ values.mean(0) - values.mean()


def _weights(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """(resamples, n), each of sum 1; a single run has no spread to tell of."""
    if n == 1:
        return np.ones((resamples, 1))
    normal = rng.standard_normal((resamples, n))
    student = (normal - normal.mean(1, keepdims=True)) * np.sqrt((n - 1) / rng.chisquare(n - 1, (resamples, 1)))
    return 1 / n + student / np.sqrt(n * (n - 1))


def paired_difference(values: ArrayLike, base: ArrayLike, seed: int) -> Interval:
    """Mean and 95 % interval of values minus base, prompt by prompt; both (P,) or (S, P) over the same prompts."""
    v, b = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    if v.shape != b.shape:
        raise ValueError(f"values has shape {v.shape}, base {b.shape}; a paired difference wants the same prompts")
    return bootstrap_mean(v - b, seed)


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
