"""The exact limit agrees with values by hand, and no brute-force or random distribution exceeds it."""

import numpy as np
import pytest
import torch

from rdt.rewards.base import Reward
from rdt.shapes import proxy, world
from rdt.shapes.distribution import (
    INDICATORS,
    LOG_CARDINALITIES,
    MODES,
    OWNER,
    Front,
    base_distribution,
    content_table,
    drawn_modes,
    entropy_weights,
    free_entropy,
    product,
    sampled_entropy,
)
from rdt.shapes.grammar import split, stated
from rdt.shapes.limit import _TASTE, Limit, finish_frontier, gold_frontier, kl_frontier, tilted_finish
from rdt.shapes.proxy import GAP, Table, optimality_gap, proxy_frontier, tabulate
from rdt.shapes.tilt import levels, rates, tilted

BEST = torch.tensor(1.0)  # the quality of the best finish
PROMPTS = ["a circle", "a small blue ring", "a shape on white", "a shape", "a large red square on black"]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def height(cost: torch.Tensor, y: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Interpolate y of a front at cost = `at`, by the root of the cost, in which fronts are nearly straight."""
    return torch.from_numpy(np.interp(at.clamp(min=0).sqrt(), cost.clamp(min=0).sqrt(), y))


def random_marginals(count: int, prompts: list[str]) -> torch.Tensor:
    """Return distributions from nearly uniform to nearly collapsed, some tilted towards the annotator's taste."""
    heat = torch.logspace(-2, 1, count, dtype=torch.float64)[:, None, None]
    pull = 4 * torch.rand(count, 1, 1, generator=stream(1), dtype=torch.float64)
    noise = torch.randn(count, len(prompts), 24, generator=stream(2), dtype=torch.float64)
    return tilted(heat * (noise + pull * _TASTE), stated(prompts))


def random_joints(count: int, prompts: list[str]) -> torch.Tensor:
    """Return distributions with dependent attributes, (count, P, 2916)."""
    heat = torch.logspace(-1, 1.5, count, dtype=torch.float64)[:, None, None]
    noise = torch.randn(count, len(prompts), len(MODES), generator=stream(3), dtype=torch.float64)
    return (heat * noise + 8 * heat * content_table(stated(prompts))).softmax(-1)


def common_rate(prompts: list[str], count: int) -> Front:
    """Return tilts that share one rate over attributes, which are optimal for the plain sum of entropies."""
    slopes = _TASTE.expand(len(prompts), -1)
    rate = rates(slopes, stated(prompts), levels(count))
    return Front(prompts, product(tilted(rate[:, None, None] * slopes, stated(prompts))), BEST)


def test_the_limit_runs_from_the_base_to_the_favourite_mode():
    front = gold_frontier(["a circle"], 9)
    assert front.entropy.tolist() == pytest.approx(levels(9).tolist(), abs=1e-9)
    assert front.entropy[[0, -1]].tolist() == pytest.approx([1, 0], abs=1e-9)
    assert front.gold[0].item() == pytest.approx(0.5 + 0.25 * 8 / 15 + 0.25)  # .883
    assert front.gold[-1].item() == pytest.approx(1.0)
    assert (front.gold.diff() > 0).all()


def test_the_limit_is_concave():
    front = gold_frontier(PROMPTS, 40)
    slope = front.gold.diff() / -front.entropy.diff()
    assert (slope.diff() < 1e-9).all() and (slope > 0).all()


def test_the_limit_keeps_stated_attributes():
    marginals = gold_frontier(PROMPTS, 5).q @ INDICATORS
    rows = stated(PROMPTS)[:, OWNER]
    held = torch.cat([torch.arange(n) for n in (6, 6, 3, 3, 3, 3)]) == rows
    assert torch.allclose(marginals[:, held], torch.ones(5, int(held.sum()), dtype=torch.float64))


def test_the_limit_meets_its_optimality_condition():
    """No distribution over all 2,916 modes has a larger E[u] + mu D than a point of the limit, for that point's mu."""
    table, weight = content_table(stated(PROMPTS)), entropy_weights(stated(PROMPTS))
    front = gold_frontier(PROMPTS, 8)
    rate = rates(LOG_CARDINALITIES[OWNER] * _TASTE.expand(5, -1), stated(PROMPTS), front.entropy)
    for q, r in list(zip(front.q, rate, strict=True))[1:-1]:
        assert optimality_gap(table * r / 0.25, weight, q).max() < 1e-5  # utilities are float32


def test_the_limit_dominates_random_distributions():
    front = gold_frontier(PROMPTS, 200)
    for q in (product(random_marginals(100, PROMPTS)), random_joints(60, PROMPTS)):
        made = Front(PROMPTS, q, BEST)
        assert (made.gold <= height(1 - front.entropy, front.gold, 1 - made.entropy) + 1e-4).all()
        assert made.entropy.max() > 0.9 and made.entropy.min() < 0.3


def test_the_limit_dominates_the_tilt_with_one_common_rate():
    front, common = gold_frontier(["a circle"], 200), common_rate(["a circle"], 12)
    short = height(1 - front.entropy, front.gold, 1 - common.entropy) - common.gold
    assert (short > -1e-5).all() and short.max() > 1e-4  # strictly, since cardinalities differ


def test_one_cardinality_makes_both_tilts_equal():
    prompts = ["a red circle"]  # every free attribute has three values, so the factor log n is common
    assert torch.allclose(gold_frontier(prompts, 6).gold, common_rate(prompts, 6).gold)


def random_finishes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return quality (K, 1, 1) and KL in nats (K,) of three factors with random densities on a grid of [0, 1]."""
    grid = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    value = torch.minimum(grid / 0.7, torch.ones(500))
    heat = 3 * torch.rand(count, 3, 1, generator=stream(5), dtype=torch.float64)
    noise = torch.randn(count, 3, 500, generator=stream(4), dtype=torch.float64)
    density = (heat * (3 * value + 0.3 * noise)).softmax(2)
    nats = torch.xlogy(density, density * 500).sum((1, 2))
    return (density @ value).mean(1)[:, None, None], nats


def test_the_kl_limit_dominates_random_distributions():
    front = kl_frontier(PROMPTS, 300)
    for quality, nats in (random_finishes(100), (0.65 * torch.ones(1), torch.zeros(1))):
        made = Front(PROMPTS, product(random_marginals(100, PROMPTS)), quality, nats)
        assert made.kl_nats.isfinite().all()
        assert (made.gold <= height(front.kl_nats, front.gold, made.kl_nats) + 1e-4).all()


def test_the_kl_limit_dominates_dependent_attributes():
    q = random_joints(60, PROMPTS) * base_distribution(stated(PROMPTS))
    made = Front(PROMPTS, q / q.sum(-1, keepdim=True), *random_finishes(60))
    front = kl_frontier(PROMPTS, 300)
    assert (made.gold <= height(front.kl_nats, front.gold, made.kl_nats) + 1e-4).all()


def test_the_kl_limit_is_the_tilted_base():
    front = kl_frontier(["a small blue ring"], 7)
    base, table = base_distribution(stated(["a small blue ring"])), content_table(stated(["a small blue ring"]))
    support = base[0] > 0
    for q in front.q[1:-1]:
        slope = q[0, support].log() - base[0, support].log()
        assert torch.corrcoef(torch.stack([slope, table[0, support]]))[0, 1].item() == pytest.approx(1.0)
    assert front.kl_nats[0].item() == pytest.approx(0.0, abs=1e-12)
    assert front.kl_nats[-1].item() == pytest.approx(np.log(3**3) + 3 * np.log(1 / 0.3), abs=0.02)
    assert front.quality.flatten()[[0, -1]].tolist() == pytest.approx([0.65, 1.0], abs=1e-5)
    assert (front.gold <= gold_frontier(["a small blue ring"], 7).gold + 1e-12).all()


def test_the_tilted_finish_in_closed_form():
    """The partition function of exp(r quality) over [0, 1] is Z = 0.7 (e^r - 1) / r + 0.3 e^r."""
    for rate in (0.01, 1.0, 8.0):
        r = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        log_z = (0.7 * torch.expm1(r) / r + 0.3 * r.exp()).log()
        (mean,) = torch.autograd.grad(log_z, r)
        value, nats = tilted_finish(r.detach()[None])
        assert value.item() == pytest.approx(mean.item(), abs=1e-6)
        assert nats.item() == pytest.approx((r * mean - log_z).item(), abs=1e-6)


def test_the_tilted_finish_agrees_with_samples():
    """Draw uniform finishes and weigh them: the mean quality is the tilt's within four standard errors."""
    value = world.quality(torch.rand(200_000, 1, generator=stream(8), dtype=torch.float64))
    weight = (4 * value).exp()
    mean = (weight * value).sum() / weight.sum()
    error = (weight * (value - mean)).square().sum().sqrt() / weight.sum()
    assert (tilted_finish(torch.tensor([4.0], dtype=torch.float64))[0] - mean).abs() < 4 * error


def test_the_finish_alone_leaves_the_content_alone():
    finish, kl = finish_frontier(PROMPTS, 9), kl_frontier(PROMPTS, 9)
    assert finish.entropy.tolist() == pytest.approx([1.0] * 9)
    assert (finish.gold - finish.gold[0])[-1].item() == pytest.approx(0.25 * 0.35, abs=1e-6)
    assert (finish.gold <= height(kl.kl_nats, kl.gold, finish.kl_nats) + 1e-3).all()
    assert finish.kl_nats[-1].item() == pytest.approx(3 * np.log(1 / 0.3), abs=0.02)


def test_leaving_the_base_costs_infinite_kl():
    anything = torch.full((1, 1, len(MODES)), 1 / len(MODES), dtype=torch.float64)
    assert Front(["a circle"], anything, BEST, 0.0).kl_nats.item() == float("inf")


def test_diversity_by_hand():
    rows = stated(["a red circle on white"])  # size and position are free
    half = torch.tensor([[[0, 0, 0, 0, 0, 2], [0, 0, 1, 0, 0, 2]]])
    assert sampled_entropy(half, rows).item() == pytest.approx(np.log(2) / np.log(3) / 3)
    assert sampled_entropy(half[:, :1].expand(-1, 9, -1), rows).item() == 0
    assert sampled_entropy(MODES[None], rows).item() == pytest.approx(1.0)


def test_stated_attributes_do_not_count_as_diversity():
    rows = stated(["a circle"])
    shapes = torch.tensor([[[k, 0, 0, 0, 0, 0] for k in range(6)]])
    assert sampled_entropy(shapes, rows).item() == 0


def test_samples_follow_the_distribution():
    q = random_joints(3, ["a circle", "a ring"])[0]
    modes = drawn_modes(q, torch.rand(2, 40_000, generator=stream(), dtype=torch.float64))
    seen = torch.stack([torch.nn.functional.one_hot(modes[..., 1], 6)]).double().mean(2)[0]
    assert (seen - (q @ INDICATORS)[:, 6:12]).abs().max() < 0.01


def test_samples_of_one_mode_are_that_mode():
    q = torch.nn.functional.one_hot(torch.tensor([0, len(MODES) - 1]), len(MODES)).double()
    modes = drawn_modes(q, torch.tensor([[0.0, 0.5, 0.999]] * 2, dtype=torch.float64))
    assert modes[0].equal(MODES[:1].expand(3, -1)) and modes[1].equal(MODES[-1:].expand(3, -1))


def test_finite_samples_underestimate_entropy_and_converge():
    front = gold_frontier(PROMPTS, 6)
    few, many = front.entropy_sampled(8, seed=0), front.entropy_sampled(4096, seed=0)
    assert (few[:-1] < front.entropy[:-1]).all() and few[-1] == 0
    assert (many - front.entropy).abs().max() < 5e-3
    assert few.equal(front.entropy_sampled(8, seed=0)) and not few.equal(front.entropy_sampled(8, seed=1))


def test_the_proxy_limit_of_the_gold_score_is_the_gold_limit():
    table = content_table(stated(PROMPTS))
    front, limit = proxy_frontier(PROMPTS, Table(table, torch.ones_like(table)), 10), gold_frontier(PROMPTS, 400)
    assert (front.gold - height(1 - limit.entropy, limit.gold, 1 - front.entropy)).abs().max() < 1e-3
    assert torch.allclose(front.expected(table) + 0.25, front.gold)
    assert front.entropy[0] > 0.95 and front.entropy[-1] == 0


def learned_score(prompts: list[str]) -> torch.Tensor:
    """Return scores (P, 2916) as a learned reward gives them: a weak trend of utility and noise."""
    noise = torch.randn(len(prompts), len(MODES), generator=stream(7), dtype=torch.float64)
    return 0.2 + 0.05 * content_table(stated(prompts)) + 0.004 * noise


def test_the_proxy_limit_dominates_random_distributions():
    score = learned_score(PROMPTS)
    front = proxy_frontier(PROMPTS, Table(score, torch.ones_like(score)), 14)
    assert (front.expected(score).diff() > -1e-6).all() and (front.entropy.diff() < 0).all()
    made = [Front(PROMPTS, q, BEST) for q in (product(random_marginals(60, PROMPTS)), random_joints(40, PROMPTS))]
    best = front.expected(score)
    for q in (*made, gold_frontier(PROMPTS, 20)):
        bound = height(1 - front.entropy, best, 1 - q.entropy)
        inside = q.entropy <= front.entropy[0]
        assert (
            q.expected(score)[inside] <= bound[inside] + 3e-4
        ).all()  # 1 % of the score's spread, for chords between points


def test_the_proxy_limit_is_certified():
    score, weight = learned_score(PROMPTS), entropy_weights(stated(PROMPTS))
    for rate in (5.0, 30.0, 200.0):
        q = proxy._ascend(rate * score, weight, torch.zeros_like(score)).softmax(1)
        bound = optimality_gap(rate * score, weight, q)
        assert (bound > -1e-9).all() and bound.mean() < GAP
        better = proxy._ascend(rate * score, weight, q.clamp(min=1e-300).log())
        assert (value(rate * score, better.softmax(1)) - value(rate * score, q) <= bound + 1e-12).all()


def value(score: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the objective of the proxy limit, (P,)."""
    return (q * score).sum(1) + free_entropy(q @ INDICATORS, stated(PROMPTS))


def test_the_proxy_limit_breaks_the_prompt_if_that_scores_higher():
    bonus = torch.where(MODES[:, 0] == 4, 1.0, 0.0).double()[None]  # for a cross, whatever the prompt states
    score = content_table(stated(["a circle"])) + bonus
    front = proxy_frontier(["a circle"], Table(score, torch.ones_like(score)), 6)
    assert (front.q @ INDICATORS)[-1, 0, 4] == 1
    assert front.gold[-1] <= 0.5 + 1e-9  # nothing stated is right


class Redness(Reward):
    """Scores mean red minus mean blue, times the length of the prompt; it has no features to reuse."""

    def forward(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        length = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.float)
        return length * (images[:, 0] - images[:, 2]).mean((1, 2))


class SeparableRedness(Redness):
    """Computes the same score as an inner product of features."""

    scale = 2.0

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0] - images[:, 2]).mean((1, 2))[:, None] / 2

    def text_features(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([[len(prompt)] for prompt in prompts], dtype=torch.float)


def test_a_table_by_features_equals_one_by_scores():
    prompts = ["a circle", "a small blue ring"]
    table = tabulate(Redness(), prompts, seed=3)
    assert table.score.shape == table.quality.shape == (2, len(MODES)) and table.score.dtype == torch.float64
    same = tabulate(SeparableRedness(), prompts, seed=3)
    assert torch.allclose(table.score, same.score, atol=1e-6) and table.quality.equal(same.quality)
    assert table.score[:, MODES[:, 1] == 0].mean() > table.score[:, MODES[:, 1] == 4].mean()


def test_a_table_averages_over_renders_of_a_mode():
    one, three = (tabulate(SeparableRedness(), ["a circle"], n, seed=n).score for n in (1, 3))
    assert one.shape == three.shape and not one.equal(three)
    assert torch.corrcoef(torch.cat([one, three]))[0, 1] > 0.99


class Saturation(SeparableRedness):
    """Scores how far the channels of an image are apart, which a vivid finish raises in every mode."""

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return (images.amax(1) - images.amin(1)).mean((1, 2))[:, None]


def test_a_table_holds_each_mode_at_the_finish_that_scores_best():
    table = tabulate(Saturation(), ["a circle"], pairs=2)
    middle = proxy._mean_scores(Saturation(), ["a circle"], MODES, torch.tensor([0.5, 1.0, 0.0]), 1, stream())
    assert (table.score > middle).all()
    assert (table.quality[0] >= 1 / 3).all()  # the best cells are fully vivid


def test_the_limit_of_a_run():
    prompts = split("held_out")[:3]
    limit = Limit(points=5, seed=0)(prompts, 6, SeparableRedness(), "redness")
    assert limit["reward"] == "gold" and limit["diversity"] == "entropy"
    keys = {"gold", "entropy", "entropy_sampled"}
    nats = {"kl_nats"}
    extra = {"frontier": set(), "kl_frontier": nats, "finish_frontier": nats, "proxy_frontier": {"redness"}}
    for name, more in extra.items():
        assert len(limit[name]) == 5
        assert all(set(point) == keys | more for point in limit[name])
        assert all(isinstance(number, float) for point in limit[name] for number in point.values())
    assert Limit(points=5, seed=0)(prompts, 6, None, "none")["proxy_frontier"] == []
