"""Rollouts that several updates learn from: what policy gradients and regression on noised images share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdt.buffer import gathered
from rdt.methods.base import Method
from rdt.rollout import Trajectory
from rdt.stream import Batch


@dataclass(frozen=True)
class Rollouts:
    """Hold all R = P G samples of a rollout, kept for several updates.

    Every rank holds the numbers of all samples on the host, and its own share of the trajectories.
    """

    batch: Batch  # its iteration and its P prompts
    rewards: Tensor  # (R,)
    kept: Tensor  # (R,) bool
    advantages: Tensor  # (R, T), 0 if a sample was not kept
    held: Tensor  # (R,) bool, whether a kept sample is held to the reference by the KL
    trajectory: Trajectory  # of R / world samples

    @staticmethod
    def of(
        batch: Batch, rewards: Tensor, kept: Tensor, advantages: Tensor, held: Tensor, trajectory: Trajectory
    ) -> "Rollouts":
        """Build from rewards (P, G), kept candidates (P, K), their advantages (P, K) or (P, K, T) and held (P, K)."""
        rows = (kept + torch.arange(len(kept))[:, None] * rewards.shape[1]).flatten()
        mask, num_steps = torch.zeros(2, rewards.numel(), dtype=torch.bool), trajectory.log_probs.shape[1]
        mask[0, rows], mask[1, rows] = True, held.flatten()
        per_step = torch.zeros(rewards.numel(), num_steps)
        per_step[rows] = advantages.reshape(len(rows), -1).expand(-1, num_steps).float()
        return Rollouts(batch, rewards.flatten(), mask[0], per_step, mask[1], trajectory)

    @property
    def zero_advantage(self) -> Tensor:
        """Return which samples have advantage 0 at every step, (R,) bool."""
        return (self.advantages == 0).all(1)

    def metrics(self) -> dict[str, float]:
        """Return what is logged: the rewards, and the share of the kept samples without a training signal."""
        share = self.zero_advantage[self.kept].float().mean().item()
        return {"reward": self.rewards.mean().item(), "reward_std": self.rewards.std().item(), "zero_advantage": share}

    def of_update(self, phase: int, updates: int) -> Tensor:
        """Return the kept samples that belong to update `phase` of `updates`, (R,) bool."""
        return self.kept & (torch.arange(len(self.kept)) % updates == phase)

    def state_dict(self, rank: int, world: int) -> dict[str, Any]:
        """Return the contents, loadable at any world size. A collective call: only rank 0 gets the trajectories."""
        latents, log_probs = self.trajectory.latents, self.trajectory.log_probs
        return {
            "iteration": self.batch.iteration, "prompts": self.batch.prompts, "rewards": self.rewards,
            "kept": self.kept, "advantages": self.advantages, "held": self.held, "times": self.trajectory.times,
            "latents": gathered(latents, rank, world), "log_probs": gathered(log_probs, rank, world),
        }  # fmt: skip

    @staticmethod
    def restored(state: dict[str, Any], share: range, device: torch.device) -> "Rollouts":
        """Return the saved rollouts with the trajectories of this rank's `share` of the rows."""
        latents, log_probs = (state[key][share.start : share.stop].to(device) for key in ("latents", "log_probs"))
        trajectory = Trajectory(latents, log_probs, state["times"])
        batch = Batch(state["iteration"], state["prompts"])
        return Rollouts(batch, state["rewards"], state["kept"], state["advantages"], state["held"], trajectory)


class RolloutMethod(Method):
    """Train on rollouts of `batch_size` images, one of every `updates_per_rollout` updates, which checkpoints keep."""

    rollouts: Rollouts

    def __init__(self, *, updates_per_rollout: int, **shared: Any) -> None:
        super().__init__(**shared)
        for key, divisor in {"updates_per_rollout": updates_per_rollout, "group": self.images_per_prompt}.items():
            if divisor < 1 or self.batch_size % divisor:
                raise ValueError(f"batch_size={self.batch_size} must be a multiple of method.{key}={divisor}")
        self.updates_per_rollout = updates_per_rollout
        self.restored: dict[str, Any] | None = None

    @property
    def prompts_per_iteration(self) -> int:
        """Return how many prompts a rollout takes; `batch_size` counts its images, over all ranks."""
        return self.batch_size // self.images_per_prompt

    @torch.no_grad()
    def scores(self, images: list[Tensor], batch: Batch) -> Tensor:
        """Return the scores of all ranks' images by the reward's parts, (P, G, R), NaN if one may be missing.

        `images` are this rank's, one entry of each micro-batch.
        """
        prompts = [self.prompts(part) for part in self.micro_batches(batch)]
        scored = torch.cat([self.reward.parts(x, given) for x, given in zip(images, prompts, strict=True)])
        scores = self.all_gather(scored).flatten(0, -2).cpu()
        self.check_scores("reward", self.reward, scores, batch.prompts)
        return scores.view(len(batch.prompts), -1, scores.shape[-1])

    def on_fit_start(self) -> None:
        if self.restored is not None:
            share = self.share.rows(len(self.restored["kept"]))
            self.rollouts = Rollouts.restored(self.restored, share, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.iteration % self.updates_per_rollout:  # otherwise the next update starts with new rollouts
            checkpoint["rollouts"] = self.rollouts.state_dict(self.global_rank, self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restored = checkpoint.get("rollouts")
