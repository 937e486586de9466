"""Sampling: the sampler's settings, its steps, and rollouts from noise to clean latents."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.process import Process, Transition
from rdt.randomness import Noise


@dataclass(frozen=True)
class Sampling:
    """Hold the sampler's settings, which training and evaluation share."""

    num_steps: int
    eta: float | Sequence[float]  # one value, or one per step; 0 is deterministic, 1 the full noise of DDPM
    guidance_scale: float

    @property
    def etas(self) -> list[float]:
        """Return one eta per step; ValueError if `eta` holds another number of values."""
        etas = [float(self.eta)] * self.num_steps if isinstance(self.eta, int | float) else list(self.eta)
        if len(etas) != self.num_steps:
            raise ValueError(f"eta has {len(etas)} values, num_steps={self.num_steps}")
        return etas


@dataclass(frozen=True)
class Trajectory:
    """Hold the states of B samples from noise to clean."""

    latents: Tensor  # (B, T + 1, *latent)
    log_probs: Tensor  # (B, T), averaged over latent dimensions; 0 at deterministic steps
    times: Tensor  # (T + 1,) on the host

    def __getitem__(self, rows: Tensor) -> "Trajectory":
        return Trajectory(self.latents[rows], self.log_probs[rows], self.times)

    @property
    def clean(self) -> Tensor:
        """Return the last states, shape (B, *latent)."""
        return self.latents[:, -1]

    @staticmethod
    def cat(parts: Sequence["Trajectory"]) -> "Trajectory":
        """Return the samples of all parts, in order."""
        latents, log_probs = [part.latents for part in parts], [part.log_probs for part in parts]
        return Trajectory(torch.cat(latents), torch.cat(log_probs), parts[0].times)


@dataclass(frozen=True)
class Rollout:
    """Hold one micro-batch of rollouts: B prompts, the key of the noise, and the paths from noise to clean.

    `conditioned` returns what they were conditioned on. It is not kept, since several micro-batches may be.
    """

    prompts: list[str]
    noise: Noise
    trajectory: Trajectory
    nats: Tensor | None = None  # (B,) bound on the KL to the base, if the rollouts were chosen among several

    @property
    def clean(self) -> Tensor:
        """Return the last states, shape (B, *latent)."""
        return self.trajectory.clean


class Selection(ABC):
    """Choose each rollout among several; called as a denoiser, it is the one that makes them."""

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the output of the denoiser that makes the rollouts."""

    @abstractmethod
    def select(self, policy: Policy, prompts: list[str], noise: Noise, sampling: Sampling) -> Rollout:
        """Return one rollout per prompt, whole and without gradient."""


def sampled(
    policy: Policy, denoiser: Denoiser, prompts: list[str], noise: Noise, sampling: Sampling, stop: int | None = None
) -> Rollout:
    """Return rollouts of `denoiser`, one per prompt, without gradient; `stop` ends them after so many steps."""
    if isinstance(denoiser, Selection):
        if stop is not None:
            raise ValueError(f"stop={stop}: rollouts are chosen once they are whole")
        return denoiser.select(policy, prompts, noise, sampling)
    cond = conditioned(policy, prompts, noise)
    return Rollout(prompts, noise, rollout(denoiser, policy.process, cond, noise, sampling, stop))


def conditioned(policy: Policy, prompts: list[str], noise: Noise) -> Cond:
    """Return the prompts' conditions, one row per prompt, with the samples' noise for guidance such as CADS."""
    return replace(policy.encode(prompts), noise=noise)


@torch.no_grad()
def rollout(
    denoiser: Denoiser, process: Process, cond: Cond, noise: Noise, sampling: Sampling, stop: int | None = None
) -> Trajectory:
    """Return the path from noise to clean, or only its first `stop` steps."""
    latents, log_probs = [noise.initial()], []
    for step, x in islice(steps(denoiser, process, cond, noise, sampling, (0, latents[0])), stop):
        latents.append(x)
        log_probs.append(step.log_prob(x))
    stacked = torch.stack(log_probs, 1) if log_probs else latents[0].new_zeros(len(latents[0]), 0)
    return Trajectory(torch.stack(latents, 1), stacked, process.times(sampling.num_steps))


def steps(
    denoiser: Denoiser, process: Process, cond: Cond, noise: Noise, sampling: Sampling, start: tuple[int, Tensor]
) -> Iterator[tuple[Transition, Tensor]]:
    """Yield each sampler step from state `start` = (i, x_i) to the end: its transition and x_{i+1}, with gradient."""
    etas, times = sampling.etas, process.times(sampling.num_steps)
    first, x = start
    for i in range(first, sampling.num_steps):
        step = process.transition(denoiser(x, times[i], cond), x, times[i], times[i + 1], etas[i])
        x = step.sample(noise.step(i)) if etas[i] else step.mean  # an ODE step draws nothing
        yield step, x


def replayed(
    denoiser: Denoiser, process: Process, cond: Cond, trajectory: Trajectory, i: int, eta: float
) -> Transition:
    """Return step i of a stored trajectory under `denoiser`, with gradient.

    Under the denoiser that made the trajectory, latents[:, i + 1] has the stored log-probability.
    """
    x, t, t_next = trajectory.latents[:, i], trajectory.times[i], trajectory.times[i + 1]
    return process.transition(denoiser(x, t, cond), x, t, t_next, eta)


@torch.no_grad()
def path_kl(
    denoiser: Denoiser, base: Denoiser, process: Process, cond: Cond, trajectory: Trajectory, etas: list[float]
) -> Tensor:
    """Return KL(denoiser || base) in nats, shape (B,), summed over the steps of the paths.

    Both run on exactly these rows, since a network's last bits depend on its batch: the KL of the base against
    itself is 0 bit for bit.
    """
    total = trajectory.latents.new_zeros(len(trajectory.latents))
    for i, eta in enumerate(etas):
        theirs, ours = (replayed(view, process, cond, trajectory, i, eta) for view in (base, denoiser))
        total += ours.kl(theirs)
    return total
