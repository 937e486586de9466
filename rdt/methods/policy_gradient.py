"""Policy gradients on sampler steps: what DDPO (Black et al. 2305.13301) and Flow-GRPO (Liu et al. 2505.05470) share.

A stochastic step of a rollout is an action, its advantage A comes from the image's reward, and an update climbs
    sum_i min(A rho_i, A clip(rho_i, 1 - clip, 1 + clip)) - kl_coef KL(tuned || base at x_i) / dims,
    rho_i = exp(log p(x_{i+1} | x_i) - log p_old(x_{i+1} | x_i)),
in the mean over samples. Log-probabilities are means over latent dimensions as the KL is here, so the optimum trades
kl_coef of advantage against a nat. As in Flow-GRPO, the KL of later steps is not credited to earlier ones. Departures:
at the first update after a rollout the policy IS the old one and stands for it, so that rho is exactly 1 whatever
batching does to last bits (train/ratio_error says what); samples of advantage 0 are not run again, unless for their KL.

What policy gradients learn from: the samples of a rollout, kept for several updates, and the part of one update.

The clipped objective of importance-weighted policy gradients, one sampler step at a time.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.buffer import gathered
from rdt.methods.base import Loss, Method
from rdt.policy import Cond, Denoiser, Policy
from rdt.process import Process, Transition
from rdt.rollout import Noise, Trajectory, replayed, rollout
from rdt.stream import Batch


@dataclass(frozen=True)
class Made:
    """B samples of a rollout, just made: a micro-batch."""

    prompts: list[str]
    cond: Cond  # under which they were made
    trajectory: Trajectory
    images: Tensor  # (B, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class Rollouts:
    """What every rank knows of all R = P G samples of a rollout, on the host, and this rank's own trajectories."""

    batch: Batch  # its iteration and its P prompts
    rewards: Tensor  # (R,)
    kept: Tensor  # (R,) bool
    advantages: Tensor  # (R, T), 0 where a sample was not kept
    trajectory: Trajectory  # of R / world samples

    @staticmethod
    def of(batch: Batch, rewards: Tensor, kept: Tensor, advantages: Tensor, trajectory: Trajectory) -> "Rollouts":
        """From rewards (P, G), the kept candidates (P, K) and their advantages (P, K) or (P, K, T)."""
        rows = (kept + torch.arange(len(kept))[:, None] * rewards.shape[1]).flatten()
        mask, every = torch.zeros(rewards.numel(), dtype=torch.bool), trajectory.log_probs.shape[1]
        mask[rows] = True
        spread = torch.zeros(rewards.numel(), every)
        spread[rows] = advantages.reshape(len(rows), -1).expand(-1, every).float()
        return Rollouts(batch, rewards.flatten(), mask, spread, trajectory)

    @property
    def flat(self) -> Tensor:
        """(R,) bool: of advantage 0 at every step."""
        return (self.advantages == 0).all(1)

    def summary(self) -> dict[str, float]:
        """What is logged of it; zero_advantage is the share of the kept that has nothing to teach."""
        flat = self.flat[self.kept].float().mean().item()
        return {"reward": self.rewards.mean().item(), "reward_std": self.rewards.std().item(), "zero_advantage": flat}

    def trajectory_of(self, own: Tensor) -> Trajectory:
        """Of some of this rank's samples."""
        whole = self.trajectory
        return Trajectory(whole.latents[own], whole.log_probs[own], whole.times)

    def state_dict(self, rank: int, world: int) -> dict[str, Any]:
        """Loadable at any world size; a collective: trajectories are whole on rank 0 alone."""
        latents, log_probs = self.trajectory.latents, self.trajectory.log_probs
        return {
            "iteration": self.batch.iteration, "prompts": self.batch.prompts, "rewards": self.rewards,
            "kept": self.kept, "advantages": self.advantages, "times": self.trajectory.times,
            "latents": gathered(latents, rank, world), "log_probs": gathered(log_probs, rank, world),
        }  # fmt: skip

    @staticmethod
    def restored(state: dict[str, Any], mine: range, device: torch.device) -> "Rollouts":
        """With this rank's rows `mine` of the saved trajectories."""
        latents, log_probs = (state[key][mine.start : mine.stop].to(device) for key in ("latents", "log_probs"))
        trajectory = Trajectory(latents, log_probs, state["times"])
        batch = Batch(state["iteration"], state["prompts"])
        return Rollouts(batch, state["rewards"], state["kept"], state["advantages"], trajectory)


