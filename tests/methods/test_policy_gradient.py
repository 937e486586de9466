"""DDPO and GRPO share exact ratios, the true gradient, the tilted Gaussian, and no superfluous pass."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from rdt.methods.policy_gradient import PolicyGradient
from rdt.methods.rollouts import Rollouts
from rdt.rollout import Trajectory
from rdt.stream import Batch
from rdt.training.launch import launch, work
from worlds import tiny_policy
from worlds.gaussian import ALPHA, B, Gaussian, Linear, error, law, optimum, world
from worlds.policy_gradients import METHODS, POLICIES, ddpo, grpo
from worlds.smallest_run import adapter, minimal

STEPS = 4


def metrics(method: PolicyGradient, iterations: int) -> list[dict[str, float]]:
    """Return the logged metrics of every iteration."""
    found: list[dict[str, float]] = []

    def look(method: PolicyGradient, _: Batch) -> None:
        found.append({name: value.item() for name, value in method.trainer.callback_metrics.items()})

    tiny_policy.fit(method, iterations, tiny_policy.Probe(look))
    return found


def gradients(method: PolicyGradient, iterations: int = 1) -> list[Tensor]:
    """Return the gradient of each of the first updates, all weights in one vector."""
    found: list[Tensor] = []

    def look(method: PolicyGradient, _: Batch) -> None:
        found.append(torch.cat([p.grad.flatten().clone() for p in method.trained]))

    tiny_policy.fit(method, iterations, tiny_policy.Probe(look))
    return found


@pytest.mark.parametrize("guidance, uncond_grad", [(1.0, False), (3.0, False), (3.0, True)])
@pytest.mark.parametrize("kind", POLICIES)
def test_the_ratio_is_exactly_1_before_the_first_update(kind: str, guidance: float, uncond_grad: bool) -> None:
    """The ratio is that of the stored log-probabilities, and the policy is not the base."""
    found = metrics(grpo(POLICIES[kind](), guidance=guidance, uncond_grad=uncond_grad), 3)
    assert [row["train/ratio_error"] for row in found] == [0.0] * 3


@pytest.mark.parametrize("kind", POLICIES)
def test_the_ratio_changes_with_later_updates(kind: str) -> None:
    found = metrics(grpo(POLICIES[kind](), guidance=3.0, updates_per_rollout=2, clip=1e-4), 4)
    assert all(row["train/ratio_error"] < 1e-6 and row["train/clipped"] == 0 for row in found[::2])
    assert all(row["train/ratio_error"] > 1e-4 and row["train/clipped"] > 0 for row in found[1::2])
    assert found[0]["train/reward"] == found[1]["train/reward"] != found[2]["train/reward"]


def test_last_bits_that_batching_changes_are_not_clipped() -> None:
    """The update runs half of the samples at once: their ratio is still 1, and no clip range is too narrow."""
    wide, narrow = (
        gradients(grpo(tiny_policy.policy(), guidance=3.0, updates_per_rollout=2, clip=c))[0] for c in (1e9, 0.0)
    )
    assert wide.equal(narrow) and wide.norm() > 0


def test_the_updates_of_a_rollout_split_its_samples() -> None:
    """If the policy does not change, the mean of their gradients is that of one update on all samples."""
    whole = gradients(grpo(tiny_policy.policy(), lr=0.0))[0]
    parts = gradients(grpo(tiny_policy.policy(), lr=0.0, updates_per_rollout=4), iterations=4)
    torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-4, atol=1e-7)
    assert all(not a.allclose(b) for a, b in pairwise(parts))


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
def test_the_objective_is_a_mean_over_the_trained_steps(kl_coef: float) -> None:
    """So the norm that is clipped does not grow with the number of steps; the steps share no weight here."""
    whole, each = world(num_steps=STEPS), []
    tiny_policy.fit(grpo(whole, Linear(), STEPS, lr=0.0, kl_coef=kl_coef), 1, prompts=["p"])
    for k in range(STEPS):
        policy = world(num_steps=STEPS)
        method = grpo(policy, Linear(), STEPS, lr=0.0, kl_coef=kl_coef)
        method.steps = replace(method.steps, stochastic=[k])
        tiny_policy.fit(method, 1, prompts=["p"])
        each.append(policy.shift.grad.clone())
    torch.testing.assert_close(whole.shift.grad, torch.stack(each).mean(0))


def slope(policy: Gaussian) -> Tensor:
    """Return the exact gradient (T, 3) of E[b . x_T] with respect to the shifts, in which it is linear."""
    found = torch.zeros_like(policy.shift)
    at = law(policy.tuned, policy)[0]
    for i, d in torch.cartesian_prod(*map(torch.arange, policy.shift.shape)).tolist():
        policy.shift.data[i, d] += 1
        found[i, d] = (law(policy.tuned, policy)[0] - at) @ B
        policy.shift.data[i, d] -= 1
    return found


def gaussian(name: str, policy: Gaussian, samples: int, **changed: Any) -> PolicyGradient:
    """Return a method on the Gaussian world, corrected for baselines that contain the sample itself."""
    group = {"group": samples} if name == "grpo" else {}
    method = METHODS[name](policy, Linear(), len(policy.shift), batch_size=samples, **group, **changed)
    method.kl_coef *= 1 - 1 / samples
    return method


@pytest.mark.parametrize("name", METHODS)
def test_the_policy_gradient_is_that_of_the_expected_reward(name: str) -> None:
    policy, samples = world(num_steps=STEPS), 128
    policy.shift.data = 0.1 * tiny_policy.normal(STEPS, 3)
    found: list[Tensor] = []
    method = gaussian(name, policy, samples, lr=0.0)
    tiny_policy.fit(method, 40, tiny_policy.Probe(lambda *_: found.append(-policy.shift.grad.clone())), prompts=["p"])
    estimates = torch.stack(found) * 3 * STEPS / (1 - 1 / samples)  # log-probabilities are means over 3 dimensions
    exact, errors = slope(policy), estimates.std(0) / len(estimates) ** 0.5
    z = (estimates.mean(0) - exact) / errors
    assert z.abs().max() < 4 and z.square().mean().sqrt() < 1.6
    assert errors.norm() < 0.15 * exact.norm()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "ddpo")) for n in METHODS])
def test_training_with_kl_reaches_the_tilted_gaussian(name: str) -> None:
    """The mean of the iterates is the optimum, since each one carries noise; alpha is kl_coef per nat of the path."""
    policy = world(num_steps=6)
    base, covariance = law(policy.base, policy)
    found: list[Tensor] = []
    method = gaussian(name, policy, 128, lr=0.03, kl_coef=ALPHA)
    tiny_policy.fit(
        method, 60, tiny_policy.Probe(lambda *_: found.append(policy.shift.detach().clone())), prompts=["p"]
    )
    policy.shift.data = torch.stack(found[20:]).mean(0)
    mean, learned = law(policy.tuned, policy)
    assert error(policy.shift.detach(), optimum(policy)) < 0.12
    assert error(mean - base, covariance @ B / ALPHA) < 0.12
    assert error(learned, covariance) < 1e-4


def test_the_kl_of_later_updates_is_that_of_the_states_of_the_rollout() -> None:
    policy = tiny_policy.policy()
    found = metrics(grpo(policy, kl_coef=1.0, lr=0.0, updates_per_rollout=2), 2)
    assert all(row["train/kl_nats"] > 0 for row in found)
    same = metrics(grpo(tiny_policy.policy(trained=False), kl_coef=1.0, lr=0.0), 1)
    assert same[0]["train/kl_nats"] == 0


class Partial(tiny_policy.Brightness):
    """Score brightness for some prompts, and 0.1 for all others."""

    differentiable = False

    def __init__(self, *prompts: str) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        known = torch.tensor([prompt in self.prompts for prompt in prompts])
        return torch.where(known, super().forward(images, prompts), 0.1)


@pytest.mark.parametrize("std", ["group", "global", "none"])
def test_groups_of_equal_reward_give_no_gradient_and_cost_no_pass(std: str) -> None:
    method = grpo(tiny_policy.policy(), Partial(), std=std, group=8, batch_size=24)
    assert not gradients(method)[0].any()
    assert method.policy.passes == 24 * STEPS and method.policy.backward_passes == 0


def test_groups_of_equal_reward_do_not_change_the_gradient_of_others() -> None:
    method = grpo(tiny_policy.policy(), Partial(tiny_policy.PROMPTS[0]), batch_size=24)
    found = gradients(method)[0]
    prompts = method.rollouts.batch.prompts
    informative = 4 * prompts.count(tiny_policy.PROMPTS[0])
    assert 0 < informative < 24 and found.norm() > 0
    assert method.policy.passes == (24 + informative) * STEPS and method.policy.backward_passes == informative * STEPS


def test_groups_of_equal_reward_still_have_the_gradient_of_the_kl() -> None:
    method = grpo(tiny_policy.policy(), Partial(), kl_coef=1.0)
    assert gradients(method)[0].norm() > 0
    assert method.policy.backward_passes == 8 * STEPS


@pytest.mark.parametrize("uncond_grad, backward", [(False, 1), (True, 2)])
def test_the_unconditional_branch_costs_a_backward_pass_only_with_uncond_grad(uncond_grad: bool, backward: int) -> None:
    """A step of a sample takes 5 passes instead of 6, which is 1.2 times cheaper."""
    method = grpo(tiny_policy.policy(), guidance=3.0, uncond_grad=uncond_grad)
    gradients(method)
    assert method.policy.passes == 8 * STEPS * (2 + 2) and method.policy.backward_passes == 8 * STEPS * backward


def test_training_rollouts_may_have_fewer_steps_than_the_model() -> None:
    method = grpo(tiny_policy.policy(), steps=9, num_steps=3)
    gradients(method)
    assert method.rollouts.trajectory.log_probs.shape == (8, 3) and method.policy.passes == 8 * 3 * 2
    assert method.rollouts.trajectory.times.equal(method.policy.process.times(3))


@pytest.mark.parametrize("kind, steps", [("ddim", [0, 1, 2, 3]), ("flow_sde", [0, 1, 2, 3]), ("cps", [0, 1, 2])])
def test_only_stochastic_steps_are_trained(kind: str, steps: list[int]) -> None:
    """The last step of CPS has no noise, and the last two of DDIM have little."""
    assert grpo(POLICIES[kind]()).steps.trained(0) == steps
    assert grpo(POLICIES[kind](), min_std=0.05).steps.trained(0) == (steps[:2] if kind == "ddim" else steps)


def test_a_reward_without_gradient_is_enough() -> None:
    found = metrics(ddpo(tiny_policy.flow_policy(), Partial(*tiny_policy.PROMPTS)), 1)
    assert found[0]["train/reward"] > 0


def test_saved_rollouts_load_on_any_number_of_ranks() -> None:
    trajectory = Trajectory(tiny_policy.normal(8, 3, 2), tiny_policy.normal(8, 2, seed=1), torch.arange(3))
    kept = torch.tensor([[0, 3], [1, 2]])
    rollouts = Rollouts.of(
        Batch(4, ["a", "b"]), tiny_policy.normal(2, 4), kept, torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[False, True], [True, False]]), trajectory,
    )  # fmt: skip
    assert rollouts.kept.nonzero().flatten().tolist() == [0, 3, 5, 6]
    assert rollouts.held.nonzero().flatten().tolist() == [3, 5]
    assert rollouts.advantages[:, 1].tolist() == [1, 0, 0, 2, 0, 3, 4, 0]
    state = rollouts.state_dict(rank=0, world=1)
    halves = [Rollouts.restored(state, range(first, first + 4), torch.device("cpu")) for first in (0, 4)]
    assert torch.cat([half.trajectory.latents for half in halves]).equal(trajectory.latents)
    assert all(
        half.batch == rollouts.batch and half.advantages.equal(rollouts.advantages) and half.held.equal(rollouts.held)
        for half in halves
    )


RUN = (
    "logger=csv", "iterations=6", "batch_size=4", "evaluation.every=0", "trainer.checkpoint_every=3",
    "method.num_steps=3", "method.min_std=0.0", "method.updates_per_rollout=4", "method.lr=3e-3",
)  # fmt: skip


KL = ("method.kl_coef=0.5", "method.last_step=true")
OWN = {
    "ddpo": ("method.stat_min=1",),
    "grpo": ("method.group=2",),
    "gardo": ("method.group=2", *KL, "method.gate_share=0.2", "method.reset_every=2"),
    "diverse_grpo": ("method.group=4", *KL, "method.kl_within=0.7", "method.initial=shared", "method.ratio=guard"),
}


def config(out: Path, name: str, *overrides: str) -> DictConfig:
    """Return a run of six updates, four per rollout: its checkpoint after three lies within a rollout."""
    return minimal(out, f"method={name}", *RUN, *OWN[name], *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpo", "gardo", "diverse_grpo"])
def test_a_run_resumes_in_the_middle_of_a_rollout_bit_for_bit(name: str, tmp_path: Path) -> None:
    """DDPO also has to save the prompts' latest rewards, and GARDO its reference."""
    work(config(tmp_path / "whole", name))
    work(config(tmp_path / "resumed", name, f"resume={tmp_path / 'whole' / 'checkpoints' / '000003'}"))
    whole, resumed = adapter(tmp_path / "whole"), adapter(tmp_path / "resumed")
    assert all(tensor.equal(whole[key]) for key, tensor in resumed.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "gardo", "diverse_grpo"])
def test_two_ranks_train_what_one_does_and_one_resumes_from_them(name: str, tmp_path: Path) -> None:
    """Each update has one sample, so one rank has none; micro-batches of equal size give equal bits."""
    work(config(tmp_path / "alone", name, "micro_batch_size=2"))
    launch(config(tmp_path / "two_ranks", name, "devices=2"))
    checkpoint = tmp_path / "two_ranks" / "checkpoints" / "000003"
    work(config(tmp_path / "resumed", name, "micro_batch_size=2", f"resume={checkpoint}"))
    alone = adapter(tmp_path / "alone")
    assert max(tensor.abs().max() for key, tensor in alone.items() if "lora_B" in key) > 1e-3  # from 0
    for other in ("two_ranks", "resumed"):
        assert all(tensor.equal(alone[key]) for key, tensor in adapter(tmp_path / other).items()), other
