"""DiverseGRPO's clusters, its bonus with the shares of modes that it settles at, and the KL of the first steps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.methods.diverse_grpo import cluster_sizes, clusters, rarity
from rdt.methods.drift import DRIFT
from rdt.rollout import Sampling
from worlds import tiny_policy
from worlds.gaussian import ALPHA, Linear, optimum, world
from worlds.groups import pixels, same_weights, z_scores
from worlds.policy_gradients import POLICIES, SHARED, grpo

STEPS = 6


def blobs(*sizes: int) -> Tensor:
    """Return features (K, 12) of as many tight blobs as there are sizes, in directions of their own."""
    directions = torch.eye(12)[: len(sizes)].repeat_interleave(torch.tensor(sizes), 0)
    return directions + 0.05 * tiny_policy.normal(sum(sizes), 12)


@pytest.mark.parametrize("sizes", [(12, 12), (8, 8, 8), (5, 9, 10), (4,) * 6, (3,) * 8])
def test_blobs_are_found_whatever_their_order(sizes: tuple[int, ...]) -> None:
    expected = torch.tensor(sizes).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    found = cluster_sizes(torch.stack([blobs(*sizes), blobs(*sizes)[order]]))
    assert found[0].equal(expected) and found[1].equal(expected[order])


def test_alike_images_are_one_cluster_and_so_are_two() -> None:
    assert cluster_sizes(torch.ones(1, 5, 3)).tolist() == [[5] * 5]
    assert not clusters(tiny_policy.normal(2, 3)).any()


def test_duplicates_do_not_make_the_width_zero() -> None:
    features = torch.tensor([[1.0, 0.0]] * 7 + [[0.0, 1.0]])
    assert cluster_sizes(features[None]).tolist() == [[7] * 7 + [1]]


def test_an_image_of_a_rare_cluster_earns_more() -> None:
    torch.testing.assert_close(
        rarity(torch.tensor([[1, 3, 3, 3]])), torch.tensor([[2.0, *[(4 / 3) ** 0.5] * 3]], dtype=torch.double)
    )


def compositions(count: int) -> Tensor:
    """Return all ways (C, 3) to spread `count` images over three modes."""
    return torch.tensor([(a, b, count - a - b) for a in range(count + 1) for b in range(count + 1 - a)])


def shares(rewards: Tensor, bonus: float, start: Tensor, count: int = 24) -> Tensor:
    """Return the shares (3,) of modes at which the expected policy gradient on groups of `count` images rests.

    A policy draws a mode for each image; the expectation is a sum over all compositions of a group.
    """
    method = grpo(tiny_policy.policy(), cluster_bonus=bonus, embedder=pixels)
    groups = compositions(count)
    modes = torch.stack([torch.arange(3).repeat_interleave(group) for group in groups])
    ways = torch.tensor([math.lgamma(count + 1) - sum(math.lgamma(n + 1) for n in row) for row in groups.tolist()])
    returns = rewards.double()[modes] + bonus * rarity(groups.gather(1, modes))
    total = torch.zeros(len(groups), 3).double().scatter_add_(1, modes, method.advantages(returns, [""] * len(groups)))
    logits = start.double()
    for _ in range(4000):
        w = logits.softmax(0)
        p = (ways + groups.double() @ w.log()).exp()
        logits = logits + 0.3 * (p @ (total - total.sum(1, keepdim=True) * w))
    return logits.softmax(0)


def test_modes_settle_where_reward_and_bonus_balance() -> None:
    """w_k = bonus^2 / (c - r_k)^2 for many images; at 24, (0.215, 0.309, 0.475) up to the baseline's own share."""
    rewards, equal = torch.tensor([0.0, 0.1, 0.2]), torch.zeros(3)
    found = shares(rewards, 0.3, torch.tensor([0.5, -0.3, 0.1]))
    torch.testing.assert_close(found, torch.tensor([0.215, 0.309, 0.475]).double(), rtol=0, atol=0.004)
    even = shares(equal, 0.3, torch.tensor([1.5, -0.3, 0.1]))
    torch.testing.assert_close(even, torch.full((3,), 1 / 3).double(), rtol=0, atol=1e-4)
    assert shares(rewards, 0.0, torch.tensor([1.5, -0.3, 0.1]))[2] > 0.99