@dataclass(frozen=True)
class Part:
    """B samples of one update, those of a micro-batch that teach something."""

    cond: Cond
    trajectory: Trajectory
    advantages: Tensor  # (B, T)
    etas: list[float]  # (T,)
    steps: list[int]  # the trained ones
    acts: int  # stochastic steps of the rollout
    on_policy: bool  # no update since the rollout


def stochastic(policy: Policy, num_steps: int, eta: float, min_std: float) -> list[int]:
    """The sampler's steps of more noise than `min_std`; ValueError where there are none."""
    x, times = torch.zeros(1, *policy.latent_shape), policy.process.times(num_steps)
    steps = [policy.process.transition(x, x, t, t_next, eta) for t, t_next in pairwise(times)]
    chosen = [i for i, step in enumerate(steps) if step.std.item() > min_std]
    if not chosen:
        raise ValueError(f"model.sampling.eta={eta} and method.min_std={min_std} leave no step of chance to learn from")
    return chosen


@dataclass(frozen=True)
class ClippedObjective:
    """- min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef KL(tuned || base) / dims."""

    process: Process
    tuned: Denoiser
    base: Denoiser
    clip: float
    kl_coef: float  # 0 does not run the base

    def losses(self, part: Part) -> Iterator[Loss]:
        """Of each trained step; the network is not run where there are no samples."""
        for i in part.steps:
            yield self.loss(part, i) if len(part.cond) else self.seen(*torch.zeros(4, 0).unbind(), part=part)

    def loss(self, part: Part, i: int) -> Loss:
        """At step i."""
        tuned, A = self.step(self.tuned, part, i), part.advantages[:, i]
        log_prob = tuned.log_prob(part.trajectory.latents[:, i + 1])
        since = log_prob - part.trajectory.log_probs[:, i]
        rho = (log_prob - log_prob.detach() if part.on_policy else since).exp()
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        kl = self.kl(tuned, part, i) if self.kl_coef else torch.zeros_like(gain)
        loss = self.kl_coef * kl / tuned.mean[0].numel() - gain
        return self.seen(loss, (since.exp() - 1).abs(), (gain < A * rho).float(), kl, part=part)

    def seen(self, loss: Tensor, error: Tensor, clipped: Tensor, kl: Tensor, *, part: Part) -> Loss:
        """With means over the steps: |rho - 1| by the stored log-probabilities, the clipped share, the rollout's KL."""
        means = {"ratio_error": error, "clipped": clipped} | ({"kl_nats": kl * part.acts} if self.kl_coef else {})
        return Loss(loss, {name: values / len(part.steps) for name, values in means.items()})

    def kl(self, tuned: Transition, part: Part, i: int) -> Tensor:
        """(B,) nats."""
        with torch.no_grad():
            base = self.step(self.base, part, i)
        return tuned.kl(base)

    def step(self, view: Denoiser, part: Part, i: int) -> Transition:
        """Step i of a view from the states of the rollout."""
        return replayed(view, self.process, part.cond, part.trajectory, i, part.etas[i])


