"""Policy gradients on sampler steps: what DDPO (Black et al. 2305.13301) and Flow-GRPO (Liu et al. 2505.05470) share.

A stochastic step of a rollout is an action, its advantage A comes from the image's reward, and an update climbs
    sum_i min(A rho_i, A clip(rho_i, 1 - clip, 1 + clip)) - kl_coef KL(tuned || base at x_i) / dims,
    rho_i = exp(log p(x_{i+1} | x_i) - log p_old(x_{i+1} | x_i)),
in the mean over samples. Log-probabilities are means over latent dimensions, as the KL is here, so the optimum trades
kl_coef of advantage against a nat. As in Flow-GRPO, earlier steps get no credit for the KL of later ones.

Departures: at the first update after a rollout the policy IS the old one and stands in for it, so rho is exactly 1
even if batching changes last bits (train/ratio_error logs by how much). Samples of advantage 0 are not run again,
unless for their KL.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.buffer import gathered
from rdt.methods.base import Method
from rdt.methods.clipped_objective import ClippedObjective, MicroBatch
from rdt.policy import Denoiser, Policy
from rdt.randomness import generator
from rdt.rewards.missing import stand_ins, without_absent
from rdt.rollout import Rollout, Sampling, Trajectory, conditioned
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
    trajectory: Trajectory  # of R / world samples

    @staticmethod
    def of(batch: Batch, rewards: Tensor, kept: Tensor, advantages: Tensor, trajectory: Trajectory) -> "Rollouts":
        """Build from rewards (P, G), the kept candidates (P, K) and their advantages (P, K) or (P, K, T)."""
        rows = (kept + torch.arange(len(kept))[:, None] * rewards.shape[1]).flatten()
        mask, num_steps = torch.zeros(rewards.numel(), dtype=torch.bool), trajectory.log_probs.shape[1]
        mask[rows] = True
        per_step = torch.zeros(rewards.numel(), num_steps)
        per_step[rows] = advantages.reshape(len(rows), -1).expand(-1, num_steps).float()
        return Rollouts(batch, rewards.flatten(), mask, per_step, trajectory)

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
            "kept": self.kept, "advantages": self.advantages, "times": self.trajectory.times,
            "latents": gathered(latents, rank, world), "log_probs": gathered(log_probs, rank, world),
        }  # fmt: skip

    @staticmethod
    def restored(state: dict[str, Any], share: range, device: torch.device) -> "Rollouts":
        """Return the saved rollouts with the trajectories of this rank's `share` of the rows."""
        latents, log_probs = (state[key][share.start : share.stop].to(device) for key in ("latents", "log_probs"))
        trajectory = Trajectory(latents, log_probs, state["times"])
        batch = Batch(state["iteration"], state["prompts"])
        return Rollouts(batch, state["rewards"], state["kept"], state["advantages"], trajectory)


