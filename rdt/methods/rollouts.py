"""What policy gradients learn from: the samples of a rollout, kept for several updates, and the part of one update."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rdt.buffer import gathered
from rdt.policy import Cond, Policy
from rdt.prompts import Batch
from rdt.rollout import Trajectory


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
