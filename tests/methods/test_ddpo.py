"""DDPO compares rewards with the prompt's latest ones, and trains on a fraction of the steps."""

from typing import Any

import pytest
import torch

from rdt.methods.ddpo import DDPO
from worlds import tiny_policy
from worlds.policy_gradients import ddpo

FEW = {"stat_size": 4, "stat_min": 3}


def earn(method: DDPO, *rewards: float, prompts: str) -> list[float]:
    """Return the advantages of a rollout; each letter of `prompts` is the prompt of one reward."""
    found = method.advantages(torch.tensor(rewards)[:, None], list(prompts))
    assert found.shape == (len(rewards), 1)
    return found.flatten().tolist()


def relative(reward: float, *known: float) -> float:
    """Return a reward's advantage relative to known rewards."""
    values = torch.tensor(known).double()
    return ((reward - values.mean()) / (values.std(correction=0) + 1e-6)).item()


def test_a_prompt_with_few_rewards_is_compared_with_the_whole_rollout() -> None:
    found = earn(ddpo(tiny_policy.policy(), std="prompt", **FEW), 1, 2, 5, prompts="aab")
    assert found == pytest.approx([relative(r, 1, 2, 5) for r in (1, 2, 5)])


def test_a_prompt_with_enough_rewards_is_compared_with_its_own_latest() -> None:
    method = ddpo(tiny_policy.policy(), std="prompt", **FEW)
    earn(method, 1, 2, 50, prompts="aab")
    assert earn(method, 4, 60, prompts="ab") == pytest.approx([relative(4, 1, 2, 4), relative(60, 4, 60)])
    assert earn(method, 5, 9, prompts="aa") == pytest.approx([relative(r, 2, 4, 5, 9) for r in (5, 9)])
    assert method.earned == {"a": [2, 4, 5, 9], "b": [50, 60]}


def test_undivided_advantages_are_in_units_of_the_reward() -> None:
    assert earn(ddpo(tiny_policy.policy(), **FEW), 1, 2, 6, prompts="aaa") == pytest.approx([-2, -1, 3])


def test_advantages_are_clipped() -> None:
    assert earn(ddpo(tiny_policy.policy(), advantage_clip=1.5, **FEW), 1, 2, 6, prompts="aaa") == pytest.approx(
        [-1.5, -1, 1.5]
    )


def test_equal_rewards_have_exactly_no_advantage() -> None:
    assert not any(earn(ddpo(tiny_policy.policy(), std="prompt", **FEW), *[0.1] * 7, prompts="aaaabbc"))


def test_a_fraction_of_the_steps_is_drawn_for_every_update() -> None:
    method = ddpo(tiny_policy.policy(), steps=8, step_fraction=0.4, updates_per_rollout=2)
    drawn = [method.steps.trained(iteration) for iteration in range(40)]
    assert all(len(steps) == 3 and steps == sorted(set(steps)) for steps in drawn)
    assert {i for steps in drawn for i in steps} == set(range(8)) and len({tuple(steps) for steps in drawn}) > 20
    assert ddpo(tiny_policy.policy(), steps=8).steps.trained(0) == list(range(8))
    assert len(ddpo(tiny_policy.policy(), steps=8, step_fraction=0.01).steps.trained(0)) == 1


def test_an_update_costs_the_passes_of_its_steps() -> None:
    method = ddpo(tiny_policy.policy(), steps=4, guidance=3.0, step_fraction=0.5)
    tiny_policy.fit(method, 1)
    assert method.policy.passes == 8 * 2 * (4 + 2) and method.policy.backward_passes == 8 * 2


def test_the_checkpoint_holds_the_prompts_latest_rewards() -> None:
    method, other = ddpo(tiny_policy.policy()), ddpo(tiny_policy.policy())
    tiny_policy.fit(method, 2)
    checkpoint: dict[str, Any] = {"state_dict": {}}
    method.iteration = 2
    method.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other.earned == method.earned and sum(map(len, other.earned.values())) == 16
    assert "rollouts" not in checkpoint  # the next update starts with new rollouts


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"std": "group"}, r"method\.std=group is not one of prompt, none"),
        ({"step_fraction": 0.0}, r"method\.step_fraction=0\.0 must be above 0 and at most 1"),
        ({"stat_min": 33}, r"method\.stat_min=33 must be from 1 to method\.stat_size=32"),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        ddpo(tiny_policy.policy(), **changed)