@dataclass(frozen=True, kw_only=True)
class StepChoice:
    """Choose the stochastic steps of each rollout, and which of them each update learns from."""

    sampling: Sampling  # of training rollouts
    stochastic: list[int]  # the steps with more noise than method.min_std
    seed: int
    updates_per_rollout: int
    window: int | None  # how many consecutive stochastic steps a rollout has among ODE steps; None: all
    window_within: float  # the share of the stochastic steps, from the first one on, that the window lies in
    fraction: float  # of a rollout's stochastic steps, drawn for every update

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"method.step_fraction={self.fraction} must be above 0 and at most 1")
        if self.window is not None and not 1 <= self.window <= self._within:
            limit = f"the {self._within} stochastic steps that method.window_within={self.window_within} leaves it"
            raise ValueError(f"method.window={self.window} must be from 1 to {limit}")

    def rollout_sampling(self, iteration: int) -> Sampling:
        """Return the sampler of the rollout that this iteration learns from: outside its window, eta is 0."""
        if self.window is None:
            return self.sampling
        rollout = iteration - iteration % self.updates_per_rollout
        starts = self._within - self.window + 1
        start = torch.randint(starts, (), generator=generator(self.seed, "window", rollout))
        inside = self.stochastic[start : start + self.window]
        return replace(self.sampling, eta=[eta if i in inside else 0.0 for i, eta in enumerate(self.sampling.etas)])

    def candidates(self, iteration: int) -> list[int]:
        """Return the stochastic steps of the rollout that this iteration learns from."""
        etas = self.rollout_sampling(iteration).etas
        return [i for i in self.stochastic if etas[i]]

    def trained(self, iteration: int) -> list[int]:
        """Return the steps that this iteration's update learns from: a fraction of the candidates, at least one."""
        steps = self.candidates(iteration)
        drawn = torch.randperm(len(steps), generator=generator(self.seed, "steps", iteration))
        return sorted(steps[k] for k in drawn[: max(round(self.fraction * len(steps)), 1)].tolist())

    @property
    def _within(self) -> int:
        return round(self.window_within * len(self.stochastic))


def stochastic_steps(policy: Policy, sampling: Sampling, min_std: float) -> list[int]:
    """Return the sampler's steps with more noise than `min_std`; ValueError if there are none."""
    x, times = torch.zeros(1, *policy.latent_shape), policy.process.times(sampling.num_steps)
    steps = [
        policy.process.transition(x, x, t, t_next, eta)
        for (t, t_next), eta in zip(pairwise(times), sampling.etas, strict=True)
    ]
    found = [i for i, step in enumerate(steps) if step.std.item() > min_std]
    if not found:
        raise ValueError(
            f"model.sampling.eta={sampling.eta} and method.min_std={min_std} leave no stochastic step to learn from"
        )
    return found


