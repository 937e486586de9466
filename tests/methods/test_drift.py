"""Each part of DRIFT meets its definition, and with all parts off DRIFT is GRPO, on both processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt import guidance
from rdt.methods.drift import DRIFT, distinctness, potential, sigma, trim, window
from rdt.methods.grpo import GRPO
from rdt.policy import Policy
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from rdt.rollout import Sampling, conditioned, replayed
from worlds import tiny_policy

P, N, K, T = 2, 5, 3, 3
POLICIES: dict[str, Callable[[], Policy]] = {"diffusion": tiny_policy.policy, "flow": tiny_policy.flow_policy}
SHARED = {
    "batch_size": P * N, "seed": 0, "lr": 1e-2, "weight_decay": 1e-4, "max_grad_norm": 1.0, "adam_eps": 1e-8,
    "group": N, "std": "group", "window": None, "window_within": 0.5, "clip": 1e-4, "kl_coef": 0.0,
    "min_std": 0.0, "uncond_grad": False, "updates_per_rollout": 2, "num_steps": None, "micro_batch_size": None,
}  # fmt: skip
OWN = {
    "concentrate": "off", "keep": K, "prompt_noise": 0.0, "tau1": 0.6, "tau2": 0.9, "psi": 1.0, "shaping": "off",
    "shaping_weight": 0.5, "shaping_gamma": 1.0, "terminal_potential": "diversity", "looks": 1,
}  # fmt: skip


class Count(Reward):
    """Score brightness times `scale`, without a gradient."""

    differentiable = False

    def __init__(self, scale: float = 1000.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.scale * images.detach().mean((1, 2, 3))


def embedder(images: Tensor) -> Tensor:
    """Return the pixels as features."""
    return images.flatten(1) - 0.5


def grpo(policy: Policy, reward: Reward | None = None, **changed: Any) -> GRPO:
    """Return GRPO; `changed` replaces options."""
    return GRPO(policy=policy, reward=reward or Count(), sampling=Sampling(T, 0.9, 2.0), **(SHARED | changed))


def drift(policy: Policy, reward: Reward | None = None, **changed: Any) -> DRIFT:
    """Return DRIFT with all three parts off; `changed` replaces options."""
    options: dict[str, Any] = SHARED | OWN | {"embedder": embedder} | changed
    return DRIFT(policy=policy, reward=reward or Count(), sampling=Sampling(T, 0.9, 2.0), **options)


@dataclass(frozen=True)
class Training:
    """Hold a method after training."""

    method: GRPO
    logged: list[dict[str, Tensor]]  # metrics of every iteration

    @property
    def cost(self) -> tuple[int, ...]:
        """Return the forward passes, backward passes and images."""
        return self.method.policy.passes, self.method.policy.backward_passes, self.method.images

    @property
    def latents(self) -> Tensor:
        """Return the states of the rollout, (P N, T + 1, *latent)."""
        return self.method.rollouts.trajectory.latents

    def groups(self, values: Tensor) -> Tensor:
        """Return values of all candidates by group, (P N, ...) -> (P, N, ...)."""
        return values.unflatten(0, (P, N))

    def kept(self, values: Tensor) -> Tensor:
        """Return values of the kept candidates by group, (P N, ...) -> (P, K, ...)."""
        return values[self.method.rollouts.kept].unflatten(0, (P, -1))


def trained(method: GRPO, iterations: int) -> Training:
    """Train a method and log every iteration."""
    logged: list[dict[str, Tensor]] = []
    probe = tiny_policy.Probe(lambda method, _: logged.append(dict(method.trainer.callback_metrics)))
    tiny_policy.fit(method, iterations, probe)
    return Training(method, logged)


def still(policy: Policy, reward: Reward | None = None, **changed: Any) -> Training:
    """Run one iteration that changes no weight."""
    return trained(drift(policy, reward, lr=0.0, **changed), 1)


@cache
def reference(name: str) -> Training:
    """Train GRPO for three iterations."""
    return trained(grpo(POLICIES[name]()), 3)


@pytest.mark.parametrize("name", POLICIES)
def test_with_all_off_it_is_grpo_bit_for_bit(name: str) -> None:
    ours, theirs = trained(drift(POLICIES[name]()), 3), reference(name)
    start = [weight for weight in POLICIES[name]().parameters() if weight.requires_grad]
    for a, b, before in zip(ours.method.trained, theirs.method.trained, start, strict=True):
        assert a.equal(b) and not a.equal(before)
    assert ours.logged == theirs.logged and ours.cost == theirs.cost


@pytest.mark.parametrize("concentrate", ["window", "sigma", "trim"])
def test_keeping_every_candidate_equals_no_concentration(concentrate: str) -> None:
    ours = trained(drift(tiny_policy.flow_policy(), concentrate=concentrate, keep=N), 3)
    assert ours.logged == reference("flow").logged


def test_terminal_shaping_by_a_zero_terminal_potential_changes_nothing() -> None:
    ours = trained(drift(tiny_policy.flow_policy(), shaping="terminal", terminal_potential="zero"), 3)
    assert ours.logged == reference("flow").logged


@pytest.mark.parametrize(
    "changed", [{"concentrate": "window"}, {"prompt_noise": 0.2}, {"shaping": "terminal"}, {"shaping": "stepwise"}]
)
def test_each_part_alone_makes_a_difference(changed: dict[str, Any]) -> None:
    ours = trained(drift(tiny_policy.flow_policy(), **changed), 1)
    same = trained(grpo(tiny_policy.flow_policy()), 1)
    assert not any(a.equal(b) for a, b in zip(ours.method.trained, same.method.trained, strict=True))


@pytest.mark.parametrize("concentrate", [window, sigma, trim], ids=lambda function: function.__name__)
def test_only_concentrated_candidates_are_trained_on_and_compared_within_their_group(concentrate: Callable) -> None:
    run = still(tiny_policy.flow_policy(), concentrate=concentrate.__name__)
    rollouts = run.method.rollouts
    rewards, advantages = run.groups(rollouts.rewards), run.groups(rollouts.advantages)
    mask = torch.zeros(P, N, dtype=torch.bool).scatter(1, concentrate(rewards, K), True)
    assert run.groups(rollouts.kept).equal(mask)
    assert not advantages[~mask].any() and advantages[mask].all()
    inside = rewards[mask].view(P, K).double()
    expected = (inside - inside.mean(1, keepdim=True)) / (inside.std(1, keepdim=True, correction=0) + 1e-4)
    assert run.kept(rollouts.advantages).equal(expected.float()[..., None].expand(P, K, T))


def test_an_update_costs_the_passes_of_the_kept_candidates() -> None:
    """A prompt takes N rollouts of 2 T passes and, over all updates, K replays of 2 T, half of them with gradient."""
    run = trained(drift(tiny_policy.flow_policy(), concentrate="window"), 2)
    assert run.cost == (P * (N + K) * 2 * T, P * K * T, P * N)


@pytest.mark.parametrize("name", POLICIES)
def test_the_ratio_is_1_before_the_first_update_under_prompt_noise(name: str) -> None:
    """The noise has an effect, since the same states have other probabilities under the clean prompts."""
    run = still(POLICIES[name](), prompt_noise=0.25, updates_per_rollout=1)
    assert run.logged[0]["train/ratio_error"] == 0
    method, path = run.method, run.method.rollouts.trajectory
    view = guidance.cfg_detached(method.policy.tuned, method.policy.encode([""]), 2.0)
    cond = method.policy.encode([prompt for prompt in method.rollouts.batch.prompts for _ in range(N)])
    with torch.no_grad():
        clean = replayed(view, method.policy.process, cond, path, 0, 0.9).log_prob(path.latents[:, 1])
    assert (clean - path.log_probs[:, 0]).abs().min() > 1e-5


def test_each_candidate_has_its_own_prompt_noise_which_an_update_draws_again() -> None:
    policy = tiny_policy.flow_policy()
    three, last = (
        conditioned(policy, ["a circle"] * len(indices), policy.noise(0, "train", indices)).drawn
        for indices in ([4, 5, 6], [6])
    )
    assert three.embeds[2].equal(last.embeds[0]) and not three.embeds[0].equal(three.embeds[1])
    assert three.pooled is not None and last.pooled is not None and three.pooled[2].equal(last.pooled[0])


def tensors(thing: Any) -> Iterator[Tensor]:
    """Yield every tensor that an object holds, at any depth."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        yield from (found for part in thing for found in tensors(part))
    elif hasattr(thing, "__dict__"):
        yield from tensors(list(vars(thing).values()))


