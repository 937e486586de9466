"""DAS: sequential Monte Carlo towards the tilted base, without training (Kim et al., ICLR 2025, arXiv 2501.05803).

N particles of the base are steered and weighed by a reward that is let in step by step. At the state x_i,
    twist_i = lambda_i r(decode(x0_hat(x_i))) / alpha,    lambda_i = min((1 + gamma)^(100 i / T) - 1, 1),
and at the end twist_T = r(decode(x_T)) / alpha. A step draws x_{i+1} from the proposal
    q = N(m_i + std_i^2 lambda_{i+1} grad r(decode(x0_hat(x_i))) / alpha, std_i^2),
m_i and std_i being those of the base's step p, and adds log p - log q + twist_{i+1} - twist_i to the log-weight.
Where the effective sample size of the weights falls below N / 2, the particles are drawn again by their weights. One
particle is kept at the end, drawn by weight.

Law: let Z^ be the product over the resamplings, and the end, of the mean weight since the last one. E[Z^] is
E_base[exp(r / alpha)] exactly, for every N, and as N grows the kept images follow p_base exp(r / alpha). Their KL to
the base is at most E[r / alpha - log Z^], which is what is reported. Without an alpha the image is the base's, bit for
bit. Without the gradient and with gamma 0 the twist comes at the end alone, and the image is soft best-of-N's. N = 1 is
guided sampling.

Departures: a particle is kept by a draw, where the code keeps the one of the largest weight, which is no sample of the
tilt. Twists and gradients are resampled with their particles, where the code leaves them behind, so that its Z^ is
biased. Resampling is systematic in place of SSP. gamma is stated for 100 steps and follows the progress i / T.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.process import Transition
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored
from rdt.rollout import Rollout, Sampling, Selection, Trajectory, conditioned, sampled
from rdt.selection import gumbel

STEPS = 100  # of the sampler that gamma is stated for


@dataclass(frozen=True)
class Particles:
    """Hold N particles of each of B images at one state, and all that the next step needs of them."""

    latents: Tensor  # (N, B, i + 1, *latent), the path so far
    log_probs: Tensor  # (N, B, i) of the base's steps
    mean: Tensor  # (N, B, *latent) of the base's next step; at the end, x_T
    slope: Tensor  # (N, B, *latent), the gradient of the reward; 0 if none is followed
    reward: Tensor  # (N, B), of x0_hat
    weight: Tensor  # (N, B), log-weights since the last resampling, in double precision

    def drawn(self, ancestors: Tensor) -> "Particles":
        """Return the particles that descend from `ancestors` (N, B); their weights are those of their ancestors."""
        columns = torch.arange(ancestors.shape[1], device=ancestors.device)
        return Particles(**{one.name: getattr(self, one.name)[ancestors, columns] for one in fields(self)})


@dataclass(frozen=True)
class Task:
    """Hold what one call samples."""

    policy: Policy
    prompts: list[str]  # (B,)
    noises: list[Noise]  # N, one per particle
    cond: Cond
    sampling: Sampling
    times: Tensor  # (T + 1,) on the host

    def std(self, i: int) -> float:
        """Return the standard deviation of the noise of step i."""
        x, (t, t_next) = torch.zeros(1, *self.policy.latent_shape), self.times[i : i + 2]
        return self.policy.process.transition(x, x, t, t_next, self.sampling.etas[i]).std.item()


@dataclass(frozen=True)
class ParticleSampler(Selection):
    """Sample the tilted base by N particles per image; it costs N samples, and a reward of each at every step."""

    denoiser: Denoiser
    reward: Reward
    count: int  # N
    alpha: float | None  # in units of the reward; None: infinite
    gamma: float
    gradient: bool  # whether proposals follow the reward's gradient

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.denoiser(x, t, cond)

    @torch.no_grad()
    def select(self, policy: Policy, prompts: list[str], noise: Noise, sampling: Sampling) -> Rollout:
        """Return one rollout per prompt, with the bound on the KL to the denoiser's own samples."""
        if self.alpha is None:
            plain = sampled(policy, self.denoiser, prompts, noise, sampling)
            return replace(plain, nats=plain.clean.new_zeros(len(prompts)))
        noises = [noise, *(replace(noise, purpose=f"{noise.purpose} candidate {k}") for k in range(1, self.count))]
        times = policy.process.times(sampling.num_steps)
        task = Task(policy, prompts, noises, conditioned(policy, prompts, noise), sampling, times)
        end, log_z = self.run(task)
        draws = torch.stack([gumbel(one) for one in noises]).to(end.weight)
        kept = end.drawn((end.weight + draws).argmax(0, keepdim=True))
        nats = kept.reward[0] / self.temperature - log_z
        trajectory = Trajectory(kept.latents[0], kept.log_probs[0], times)
        return Rollout(prompts, noise, trajectory, nats.to(trajectory.latents))

    def run(self, task: Task) -> tuple[Particles, Tensor]:
        """Return the particles at the end, and the log of Z^, (B,)."""
        x = torch.stack([noise.initial() for noise in task.noises])
        weight = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        now = self.arrived(task, x[:, :, None], x.new_zeros(*x.shape[:2], 0), weight, 0)
        log_z = weight[0].clone()
        for i in range(task.sampling.num_steps):
            now = self.moved(task, now, i)
            if i + 1 < task.sampling.num_steps:
                now, gained = self.resampled(task, now, i)
                log_z += gained
        return now, log_z + _log_mean(now.weight)

    @property
    def temperature(self) -> float:
        """Return alpha."""
        return math.inf if self.alpha is None else self.alpha

    def level(self, i: int, num_steps: int) -> float:
        """Return lambda_i, how much of the reward is let in at the state x_i."""
        return 1.0 if i == num_steps else min((1 + self.gamma) ** (STEPS * i / num_steps) - 1, 1.0)

    def moved(self, task: Task, now: Particles, i: int) -> Particles:
        """Return the particles after step i, weighed."""
        std, steps = task.std(i), task.sampling.num_steps
        noise = torch.stack([one.step(i) for one in task.noises]) if std else torch.zeros_like(now.mean)
        drift = std * self.level(i + 1, steps) / self.temperature * now.slope
        x = now.mean + std * (drift + noise)
        change = -(drift * noise + drift**2 / 2).double().flatten(2).sum(2)  # log p - log q
        base = Transition(now.mean.flatten(0, 1), now.mean.new_full((1, *[1] * (x.ndim - 2)), std), x)
        log_prob = base.log_prob(x.flatten(0, 1)).view(*x.shape[:2], 1)
        latents, log_probs = torch.cat([now.latents, x[:, :, None]], 2), torch.cat([now.log_probs, log_prob], 2)
        after = self.arrived(task, latents, log_probs, now.weight + change, i + 1)
        twists = self.level(i + 1, steps) * after.reward - self.level(i, steps) * now.reward
        return replace(after, weight=after.weight + twists / self.temperature)

    def arrived(self, task: Task, latents: Tensor, log_probs: Tensor, weight: Tensor, i: int) -> Particles:
        """Return the particles at the state x_i, with their reward and its gradient."""
        looks = [self.look(task, x, i) for x in latents[:, :, -1]]
        mean, slope, reward = (torch.stack(values) for values in zip(*looks, strict=True))
        return Particles(latents, log_probs, mean, slope, reward.to(weight), weight)

    def look(self, task: Task, x: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next mean, the reward's gradient and the reward (B,) at states x (B, *latent)."""
        steps = task.sampling.num_steps
        if i == steps:
            return x, torch.zeros_like(x), self.scores(task, x)
        follows = self.gradient and self.level(i + 1, steps) > 0 and task.std(i) > 0
        with torch.set_grad_enabled(follows):
            x = x.clone().requires_grad_(follows)
            t, t_next = task.times[i : i + 2]
            output = self.denoiser(x, t, task.cond)
            step = task.policy.process.transition(output, x, t, t_next, task.sampling.etas[i])
            if not follows and not self.level(i, steps):
                return step.mean, torch.zeros_like(x), x.new_zeros(len(x))
            reward = self.scores(task, step.x0)
            slope = torch.autograd.grad(reward.sum(), x)[0] if follows else torch.zeros_like(x)
        return step.mean.detach(), slope, reward.detach()

    def scores(self, task: Task, x0: Tensor) -> Tensor:
        """Return the rewards (B,) of clean latents (B, *latent); Diverged if one is not finite, since no weight is."""
        scores = self.reward(task.policy.decode(x0), task.prompts)
        Scored(self.reward.title, self.reward.missing, scores, task.prompts).check_finite("guidance=das: ")
        return scores

    def resampled(self, task: Task, now: Particles, i: int) -> tuple[Particles, Tensor]:
        """Return the particles, drawn again where few of them carry the weight, and what this adds to log Z^, (B,)."""
        shares = now.weight.softmax(0)
        few = 1 / shares.square().sum(0) < self.count / 2
        start = torch.special.ndtr(task.noises[0].like(now.weight[0, :, None].cpu(), f"resampling {i}")).double()
        marks = (start.T.to(shares) + torch.arange(self.count, device=shares.device)[:, None]) / self.count
        drawn = torch.searchsorted(shares.cumsum(0).T.contiguous(), marks.T.contiguous()).T.clamp(max=self.count - 1)
        own = torch.arange(self.count, device=shares.device)[:, None].expand_as(drawn)
        chosen = now.drawn(torch.where(few, drawn, own))
        gained = torch.where(few, _log_mean(now.weight), 0)
        return replace(chosen, weight=torch.where(few, 0, chosen.weight)), gained


def _log_mean(weight: Tensor) -> Tensor:
    """Return the log of the mean weight of N particles, (N, B) -> (B,)."""
    return weight.logsumexp(0) - math.log(len(weight))