class PolicyGradient(Method):
    """Every k = `updates_per_rollout` updates roll out `batch_size` images; the j-th learns from samples j, j + k, ...

    A subclass says what the advantages are; any of the methods before `training_step` may be its own too.
    """

    rollouts: Rollouts

    def __init__(
        self, *, clip: float, kl_coef: float, min_std: float, uncond_grad: bool, updates_per_rollout: int,
        num_steps: int | None, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.clip, self.kl_coef, self.uncond_grad = clip, kl_coef, uncond_grad
        self.updates_per_rollout, self.num_steps = updates_per_rollout, num_steps or self.sampling.num_steps
        for key, divisor in {"updates_per_rollout": updates_per_rollout, "group": self.images_per_prompt}.items():
            if divisor < 1 or self.batch_size % divisor:
                raise ValueError(f"batch_size={self.batch_size} must be a multiple of method.{key}={divisor}")
        self.times = self.policy.process.times(self.num_steps)
        self.stochastic = stochastic(self.policy, self.num_steps, self.sampling.eta, min_std)
        self.restored: dict[str, Any] | None = None

    @property
    def prompts_per_iteration(self) -> int:
        """`batch_size` is the images of a rollout, over all ranks."""
        return self.batch_size // self.images_per_prompt

    @abstractmethod
    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """In the shape of the returns, (P, K), or (P, K, T) where every step has its own; prompts (P,)."""

    def select(self, rewards: Tensor) -> Tensor:
        """Which candidates are learnt from, (P, G) -> (P, K)."""
        return torch.arange(rewards.shape[1]).expand(rewards.shape)

    def returns(self, rewards: Tensor, kept: Tensor, made: list[Made]) -> Tensor:
        """What the kept candidates' rewards (P, K) are turned into before the advantages: (P, K) or (P, K, T)."""
        return rewards

    def condition(self, prompts: list[str], noise: Noise) -> Cond:
        """What rollouts are conditioned on, the same again in their updates; `noise` is theirs."""
        return self.policy.encode(prompts)

    def acting(self, view: Denoiser) -> Denoiser:
        """A view of the policy as rollouts and updates run it."""
        if self.uncond_grad:
            return self.guided(view)
        return guidance.cfg_detached(view, self.policy.encode([""]), self.sampling.guidance_scale)

    def etas(self, iteration: int) -> list[float]:
        """(T,), of the rollout made at this iteration."""
        return [self.sampling.eta] * self.num_steps

    def trained_steps(self, iteration: int) -> list[int]:
        """The steps that this iteration's update learns from: the stochastic ones of its rollout."""
        etas = self.etas(iteration - iteration % self.updates_per_rollout)
        return [i for i in self.stochastic if etas[i]]

    def training_step(self, batch: Batch, _: int) -> None:
        phase = batch.iteration % self.updates_per_rollout
        if phase == 0:
            self.rollouts = self.collect(batch)
        tuned, base, learnt = self.acting(self.policy.tuned), self.acting(self.policy.base), self.learnt(phase)
        objective = ClippedObjective(self.policy.process, tuned, base, self.clip, self.kl_coef)
        self.report(**self.rollouts.summary())
        parts = (self.part(batch, learnt, phase) for batch in self.parts(self.rollouts.batch))
        self.update(map(objective.losses, parts), max(int(learnt.sum()), 1))

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the tuned policy, score the images, turn the scores of all ranks into advantages."""
        made = [self.made(part) for part in self.parts(batch)]
        with torch.no_grad():
            scored = torch.cat([self.reward.parts(part.images, part.prompts) for part in made])
        scores = self.all_gather(scored).flatten(0, -2).cpu()
        self.check_finite("reward", scores)
        parts = scores.view(len(batch.prompts), -1, scores.shape[-1])  # (P, G, R)
        rewards = self.reward.total(parts)
        kept = self.select(rewards)
        compared = self.reward.relative(parts[torch.arange(len(kept))[:, None], kept])
        advantages = self.advantages(self.returns(compared, kept, made), batch.prompts)
        trajectory = Trajectory.cat([part.trajectory for part in made])
        return Rollouts.of(batch, rewards, kept, advantages, trajectory)

    @torch.no_grad()
    def made(self, batch: Batch) -> Made:
        """The rollouts of the batch's rows and their images."""
        prompts, noise, process = self.prompts(batch), self.noise(batch), self.policy.process
        self.images += len(prompts)
        view, cond, etas = self.acting(self.policy.tuned), self.condition(prompts, noise), self.etas(batch.iteration)
        trajectory = rollout(view, process, cond, noise, self.num_steps, etas)
        return Made(prompts, cond, trajectory, self.policy.decode(trajectory.clean))

    def learnt(self, phase: int) -> Tensor:
        """The samples of update `phase`, (R,) bool."""
        kept = self.rollouts.kept
        return kept & (torch.arange(len(kept)) % self.updates_per_rollout == phase)

    def part(self, batch: Batch, learnt: Tensor, phase: int) -> Part:
        """Of a micro-batch of the rollouts, the samples of update `phase` whose advantage, or KL, teaches something."""
        whole, rows, etas = self.rollouts, self.rows(batch), self.etas(batch.iteration)
        teaching = learnt if self.kl_coef else learnt & ~whole.flat
        own = teaching[rows.start : rows.stop].nonzero().squeeze(1)
        return Part(
            cond=self.condition(self.prompts(batch), self.noise(batch))[own],
            trajectory=whole.trajectory_of(own + rows.start - self.share(len(learnt)).start),
            advantages=whole.advantages[own + rows.start].to(self.device),
            etas=etas,
            steps=self.trained_steps(batch.iteration + phase),
            acts=sum(etas[i] > 0 for i in self.stochastic),
            on_policy=phase == 0,
        )

    def on_fit_start(self) -> None:
        if self.restored is not None:
            self.rollouts = Rollouts.restored(self.restored, self.share(len(self.restored["kept"])), self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.iteration % self.updates_per_rollout:  # else the next update makes new ones
            checkpoint["rollouts"] = self.rollouts.state_dict(self.global_rank, self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restored = checkpoint.get("rollouts")