class PolicyGradient(Method):
    """Train by policy gradients: every k = `updates_per_rollout` updates it rolls out `batch_size` images.

    The j-th update learns from samples j, j + k, ... A subclass writes `advantages`, and may replace three more hooks:
    `select`, `condition` and `returns`.
    """

    rollouts: Rollouts

    def __init__(
        self, *, clip: float, kl_coef: float, min_std: float, uncond_grad: bool, updates_per_rollout: int,
        num_steps: int | None, window: int | None = None, window_within: float = 1.0, step_fraction: float = 1.0,
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.clip, self.kl_coef, self.uncond_grad = clip, kl_coef, uncond_grad
        self.updates_per_rollout = updates_per_rollout
        for key, divisor in {"updates_per_rollout": updates_per_rollout, "group": self.images_per_prompt}.items():
            if divisor < 1 or self.batch_size % divisor:
                raise ValueError(f"batch_size={self.batch_size} must be a multiple of method.{key}={divisor}")
        sampling = replace(self.sampling, num_steps=num_steps or self.sampling.num_steps)
        self.steps = StepChoice(
            sampling=sampling, stochastic=stochastic_steps(self.policy, sampling, min_std), seed=self.seed,
            updates_per_rollout=updates_per_rollout, window=window, window_within=window_within, fraction=step_fraction,
        )  # fmt: skip
        self.num_steps, self.times = sampling.num_steps, self.policy.process.times(sampling.num_steps)
        self.restored: dict[str, Any] | None = None

    @property
    def prompts_per_iteration(self) -> int:
        """Return how many prompts a rollout takes; `batch_size` counts its images, over all ranks."""
        return self.batch_size // self.images_per_prompt

    def select(self, rewards: Tensor) -> Tensor:
        """Return the candidates to learn from, (P, G) -> (P, K)."""
        return torch.arange(rewards.shape[1]).expand(rewards.shape)

    def condition(self, view: Denoiser) -> Denoiser:
        """Return a view that changes its conditions, in rollouts and in updates but never in evaluation."""
        return view

    def returns(self, rewards: Tensor, kept: Tensor, rollouts: list[Rollout], images: list[Tensor]) -> Tensor:
        """Return what the kept candidates' rewards (P, K) become before the advantages, (P, K) or (P, K, T).

        `rollouts` and their `images` are this rank's, one of each per micro-batch.
        """
        return rewards

    @abstractmethod
    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """Return the advantages in the shape of the returns, (P, K), or (P, K, T) per step; prompts (P,)."""

    def acting(self, view: Denoiser) -> Denoiser:
        """Return a view of the policy as rollouts and updates run it."""
        if self.uncond_grad:
            return self.condition(self.guided(view))
        empty = self.policy.encode([""])
        return self.condition(guidance.cfg_detached(view, empty, self.sampling.guidance_scale))

    def training_step(self, batch: Batch, _: int) -> None:
        phase = batch.iteration % self.updates_per_rollout
        if phase == 0:
            self.rollouts = self.collect(batch)
        self.log_train(**self.rollouts.metrics())
        samples = self.rollouts.of_update(phase, self.updates_per_rollout)
        informative = samples if self.kl_coef else samples & ~self.rollouts.zero_advantage
        objective = self.objective(batch.iteration, on_policy=phase == 0)
        micro_batches = (self.micro_batch(part, informative) for part in self.micro_batches(self.rollouts.batch))
        self.update(map(objective.losses, micro_batches), max(int(samples.sum()), 1))

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the tuned policy, score its images, and turn the scores of all ranks into advantages."""
        tuned, sampling = self.acting(self.policy.tuned), self.steps.rollout_sampling(batch.iteration)
        rollouts = [
            self.counted_rollout(tuned, self.prompts(part), self.noise(part), sampling)
            for part in self.micro_batches(batch)
        ]
        with torch.no_grad():
            images = [self.policy.decode(rollout.clean) for rollout in rollouts]
            scored = torch.cat([self.reward.parts(x, r.prompts) for x, r in zip(images, rollouts, strict=True)])
        scores = self.all_gather(scored).flatten(0, -2).cpu()
        self.check_scores("reward", self.reward, scores, batch.prompts)
        parts, absent = stand_ins(scores.view(len(batch.prompts), -1, scores.shape[-1]))  # (P, G, R), (P, G)
        rewards = self.reward.total(parts)
        kept = self.select(rewards)
        compared = self.reward.relative(parts[torch.arange(len(kept))[:, None], kept])
        advantages = self.advantages(self.returns(compared, kept, rollouts, images), batch.prompts)
        advantages = without_absent(advantages, absent.gather(1, kept))
        trajectory = Trajectory.cat([rollout.trajectory for rollout in rollouts])
        return Rollouts.of(batch, rewards, kept, advantages, trajectory)

    def objective(self, iteration: int, on_policy: bool) -> ClippedObjective:
        """Return the objective of this iteration's update."""
        return ClippedObjective(
            process=self.policy.process, tuned=self.acting(self.policy.tuned), base=self.acting(self.kl_view),
            clip=self.clip, kl_coef=self.kl_coef, etas=self.steps.rollout_sampling(iteration).etas,
            steps=self.steps.trained(iteration), stochastic_steps=len(self.steps.candidates(iteration)),
            on_policy=on_policy,
        )  # fmt: skip

    def micro_batch(self, batch: Batch, chosen: Tensor) -> MicroBatch:
        """Return those of the batch's rows that are `chosen`, a mask (R,) over all samples of the rollout."""
        rows, first = self.rows(batch), self.share.rows(len(chosen)).start
        own = chosen[rows.start : rows.stop].nonzero().squeeze(1)
        return MicroBatch(
            cond=conditioned(self.policy, self.prompts(batch), self.noise(batch))[own],
            trajectory=self.rollouts.trajectory[own + rows.start - first],
            advantages=self.rollouts.advantages[own + rows.start].to(self.device),
        )

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
