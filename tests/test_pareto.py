"""Laws of fronts, hypervolumes and intervals."""

import math

import numpy as np
import pytest

from rdt.pareto import (
    bootstrap_mean,
    front,
    hypervolume,
    hypervolume_share,
    largest_gap,
    matched_difference,
    paired_difference,
)


def dominated(p, others):
    return any((q >= p).all() and (q > p).any() for q in others)


@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_brute_force_leaves(seed):
    points = np.random.default_rng(seed).integers(0, 6, size=(40, 2))  # integers: many ties and duplicates
    assert front(points).tolist() == [not dominated(p, points) for p in points]


def test_front_of_nothing_is_nothing():
    assert front(np.empty((0, 2))).shape == (0,)
    assert hypervolume([], (0, 0)) == 0


@pytest.mark.parametrize(
    "points, area",
    [
        ([(1, 1)], 1),
        ([(2, 1), (1, 2)], 3),
        ([(3, 1), (2, 2), (1, 3)], 6),
        ([(3, 1), (2, 2), (1, 3), (1, 1), (2, 2)], 6),  # dominated and repeated points add nothing
        ([(-1, 5), (5, 0)], 0),  # below the reference, or on it
        ([(2, 3), (-1, 9)], 6),
    ],
)
def test_hypervolume_by_hand(points, area):
    assert hypervolume(points, (0, 0)) == pytest.approx(area)
    assert hypervolume(np.add(points, 7), (7, 7)) == pytest.approx(area)


def test_hypervolume_is_the_share_of_darts_that_are_dominated():
    rng = np.random.default_rng(0)
    points, darts = rng.random((12, 2)), rng.random((100_000, 2))
    hit = (points[None] >= darts[:, None]).all(-1).any(1).mean()
    assert hypervolume(points, (0, 0)) == pytest.approx(hit, abs=0.006)


def test_hypervolume_is_that_of_the_front():
    points = np.random.default_rng(1).random((30, 2))
    assert hypervolume(points, (0, 0)) == pytest.approx(hypervolume(points[front(points)], (0, 0)))


def test_share_of_the_limit_is_one_on_it_and_grows_towards_it():
    x = np.linspace(0, 1, 400)
    limit = np.stack([x, np.sqrt(1 - x**2)], axis=1)
    assert hypervolume_share(limit, limit, (0, 0)) == pytest.approx(1, abs=5e-3)
    shares = [hypervolume_share(scale * limit, limit, (0, 0)) for scale in (0.5, 0.8)]
    assert shares == pytest.approx([0.25, 0.64], abs=5e-3)


def test_a_coarse_limit_has_the_area_of_its_curve():
    assert hypervolume_share([(0.5, 0.5)], [(0, 1), (1, 0)], (0, 0)) == pytest.approx(0.5, abs=2e-3)
    assert math.isnan(hypervolume_share([(1, 1)], [(0, 0)], (0, 0)))


def test_largest_gap_is_taken_at_equal_reward_inside_the_common_range():
    frontier = [(2, 0), (0, 1)]  # any order
    assert largest_gap([(1, 0.5), (1.5, 0.05), (3, -9), (-1, -9)], frontier) == pytest.approx(0.2)
    assert largest_gap(frontier, frontier) == pytest.approx(0)
    assert math.isnan(largest_gap([(5, 0)], frontier))


@pytest.mark.parametrize(
    "runs, spread, least, most",
    [(1, (0.0, 1.0, 1.0), 0.92, 0.98), (3, (1.0, 1.0, 0.5), 0.92, 0.98), (3, (0.0, 1.0, 0.0), 0.92, 0.98),
     (3, (0.3, 1.0, 1.0), 0.95, 1.0), (5, (0.3, 1.0, 0.5), 0.93, 0.99)],
)  # fmt: skip
def test_intervals_cover_the_mean_19_times_in_20_or_more(runs, spread, least, most):
    """Of 24 prompts; spread of runs, of prompts, and of what both do together, which makes them cautious."""
    rng, prompts = np.random.default_rng(0), 24
    covered = []
    for seed in range(500):
        parts = [rng.normal(size=shape) for shape in ((runs, 1), (1, prompts), (runs, prompts))]
        found = bootstrap_mean(3.0 + sum(s * part for s, part in zip(spread, parts, strict=True)), seed, resamples=500)
        assert found.lo <= found.mean <= found.hi
        covered.append(found.lo <= 3.0 <= found.hi)
    assert least <= np.mean(covered) <= most  # give or take 1 % over 500 repetitions


def test_intervals_repeat_with_their_seed():
    values = np.random.default_rng(0).normal(size=20)
    assert bootstrap_mean(values, 5) == bootstrap_mean(values, 5) != bootstrap_mean(values, 6)


def test_interval_of_runs_widens_with_what_differs_between_them():
    prompts = np.random.default_rng(0).normal(size=30)
    same, apart = np.stack([prompts] * 3), np.stack([prompts - 1, prompts, prompts + 1])
    widths = [i.hi - i.lo for i in (bootstrap_mean(prompts, 0), bootstrap_mean(same, 0), bootstrap_mean(apart, 0))]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] > 1.5 * widths[0]


def test_paired_difference_does_not_see_what_prompts_share():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, size=40)
    difference = paired_difference(base + 0.5 + rng.normal(0, 0.1, size=40), base, 0)
    assert difference.mean == pytest.approx(0.5, abs=0.06)
    assert difference.hi - difference.lo < 0.1


@pytest.mark.parametrize("bad", [[1.0, math.nan], [], np.zeros((2, 2, 2))])
def test_values_without_a_mean_are_refused(bad):
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(bad, 0)


def test_unpaired_and_unplanar_points_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference([1.0, 2.0], [1.0], 0)
    with pytest.raises(ValueError, match="points"):
        front([(1, 2, 3)])
    with pytest.raises(ValueError, match="points"):
        hypervolume([(math.inf, 1)], (0, 0))


def test_a_matched_difference_is_the_mean_gap_over_the_common_range() -> None:
    steep, flat = [(0, 1.0), (2, 0.0)], [(1, 1.0), (3, 0.5)]
    # on [1, 2] the first falls from 1/2 to 0, the second from 1 to 3/4
    assert matched_difference(flat, steep) == pytest.approx(0.625)
    assert matched_difference(steep, flat) == pytest.approx(-0.625)
    assert matched_difference(steep, steep) == 0


def test_a_matched_difference_integrates_between_every_knot() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.normal(size=(6, 2)), axis=0) for _ in range(2))
    lo, hi = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    at = np.linspace(lo, hi, 200_001)
    brute = (np.interp(at, *a.T) - np.interp(at, *b.T)).mean()
    assert matched_difference(a, b) == pytest.approx(brute, abs=1e-4)


def test_a_matched_difference_does_not_extrapolate() -> None:
    assert np.isnan(matched_difference([(0, 1.0), (1, 0.0)], [(2, 1.0), (3, 0.0)]))
    assert np.isnan(matched_difference([(0, 1.0)], [(0, 0.5)]))
