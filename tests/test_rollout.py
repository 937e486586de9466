"""A rollout belongs to its samples: not to the batch they came in, nor to the order in which noise is asked for."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rdt.process import Diffusion, Flow, Process
from rdt.rollout import Noise, replayed, rollout

SHAPE, NUM_STEPS = (2, 3, 4), 6
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


def test_noise_belongs_to_the_sample_and_the_step() -> None:
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
    together = rollout(denoiser, process, cond(4, 7, 5), noise(4, 7, 5), NUM_STEPS, 0.8)
    assert together.latents.shape == (3, NUM_STEPS + 1, *SHAPE)
    assert together.log_probs.shape == (3, NUM_STEPS)
    for row, index in enumerate((4, 7, 5)):
        alone = rollout(denoiser, process, cond(index), noise(index), NUM_STEPS, 0.8)
        torch.testing.assert_close(together.latents[row], alone.latents[0])
        torch.testing.assert_close(together.log_probs[row], alone.log_probs[0])


@pytest.mark.parametrize("process", PROCESSES)
def test_replayed_log_probs_are_the_rollouts_bit_for_bit(process: Process) -> None:
    trajectory = rollout(denoiser, process, cond(1, 2), noise(1, 2), NUM_STEPS, 0.8)
    for i in range(NUM_STEPS):
        step = replayed(denoiser, process, cond(1, 2), trajectory, i, 0.8)
        assert step.log_prob(trajectory.latents[:, i + 1]).equal(trajectory.log_probs[:, i])


def test_replay_passes_gradient_and_rollout_does_not() -> None:
    gain = torch.ones((), requires_grad=True)
    trajectory = rollout(lambda x, t, c: gain * denoiser(x, t, c), PROCESSES[0], cond(1), noise(1), NUM_STEPS, 1.0)
    assert not trajectory.latents.requires_grad
    step = replayed(lambda x, t, c: gain * denoiser(x, t, c), PROCESSES[0], cond(1), trajectory, 2, 1.0)
    step.log_prob(trajectory.latents[:, 3]).sum().backward()
    assert gain.grad.abs() > 0


@pytest.mark.parametrize("process", PROCESSES)
def test_eta_zero_follows_from_the_initial_noise_alone(process: Process) -> None:
    trajectory = rollout(denoiser, process, cond(1), noise(1), NUM_STEPS, 0)
    assert trajectory.log_probs.count_nonzero() == 0
    x = noise(1).initial()
    for t, t_next in pairwise(trajectory.times):
        x = process.transition(denoiser(x, t, cond(1)), x, t, t_next, 0.0).mean
    assert trajectory.clean.equal(x)


def test_a_window_of_stochastic_steps_has_density_there_only() -> None:
    etas = [0.0, 0.0, 0.7, 0.7, 0.0, 0.0]
    trajectory = rollout(denoiser, Flow(sampler="sde"), cond(1), noise(1), NUM_STEPS, etas)
    assert trajectory.log_probs.ne(0).squeeze().tolist() == [eta > 0 for eta in etas]
    with pytest.raises(ValueError, match="eta has 1 values, num_steps=6"):
        rollout(denoiser, Flow(sampler="sde"), cond(1), noise(1), NUM_STEPS, [0.7])


@pytest.mark.parametrize("process", PROCESSES)
def test_a_perfect_denoiser_of_a_point_arrives_at_it(process: Process) -> None:
    """Data is one point: whatever noise is drawn on the way, the exact network leads there."""
    point = torch.full((1, *SHAPE), 0.7)

    def exact(x: Tensor, t: Tensor, _: Cond) -> Tensor:
        at = process._at(t, x)
        e = (x - at.a * point) / at.s
        return e if isinstance(process, Diffusion) else e - point

    trajectory = rollout(exact, process, cond(1), noise(1), 40, 0.5)
    torch.testing.assert_close(trajectory.clean, point, atol=0.2, rtol=0)
