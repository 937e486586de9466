"""Fronts, hypervolumes and intervals obey their laws, by hand and by brute force; so do comparisons of two fronts."""

import math

import numpy as np
import pytest

from rdt.pareto import (
    Draws,
    bootstrap_mean,
    epsilons,
    front,
    hypervolume,
    hypervolume_under,
    hypervolumes,
    largest_gap,
    matched_difference,
    paired_difference,
    versus,
)


def dominated(p, others):
    return any((q >= p).all() and (q > p).any() for q in others)


@pytest.mark.parametrize("seed", range(5))
def test_front_equals_brute_force(seed):
    points = np.random.default_rng(seed).integers(0, 6, size=(40, 2))  # integers: many ties and duplicates
    assert front(points).tolist() == [not dominated(p, points) for p in points]


def test_front_of_no_points_is_empty():
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
def test_hypervolume_equals_the_area_found_by_hand(points, area):
    assert hypervolume(points, (0, 0)) == pytest.approx(area)
    assert hypervolume(np.add(points, 7), (7, 7)) == pytest.approx(area)


def test_hypervolume_is_the_share_of_random_points_that_are_dominated():
    rng = np.random.default_rng(0)
    points, samples = rng.random((12, 2)), rng.random((100_000, 2))
    share = (points[None] >= samples[:, None]).all(-1).any(1).mean()
    assert hypervolume(points, (0, 0)) == pytest.approx(share, abs=0.006)


def test_hypervolume_of_points_is_that_of_their_front():
    points = np.random.default_rng(1).random((30, 2))
    assert hypervolume(points, (0, 0)) == pytest.approx(hypervolume(points[front(points)], (0, 0)))


def test_the_share_of_a_limits_hypervolume_is_one_on_the_limit_and_grows_towards_it():
    x = np.linspace(0, 1, 400)
    limit = np.stack([x, np.sqrt(1 - x**2)], axis=1)
    whole = hypervolume_under(limit, (0, 0))
    assert hypervolume(limit, (0, 0)) / whole == pytest.approx(1, abs=5e-3)
    shares = [hypervolume(scale * limit, (0, 0)) / whole for scale in (0.5, 0.8)]
    assert shares == pytest.approx([0.25, 0.64], abs=5e-3)


def test_a_coarse_curve_has_the_area_under_its_straight_lines():
    assert hypervolume_under([(0, 1), (1, 0)], (0, 0)) == pytest.approx(0.5, abs=2e-3)
    assert hypervolume_under([(0, 0)], (0, 0)) == 0


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
def test_intervals_cover_the_mean_at_least_19_times_in_20(runs, spread, least, most):
    """Draw 24 prompts; `spread` is that of runs, of prompts and of their interaction, which widens the intervals."""
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


def test_the_interval_over_runs_widens_with_their_differences():
    prompts = np.random.default_rng(0).normal(size=30)
    same, apart = np.stack([prompts] * 3), np.stack([prompts - 1, prompts, prompts + 1])
    widths = [i.hi - i.lo for i in (bootstrap_mean(prompts, 0), bootstrap_mean(same, 0), bootstrap_mean(apart, 0))]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] > 1.5 * widths[0]


def test_a_paired_difference_cancels_the_spread_of_prompts():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, size=40)
    difference = paired_difference(base + 0.5 + rng.normal(0, 0.1, size=40), base, 0)
    assert difference.mean == pytest.approx(0.5, abs=0.06)
    assert difference.hi - difference.lo < 0.1


@pytest.mark.parametrize("bad", [[1.0, math.nan], [], np.zeros((2, 2, 2))])
def test_values_without_a_finite_mean_are_refused(bad):
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(bad, 0)


def test_unpaired_values_and_points_of_three_quantities_are_refused():
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


def still(points, resamples=3):
    """Return a front that is the same under every resample."""
    return np.repeat(np.array(points, dtype=float)[None], resamples, axis=0)


