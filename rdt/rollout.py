"""Sampling: noise that each sample owns, the steps from one state to the next, and the rollout to a trajectory.

Samples, and how far the path of each went from the base while it was sampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.process import Process, Transition
from rdt.randomness import generator

Eta = float | Sequence[float]  # one value, or one per step (T,), say a stochastic window among ODE steps


@dataclass(frozen=True)
class Sampling:
    """How images are sampled, in training and in evaluation."""

    num_steps: int
    eta: float  # 0 is deterministic, 1 the full noise of DDPM
    guidance_scale: float


class Noise:
    """Standard normal noise by (seed, purpose, global sample index): the same in any batch, world size and device."""

    def __init__(
        self, *, seed: int, purpose: str, indices: Sequence[int], shape: Sequence[int], device: str | torch.device
    ) -> None:
        self.seed, self.purpose, self.indices = seed, purpose, indices
        self.shape, self.device = tuple(shape), torch.device(device)

    def like(self, x: Tensor, purpose: str) -> Tensor:
        """(B, ...) in the shape of x, for another purpose: the noise on a sample's condition, say."""
        other = Noise(
            seed=self.seed, purpose=f"{self.purpose} {purpose}", indices=self.indices, shape=x.shape[1:],
            device=self.device,
        )  # fmt: skip
        return other.initial()

    def initial(self) -> Tensor:
        """(B, *latent) that sampling starts from."""
        return self._draw("initial")

    def step(self, i: int) -> Tensor:
        """(B, *latent) of step i, in whatever order the steps are asked for."""
        return self._draw(i)

    def _draw(self, what: int | str) -> Tensor:
        # drawn on the host into pinned memory: equal on every device, and no step waits for the copy
        rows = torch.empty(len(self.indices), *self.shape, pin_memory=self.device.type == "cuda")
        for row, index in zip(rows, self.indices, strict=True):
            row.normal_(generator=generator("noise", self.seed, self.purpose, index, what))
        return rows.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Trajectory:
    """B samples from noise to clean."""

    latents: Tensor  # (B, T + 1, *latent)
    log_probs: Tensor  # (B, T), averaged over latent dimensions; 0 at deterministic steps
    times: Tensor  # (T + 1,) on the host

    @property
    def clean(self) -> Tensor:
        """(B, *latent), the samples."""
        return self.latents[:, -1]

    @staticmethod
    def cat(parts: Sequence["Trajectory"]) -> "Trajectory":
        """All of their samples."""
        latents, log_probs = [part.latents for part in parts], [part.log_probs for part in parts]
        return Trajectory(torch.cat(latents), torch.cat(log_probs), parts[0].times)


@torch.no_grad()
def rollout(
    denoiser: Denoiser, process: Process, cond: Cond, noise: Noise, num_steps: int, eta: Eta, stop: int | None = None
) -> Trajectory:
    """Sample from noise to clean, or the first `stop` steps of it."""
    latents, log_probs = [noise.initial()], []
    until = range(num_steps if stop is None else stop)
    for step, x in steps(denoiser, process, cond, latents[0], noise, num_steps, eta, until):
        latents.append(x)
        log_probs.append(step.log_prob(x))
    made = torch.stack(log_probs, 1) if log_probs else latents[0].new_zeros(len(cond), 0)
    return Trajectory(torch.stack(latents, 1), made, process.times(num_steps))


def steps(
    denoiser: Denoiser, process: Process, cond: Cond, x: Tensor, noise: Noise, num_steps: int, eta: Eta, which: range
) -> Iterator[tuple[Transition, Tensor]]:
    """The sampler's steps `which` from state x (B, *latent) on: each transition and its sample, with gradient."""
    etas = schedule(eta, num_steps)
    times = process.times(num_steps)
    for i in which:
        step = process.transition(denoiser(x, times[i], cond), x, times[i], times[i + 1], etas[i])
        x = step.sample(noise.step(i)) if etas[i] else step.mean  # an ODE step draws nothing
        yield step, x


def noisy(cond: Cond, noise: Noise) -> Cond:
    """The condition beside noise that belongs to the samples, for guidance that perturbs conditions (CADS)."""
    return replace(cond, noise=cond.map(lambda x: noise.like(x, f"condition {x.ndim}")))


def schedule(eta: Eta, num_steps: int) -> list[float]:
    """One eta per step; ValueError where there are more or fewer."""
    etas = [float(eta)] * num_steps if isinstance(eta, int | float) else list(eta)
    if len(etas) != num_steps:
        raise ValueError(f"eta has {len(etas)} values, num_steps={num_steps}")
    return etas


def replayed(
    denoiser: Denoiser, process: Process, cond: Cond, trajectory: Trajectory, i: int, eta: float
) -> Transition:
    """Step i of a stored trajectory under `denoiser`, with gradient; latents[:, i + 1] has the rollout's log_prob."""
    x, t, t_next = trajectory.latents[:, i], trajectory.times[i], trajectory.times[i + 1]
    return process.transition(denoiser(x, t, cond), x, t, t_next, eta)


@dataclass(frozen=True)
class Samples:
    """What is left of rollouts."""

    x0: Tensor  # (B, *latent)
    kl: Tensor  # (K,) nats, of the rows it was measured of

    @staticmethod
    def cat(parts: Sequence["Samples"]) -> "Samples":
        """Rows of all, in order."""
        return Samples(torch.cat([part.x0 for part in parts]), torch.cat([part.kl for part in parts]))


@torch.no_grad()
def sampled(
    denoiser: Denoiser, base: Denoiser, process: Process, cond: Cond, noise: Noise, sampling: Sampling,
    rows: Sequence[int],
) -> Samples:  # fmt: skip
    """Sample; for `rows` sum KL(denoiser || base) over the steps of the path, both run on these rows alone.

    So the KL of what is the base is 0 bit for bit: in other company the last bits of a network's output differ.
    """
    T, x = sampling.num_steps, noise.initial()
    times, chosen = process.times(T), torch.tensor(rows, dtype=torch.long, device=x.device)
    some, kl = cond[chosen], x.new_zeros(len(rows))
    for i, (_, x_next) in enumerate(steps(denoiser, process, cond, x, noise, T, sampling.eta, range(T))):
        if rows:
            at, t, t_next = x[chosen], times[i], times[i + 1]
            theirs, ours = (process.transition(d(at, t, some), at, t, t_next, sampling.eta) for d in (base, denoiser))
            kl += ours.kl(theirs)
        x = x_next
    return Samples(x, kl)