def test_the_bonus_is_in_units_of_what_advantages_are_divided_by() -> None:
    for std in ("group", "none"):
        method = grpo(tiny_policy.policy(), std=std, cluster_bonus=0.3, embedder=pixels, lr=0.0)
        tiny_policy.fit(method, 1)
        images = method.policy.decode(method.rollouts.trajectory.clean)
        rewards = method.rollouts.rewards.view(2, 4)
        unit = method.divisor(rewards)
        raised = rewards + 0.3 * unit * rarity(cluster_sizes(pixels(images).view(2, 4, -1)))
        expected = method.advantages(raised, ["", ""]).float()
        torch.testing.assert_close(method.rollouts.advantages[:, 0].view(2, 4), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", POLICIES)
def test_without_bonus_and_early_kl_it_is_grpo_bit_for_bit(kind: str) -> None:
    off = {"cluster_bonus": 0.0, "embedder": pixels, "kl_coef": 0.5, "kl_divide": "none", "kl_within": 0.0}
    ours, theirs = (grpo(POLICIES[kind](), **changed) for changed in (off, {}))
    tiny_policy.fit(ours, 2)
    tiny_policy.fit(theirs, 2)
    assert same_weights(ours, theirs) and ours.policy.passes == theirs.policy.passes


@pytest.mark.parametrize("kind", POLICIES)
def test_an_early_kl_costs_the_bases_passes_on_its_steps_alone(kind: str) -> None:
    method = grpo(POLICIES[kind](), steps=STEPS, kl_coef=0.5, kl_within=1 / 3, last_step=False)
    tiny_policy.fit(method, 1)
    assert method.policy.passes == 8 * (STEPS + (STEPS - 1) + 2)
    assert method.policy.backward_passes == 8 * (STEPS - 1)


@pytest.mark.parametrize("tilted, rests", [(1.0, True), (0.0, False), (None, False)])
def test_undivided_its_optimum_is_no_tilt(tilted: float | None, rests: bool) -> None:
    """For a linear reward the mean of every step moves by P^T b / coef, where the tilt's moves by std^2 of that."""
    policy, samples = world(num_steps=4), 128
    coef = ALPHA * 2
    method = grpo(policy, Linear(), 4, batch_size=samples, group=samples, lr=0.0, kl_coef=coef, kl_divide="none")
    method.kl_coef *= 1 - 1 / samples
    tilt = optimum(policy) * ALPHA / coef
    variances = torch.tensor(method.steps.noisy.stds).square()[:, None]
    policy.shift.data = tilt if tilted is None else tilted * tilt / variances
    assert (z_scores(method, 30).abs().max() < 4.5) == rests


@pytest.mark.parametrize("kind", POLICIES)
def test_drift_takes_the_bonus_too(kind: str) -> None:
    own: dict[str, Any] = {
        "concentrate": "off", "keep": 4, "prompt_noise": 0.0, "tau1": 0.6, "tau2": 0.9, "psi": 1.0, "shaping": "off",
        "shaping_weight": 0.5, "shaping_gamma": 1.0, "terminal_potential": "diversity", "looks": 1,
    }  # fmt: skip
    bonus: dict[str, Any] = {"cluster_bonus": 0.3, "embedder": pixels}
    theirs = grpo(POLICIES[kind](), **bonus)
    ours = DRIFT(
        policy=POLICIES[kind](), reward=tiny_policy.Brightness(), sampling=Sampling(4, 1.0, 1.0),
        **SHARED | {"group": 4, "std": "none"} | own | bonus,
    )  # fmt: skip
    plain = grpo(POLICIES[kind]())
    for method in (ours, theirs, plain):
        tiny_policy.fit(method, 2)
    assert same_weights(ours, theirs) and not same_weights(ours, plain)