def test_rollouts_keep_the_key_of_their_prompt_noise_and_nothing_of_a_conditions_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A condition can be larger than its sample; what is kept for all samples are their states."""
    seen: list[Tensor] = []
    monkeypatch.setattr(DRIFT, "returns", lambda self, rewards, kept, rollouts, images: (
        seen.extend(tensors(rollouts)), rewards)[1])  # fmt: skip
    method = still(tiny_policy.flow_policy(), prompt_noise=0.25).method
    condition = method.policy.encode(["a circle"])
    shapes = {x.shape[1:] for x in (condition.embeds, condition.pooled) if x is not None}
    assert seen and not shapes & {x.shape[1:] for x in (*seen, *tensors(method.rollouts))}


def test_without_prompt_noise_none_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Noise, "like", lambda self, x, purpose: drawn.append(purpose))
    still(tiny_policy.flow_policy())
    assert drawn == []


def test_the_policy_is_evaluated_under_clean_prompts() -> None:
    x, t = tiny_policy.normal(2, *tiny_policy.LATENT), torch.tensor(1.0)
    outputs = []
    for method in drift(tiny_policy.flow_policy(), prompt_noise=0.2), grpo(tiny_policy.flow_policy()):
        with torch.no_grad():
            outputs.append(method.guided(method.policy.tuned)(x, t, method.policy.encode(tiny_policy.PROMPTS[:2])))
    assert outputs[0].equal(outputs[1])


def normalised(returns: Tensor) -> Tensor:
    """Return GRPO's advantages of returns (P, K, T)."""
    return (returns - returns.mean(1, keepdim=True)) / (returns.std(1, keepdim=True, correction=0) + 1e-4)


