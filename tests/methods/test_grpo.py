"""In GRPO a group is its own baseline, and only the steps of a window are stochastic and trained."""

from typing import Any

import pytest
import torch
from torch import Tensor

from worlds import tiny_policy
from worlds.gaussian import Linear, world
from worlds.policy_gradients import POLICIES, grpo

STEPS = 8


def rewards() -> Tensor:
    """Return rewards (3, 4) whose groups differ in level and deviation."""
    return tiny_policy.normal(3, 4) * torch.tensor([[1.0], [5.0], [0.1]]) + torch.tensor([[0.0], [3.0], [-7.0]])


def advantages(values: Tensor, std: str) -> Tensor:
    """Return GRPO's advantages of rewards."""
    return grpo(tiny_policy.policy(), std=std).advantages(values, ["a", "b", "c"])


def test_advantages_are_relative_to_the_group() -> None:
    r = rewards().double()
    centred = r - r.mean(1, keepdim=True)
    torch.testing.assert_close(advantages(rewards(), "none"), centred)
    group = torch.stack([row / (row.square().mean().sqrt() + 1e-4) for row in centred])
    torch.testing.assert_close(advantages(rewards(), "group"), group)
    torch.testing.assert_close(
        advantages(rewards(), "global"), centred / ((r - r.mean()).square().mean().sqrt() + 1e-4)
    )


@pytest.mark.parametrize("std", ["group", "global", "none"])
def test_the_level_of_a_prompts_rewards_does_not_matter(std: str) -> None:
    """With std=global, only a level that all prompts share does not matter, since levels are part of the deviation."""
    level = torch.tensor([[10.0], [10.0], [10.0]]) if std == "global" else torch.tensor([[10.0], [-3.0], [0.5]])
    torch.testing.assert_close(advantages(rewards() + level, std), advantages(rewards(), std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("std", ["group", "global", "none"])
def test_equal_rewards_have_exactly_no_advantage(std: str) -> None:
    equal = torch.tensor([0.1, 1 / 3, 1e-8])[:, None].expand(3, 7)  # in single precision their mean differs from them
    assert not advantages(equal, std).any()


def test_returns_per_step_are_compared_step_by_step() -> None:
    steps = torch.stack([rewards(), 2 * rewards().flip(1), rewards().square()], -1)
    for std in ("group", "none"):
        expected = torch.stack([advantages(steps[..., i], std) for i in range(3)], -1)
        torch.testing.assert_close(advantages(steps, std), expected)


def test_a_window_is_drawn_for_every_rollout() -> None:
    method = grpo(tiny_policy.policy(), steps=STEPS, window=3, window_within=0.75, updates_per_rollout=2)
    starts = set()
    for rolled_out in range(0, 80, 2):
        etas = method.steps.rollout_sampling(rolled_out).etas
        inside = [i for i, eta in enumerate(etas) if eta]
        assert len(etas) == STEPS and inside == list(range(inside[0], inside[0] + 3))
        assert {etas[i] for i in inside} == {1.0}
        assert method.steps.trained(rolled_out) == method.steps.trained(rolled_out + 1) == inside
        assert method.steps.rollout_sampling(rolled_out + 1).etas == etas
        starts.add(inside[0])
    assert starts == {0, 1, 2, 3}  # in the first six steps


def test_a_window_of_all_steps_equals_no_window() -> None:
    all_steps, none = (grpo(tiny_policy.policy(), window=window).steps.rollout_sampling(0) for window in (4, None))
    assert all_steps.etas == none.etas


def test_only_the_steps_of_the_window_are_random_and_trained() -> None:
    policy = world(num_steps=STEPS)
    method = grpo(policy, Linear(), STEPS, window=3)
    tiny_policy.fit(method, 1)
    inside = torch.tensor([bool(eta) for eta in method.steps.rollout_sampling(0).etas])
    assert inside.sum() == 3
    assert policy.shift.grad.any(1).equal(inside)
    assert (method.rollouts.trajectory.log_probs != 0).all(0).equal(inside)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_window_costs_the_passes_of_its_steps(kind: str) -> None:
    method = grpo(POLICIES[kind](), steps=STEPS, guidance=3.0, window=2)
    tiny_policy.fit(method, 1)
    assert method.policy.passes == 8 * 2 * (STEPS + 2) and method.policy.backward_passes == 8 * 2


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "ddim")) for k in POLICIES])
def test_a_real_policy_learns(kind: str) -> None:
    policy, rewards = POLICIES[kind](trained=False), []
    method = grpo(policy, steps=3, batch_size=32, group=32, std="group", lr=0.02, clip=1e-2, min_std=0.05)
    probe = tiny_policy.Probe(lambda *_: rewards.append(tiny_policy.brightness(policy)))
    tiny_policy.fit(method, 10, probe, prompts=["a circle"])
    assert rewards[-1] > rewards[0] + 0.01


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"group": 1}, r"method\.group=1 must be at least 2: a group is its own baseline"),
        ({"group": 3}, r"batch_size=8 must be a multiple of method\.group=3"),
        ({"updates_per_rollout": 3}, r"batch_size=8 must be a multiple of method\.updates_per_rollout=3"),
        ({"std": "prompt"}, r"method\.std=prompt is not one of group, global, none"),
        ({"window": 5}, r"method\.window=5 must be from 1 to the 4 stochastic steps that .*=1\.0 leaves it"),
        ({"window": 0}, r"method\.window=0 must be from 1 to the 4 stochastic steps that .*"),
        (
            {"min_std": 9.0},
            r"model\.sampling\.eta=1\.0 and method\.min_std=9\.0 leave no stochastic step to learn from",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        grpo(tiny_policy.policy(), **changed)
