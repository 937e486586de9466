"""A rollout depends on its samples alone: not on their batch, nor on the order in which noise is drawn."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rdt.process import Diffusion, Flow, Process
from rdt.randomness import Noise
from rdt.rollout import Sampling, conditioned, path_kl, replayed, rollout, sampled, steps
from worlds import tiny_policy

SHAPE, NUM_STEPS = (2, 3, 4), 6
SAMPLING = Sampling(NUM_STEPS, 0.8, 1.0)
PROCESSES = [
    Diffusion(alphas_cumprod=torch.linspace(0.999, 0.005, 1000), prediction="epsilon"),
    Flow(sampler="sde"),
    Flow(sampler="cps", shift=3.0),
]


@dataclass(frozen=True)
class Cond:
    embeds: Tensor  # (B,)


def denoiser(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return torch.tanh(x) * 0.9 + cond.embeds.view(-1, 1, 1, 1) * 0.1


def noise(*indices: int, purpose: str = "train", seed: int = 0) -> Noise:
    return Noise(seed=seed, purpose=purpose, indices=indices, shape=SHAPE, device="cpu")


def cond(*indices: int) -> Cond:
    return Cond(torch.tensor(indices, dtype=torch.float32))


def test_noise_is_keyed_by_sample_step_purpose_and_seed() -> None:
    together, alone = noise(3, 8, 5), noise(8)
    assert together.step(2)[1:2].equal(alone.step(2))
    assert together.initial()[1:2].equal(alone.initial())
    draws = [alone.initial(), *(alone.step(i) for i in range(3))]
    draws += [noise(9).initial(), noise(8, purpose="eval").initial(), noise(8, seed=1).initial()]
    assert len({draw.flatten()[0].item() for draw in draws}) == len(draws)


def test_noise_is_standard_normal_and_uncorrelated_between_samples_and_steps() -> None:
    source = noise(*range(400))
    first, second = source.initial().flatten(1), source.step(0).flatten(1)
    assert abs(first.mean()) < 0.04
    assert abs(first.std() - 1) < 0.03
    assert abs((first * second).mean()) < 0.04
    assert abs((first[1:] * first[:-1]).mean()) < 0.04


@pytest.mark.parametrize("process", PROCESSES)
def test_rollout_depends_on_neither_batch_size_nor_order(process: Process) -> None:
    together = rollout(denoiser, process, cond(4, 7, 5), noise(4, 7, 5), SAMPLING)
    assert together.latents.shape == (3, NUM_STEPS + 1, *SHAPE)
    assert together.log_probs.shape == (3, NUM_STEPS)
    for row, index in enumerate((4, 7, 5)):
        alone = rollout(denoiser, process, cond(index), noise(index), SAMPLING)
        torch.testing.assert_close(together.latents[row], alone.latents[0])
        torch.testing.assert_close(together.log_probs[row], alone.log_probs[0])


@pytest.mark.parametrize("process", PROCESSES)
def test_replayed_log_probs_are_the_rollouts_bit_for_bit(process: Process) -> None:
    trajectory = rollout(denoiser, process, cond(1, 2), noise(1, 2), SAMPLING)
    for i in range(NUM_STEPS):
        step = replayed(denoiser, process, cond(1, 2), trajectory, i, 0.8)
        assert step.log_prob(trajectory.latents[:, i + 1]).equal(trajectory.log_probs[:, i])


def test_a_replayed_step_carries_gradient_and_a_rollout_does_not() -> None:
    gain = torch.ones((), requires_grad=True)
    sampling = Sampling(NUM_STEPS, 1.0, 1.0)
    trajectory = rollout(lambda x, t, c: gain * denoiser(x, t, c), PROCESSES[0], cond(1), noise(1), sampling)
    assert not trajectory.latents.requires_grad
    step = replayed(lambda x, t, c: gain * denoiser(x, t, c), PROCESSES[0], cond(1), trajectory, 2, 1.0)
    step.log_prob(trajectory.latents[:, 3]).sum().backward()
    assert gain.grad.abs() > 0


@pytest.mark.parametrize("process", PROCESSES)
def test_with_eta_zero_only_the_initial_noise_is_drawn(process: Process) -> None:
    trajectory = rollout(denoiser, process, cond(1), noise(1), Sampling(NUM_STEPS, 0, 1.0))
    assert trajectory.log_probs.count_nonzero() == 0
    x = noise(1).initial()
    for t, t_next in pairwise(trajectory.times):
        x = process.transition(denoiser(x, t, cond(1)), x, t, t_next, 0.0).mean
    assert trajectory.clean.equal(x)


def test_only_the_stochastic_steps_of_a_window_have_a_density() -> None:
    etas = [0.0, 0.0, 0.7, 0.7, 0.0, 0.0]
    trajectory = rollout(denoiser, Flow(sampler="sde"), cond(1), noise(1), Sampling(NUM_STEPS, etas, 1.0))
    assert trajectory.log_probs.ne(0).squeeze().tolist() == [eta > 0 for eta in etas]
    with pytest.raises(ValueError, match="eta has 1 values, num_steps=6"):
        rollout(denoiser, Flow(sampler="sde"), cond(1), noise(1), Sampling(NUM_STEPS, [0.7], 1.0))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_perfect_denoiser_of_one_point_ends_there(process: Process) -> None:
    """The data are one point, and the exact network leads there whatever noise is drawn on the way."""
    point = torch.full((1, *SHAPE), 0.7)

    def exact(x: Tensor, t: Tensor, _: Cond) -> Tensor:
        at = process._at(t, x)
        e = (x - at.alpha * point) / at.sigma
        return e if isinstance(process, Diffusion) else e - point

    trajectory = rollout(exact, process, cond(1), noise(1), Sampling(40, 0.5, 1.0))
    torch.testing.assert_close(trajectory.clean, point, atol=0.2, rtol=0)


def test_the_steps_go_on_from_where_a_rollout_stopped() -> None:
    whole = rollout(denoiser, PROCESSES[0], cond(1, 2), noise(1, 2), SAMPLING)
    start = rollout(denoiser, PROCESSES[0], cond(1, 2), noise(1, 2), SAMPLING, stop=4)
    assert start.latents.equal(whole.latents[:, :5]) and start.log_probs.equal(whole.log_probs[:, :4])
    rest = [x for _, x in steps(denoiser, PROCESSES[0], cond(1, 2), noise(1, 2), SAMPLING, (4, start.clean))]
    assert torch.stack(rest, 1).equal(whole.latents[:, 5:])
    none = rollout(denoiser, PROCESSES[0], cond(1, 2), noise(1, 2), SAMPLING, stop=0)
    assert none.clean.equal(noise(1, 2).initial()) and none.log_probs.shape == (2, 0)


def test_sampling_a_policy_is_a_rollout_under_its_prompts_and_their_noise() -> None:
    policy, sampling = tiny_policy.policy(), Sampling(3, 1.0, 1.0)
    drawn = policy.noise(0, "test", range(3))
    found = sampled(policy, policy.tuned, tiny_policy.PROMPTS, drawn, sampling)
    expected = rollout(policy.tuned, policy.process, policy.encode(tiny_policy.PROMPTS), drawn, sampling)
    assert found.trajectory.latents.equal(expected.latents) and found.clean.equal(expected.clean)
    again = conditioned(policy, tiny_policy.PROMPTS[2:], policy.noise(0, "test", [2]))
    cond = conditioned(policy, found.prompts, found.noise)
    assert cond[2:].drawn.embeds.equal(again.drawn.embeds) and cond[2:].embeds.equal(again.embeds)


def test_the_kl_of_a_path_is_the_sum_of_its_steps_and_of_the_base_exactly_zero() -> None:
    policy, sampling = tiny_policy.policy(), Sampling(3, 1.0, 1.0)
    found = sampled(policy, policy.tuned, tiny_policy.PROMPTS, policy.noise(0, "test", range(3)), sampling)
    given = policy.process, conditioned(policy, found.prompts, found.noise), found.trajectory
    with torch.no_grad():
        expected = sum(
            replayed(policy.tuned, *given, i, 1.0).kl(replayed(policy.base, *given, i, 1.0)) for i in range(3)
        )
    assert path_kl(policy.tuned, policy.base, *given, sampling.etas).equal(expected) and (expected > 0).all()
    assert not path_kl(policy.base, policy.base, *given, sampling.etas).any()
