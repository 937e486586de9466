"""Windows move as they say and never shrink, the last step may be left out, and steps are weighted by their noise."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rdt.methods.step_choice import StepChoice
from worlds import tiny_policy
from worlds.policy_gradients import POLICIES, grpo

STEPS = 8


def choice(**changed: Any) -> StepChoice:
    """Return the choice of steps of a method on eight steps."""
    return grpo(tiny_policy.policy(), steps=STEPS, **changed).steps


def inside(steps: StepChoice, iteration: int) -> list[int]:
    """Return the window of the rollout that an iteration learns from."""
    return [i for i, eta in enumerate(steps.rollout_sampling(iteration).etas) if eta]


def test_a_progressive_window_advances_by_a_step_and_begins_anew_and_never_shrinks() -> None:
    steps = choice(window=3, window_within=0.75, window_moves="progressive", window_iterations=5)
    found = [inside(steps, iteration) for iteration in range(25)]
    assert found[::5] == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [0, 1, 2]]
    assert all(found[k] == found[k - k % 5] for k in range(25))


def test_a_progressive_window_does_not_move_within_a_rollout() -> None:
    steps = choice(window=2, window_moves="progressive", window_iterations=3, updates_per_rollout=2)
    assert [inside(steps, k)[0] for k in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", POLICIES)
def test_the_last_step_is_sampled_with_noise_and_not_trained_without_last_step(kind: str) -> None:
    with_it, without = (grpo(POLICIES[kind](), steps=STEPS, last_step=last).steps for last in (True, False))
    assert without.trained(0) == [i for i in with_it.trained(0) if i < STEPS - 1]
    assert without.rollout_sampling(0).etas == with_it.rollout_sampling(0).etas


def test_the_weights_of_noise_are_in_proportion_to_it_and_have_mean_one() -> None:
    steps = choice(step_weight="noise", min_std=0.05)
    weights, trained = steps.weights(0), steps.trained(0)
    assert list(weights) == trained and sum(weights.values()) / len(trained) == pytest.approx(1)
    ratios = [weights[i] / steps.noisy.stds[i] for i in trained]
    assert ratios == pytest.approx([ratios[0]] * len(trained)) and len(set(weights.values())) > 1


@pytest.mark.parametrize("kind", POLICIES)
def test_the_weights_of_the_guard_are_one_over_the_noise_level_that_a_step_takes_away(kind: str) -> None:
    policy = POLICIES[kind]()
    steps = grpo(policy, steps=STEPS, step_weight="guard").steps
    levels = policy.process.level(policy.process.times(STEPS))
    for i, weight in steps.weights(0).items():
        assert weight == pytest.approx(1 / (levels[i] - levels[i + 1]).item(), rel=1e-4)


def test_without_weights_all_are_exactly_one() -> None:
    assert set(choice().weights(0).values()) == {1.0}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"window_moves": "decay"}, r"method\.window_moves=decay is not one of random, progressive"),
        ({"window_iterations": 0}, r"method\.window_iterations=0 must be at least 1"),
        ({"step_weight": "std"}, r"method\.step_weight=std is not one of none, noise, guard"),
        ({"ratio": "tight"}, r"method\.ratio=tight is not one of plain, guard"),
        ({"kl_within": 1.5}, r"method\.kl_within=1\.5 must be from 0 to 1"),
        ({"kl_divide": "std"}, r"method\.kl_divide=std is not one of variance, none"),
        ({"initial": "one"}, r"method\.initial=one is not one of own, shared"),
        ({"cluster_bonus": -1.0}, r"method\.cluster_bonus=-1\.0 must not be below 0; 0 is off"),
        ({"cluster_bonus": 0.3}, r"method\.cluster_bonus=0\.3 compares images; add 'method\.embedder=\$\{.*\}'"),
        (
            {"num_steps": 1, "last_step": False},
            r"model\.sampling\.eta=1\.0, method\.last_step=false and method\.min_std=0\.0 leave no stochastic step .*",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        choice(**changed)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_shared_start_is_that_of_the_first_image_and_the_rest_of_the_noise_is_each_images_own(kind: str) -> None:
    shared, own = (grpo(POLICIES[kind](), lr=0.0, initial=initial) for initial in ("shared", "own"))
    tiny_policy.fit(shared, 1)
    tiny_policy.fit(own, 1)
    ours, theirs = (method.rollouts.trajectory.latents.unflatten(0, (2, 4)) for method in (shared, own))
    assert ours[:, :, 0].equal(theirs[:, :1, 0].expand_as(ours[:, :, 0]))
    assert ours[:, 0].equal(theirs[:, 0]) and not ours[:, 0, 1].allclose(ours[:, 1, 1])


def test_noise_with_a_shared_start_is_the_same_for_any_rows_and_shares_nothing_else() -> None:
    whole = replace(tiny_policy.policy().noise(0, "train", range(8)), starts=[0, 0, 0, 0, 4, 4, 4, 4])
    rows = torch.tensor([1, 6])
    assert whole[rows].initial().equal(whole.initial()[rows]) and whole[rows].step(2).equal(whole.step(2)[rows])
    assert (whole[:3] + whole[3:]).initial().equal(whole.initial())
    like = whole.like(torch.zeros(8, 2), "condition")
    assert len(like.unique(dim=0)) == 8 and len(whole.initial().unique(dim=0)) == 2