def test_hypervolumes_of_many_fronts_equal_each_rows_hypervolume():
    fronts = np.random.default_rng(0).normal(size=(200, 7, 2))
    found = [hypervolume(points, (-0.5, 0.2)) for points in fronts]
    assert hypervolumes(fronts, (-0.5, 0.2)) == pytest.approx(found)


def test_epsilon_is_the_least_shift_that_makes_a_front_dominate():
    rng = np.random.default_rng(1)
    for ours, theirs in zip(rng.normal(size=(50, 5, 2)), rng.normal(size=(50, 4, 2)), strict=True):
        eps = epsilons(ours[None], theirs[None], (1, 2))[0]

        def covers(shift, a=ours, b=theirs):
            return all(((a + shift * np.array([1, 2])) >= q).all(1).any() for q in b)

        assert covers(eps + 1e-9) and not covers(eps - 1e-9)


def test_a_front_above_another_dominates_it():
    low = [(0, 1.0), (1, 0.5), (2, 0.0)]
    high = [(r, d + 0.2) for r, d in low]
    found = versus(still(high), still(low), (0, 0), (1, 1))
    assert found.dominates == 1 and found.dominated == 0 and found.larger == 1 and found.verdict == "better"
    assert found.diversity.mean == pytest.approx(0.2) and found.reward.mean == pytest.approx(0.4)
    assert found.hypervolume.mean == pytest.approx(hypervolume(high, (0, 0)) - hypervolume(low, (0, 0)))
    assert versus(still(low), still(high), (0, 0), (1, 1)).verdict == "worse"


def test_equal_fronts_dominate_each_other_weakly_and_show_no_difference():
    points = still([(0, 1.0), (1, 0.5)])
    found = versus(points, points, (0, 0), (1, 1))
    assert found.dominates == found.dominated == 1 and found.epsilon.mean == 0 and found.verdict == "not told apart"


def test_rewards_outside_the_common_range_are_not_compared():
    found = versus(still([(0, 1.0), (1, 0.5)]), still([(2, 1.0), (3, 0.5)]), (0, 0), (1, 1))
    assert np.isnan(found.diversity.mean) and np.isnan(found.diversity.lo)
    with pytest.raises(ValueError, match="3 resamples, theirs 2"):
        versus(still([(0, 1)]), still([(0, 1)], 2), (0, 0), (1, 1))


def measured(rng, draws, shift=0.0):
    """Return a front of three settings with noise over seeds and prompts, as a sweep over 3 seeds measures it."""
    settings = np.array([(0.0, 0.9), (0.3, 0.7), (0.5, 0.4)]) + shift
    noise = [rng.normal(0, 0.03, (3, 2, 3, 1)), rng.normal(0, 0.1, (3, 2, 1, 24)), rng.normal(0, 0.05, (3, 2, 3, 24))]
    values = settings[:, :, None, None] + sum(noise)  # (N, 2, S, P)
    rows = [[np.concatenate([[v.mean()], draws.means(v)]) for v in setting] for setting in values]
    return np.array(rows).transpose(2, 0, 1)


def test_equal_fronts_differ_at_most_as_often_as_the_interval_states():
    """At a stated 5 %, at most 8 % of 200 repetitions (two standard errors more) differ; a real gain is detected."""
    rng, false, detected = np.random.default_rng(0), 0, 0
    for seed in range(200):
        draws = Draws(3, 24, seed, resamples=400)
        a, b, c = measured(rng, draws), measured(rng, draws), measured(rng, draws, shift=0.25)
        gain, real = (hypervolumes(x, (-0.2, 0)) - hypervolumes(a, (-0.2, 0)) for x in (b, c))
        false += not np.percentile(gain[1:], 2.5) <= 0 <= np.percentile(gain[1:], 97.5)
        detected += np.percentile(real[1:], 2.5) > 0
    assert false / 200 <= 0.08
    assert detected / 200 >= 0.8