def phi(run: Training, x0: Tensor) -> Tensor:
    """Return the potential (P, K, 1) of clean latents (P N, *latent)."""
    return potential(distinctness(run.kept(embedder(run.method.policy.decode(x0))))).unsqueeze(-1).double()


@pytest.mark.parametrize("std", ["group", "none"])
def test_terminal_shaping_adds_the_discounted_potential_to_the_reward(std: str) -> None:
    """Its weight is in units of the group's standard deviation of rewards, or of the reward if std=none."""
    changed = {"shaping": "terminal", "shaping_weight": 3.0, "shaping_gamma": 0.9, "concentrate": "window", "std": std}
    run = still(tiny_policy.flow_policy(), **changed)
    rewards = run.kept(run.method.rollouts.rewards).double().unsqueeze(-1)
    unit = rewards.std(1, keepdim=True, correction=0) + 1e-4 if std == "group" else 1
    returns = (rewards + 3.0 * unit * 0.9**T * phi(run, run.latents[:, -1])).expand(P, K, T)
    expected = normalised(returns) if std == "group" else returns - returns.mean(1, keepdim=True)
    torch.testing.assert_close(run.kept(run.method.rollouts.advantages), expected.float())


@pytest.mark.parametrize("end", ["diversity", "zero"])
def test_stepwise_shaping_subtracts_the_potential_of_the_state(end: str) -> None:
    """sum_{k >= i} gamma^k F_k is gamma^T Phi(x_T) - gamma^i Phi(x_i), with Phi evaluated at x_1 and held at x_2."""
    run = still(tiny_policy.flow_policy(), shaping="stepwise", shaping_gamma=0.9, terminal_potential=end)
    method, process = run.method, run.method.policy.process
    cond = method.policy.encode([prompt for prompt in method.rollouts.batch.prompts for _ in range(N)])
    with torch.no_grad():
        output = method.guided(method.policy.tuned)(run.latents[:, 1], method.times[1], cond)
    held = phi(run, process.clean(output, run.latents[:, 1], method.times[1]))
    last = phi(run, run.latents[:, -1]) if end == "diversity" else 0
    before = torch.cat([0 * held, 0.9 * held, 0.9**2 * held], -1)
    rewards = run.kept(method.rollouts.rewards).double().unsqueeze(-1)
    unit = rewards.std(1, keepdim=True, correction=0) + 1e-4
    expected = normalised(rewards + 0.5 * unit * (0.9**3 * last - before))
    torch.testing.assert_close(run.kept(method.rollouts.advantages), expected.float(), rtol=1e-4, atol=1e-4)


def test_the_weight_of_shaping_does_not_depend_on_the_scale_of_the_reward() -> None:
    a, b = (still(tiny_policy.flow_policy(), Count(scale), shaping="terminal").method.rollouts for scale in (1e3, 1e6))
    torch.testing.assert_close(a.advantages, b.advantages, rtol=1e-3, atol=1e-3)


def test_a_group_of_equal_rewards_still_has_advantages_under_shaping() -> None:
    rollouts = still(tiny_policy.flow_policy(), Count(0.0), shaping="terminal").method.rollouts
    assert (rollouts.advantages != 0).any(1).all()
    assert not still(tiny_policy.flow_policy(), Count(0.0)).method.rollouts.advantages.any()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"concentrate": "window", "keep": 6}, r"method\.keep=6 must be from 2 to method\.group=5"),
        ({"concentrate": "trim", "keep": 1}, r"method\.keep=1 must be from 2 to method\.group=5"),
        ({"concentrate": "best"}, r"method\.concentrate=best is not one of off, window, sigma, trim"),
        ({"shaping": "dense"}, r"method\.shaping=dense is not one of off, terminal, stepwise"),
        ({"terminal_potential": "one"}, r"method\.terminal_potential=one is not one of diversity, zero"),
        ({"prompt_noise": -0.1}, r"method\.prompt_noise=-0\.1 must not be below 0; 0 is off"),
    ],
)
def test_bad_options_are_refused_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        drift(tiny_policy.flow_policy(), **changed)
