"""Policy gradients on sampler steps: what DDPO (Black et al. 2305.13301) and Flow-GRPO (Liu et al. 2505.05470) share.

A stochastic step of a rollout is an action, its advantage A comes from the image's reward, and an update climbs
    min(A rho_i, A clip(rho_i, 1 - clip, 1 + clip)) - kl_coef KL(tuned || base at x_i) / dims,
    rho_i = exp(log p(x_{i+1} | x_i) - log p_old(x_{i+1} | x_i)),
in the mean over samples and trained steps, as in the official codes, so that max_grad_norm is in their units.
Log-probabilities are means over latent dimensions, as the KL is here, so the optimum trades kl_coef of advantage
against a nat. As in Flow-GRPO, earlier steps get no credit for the KL of later ones.

Options of the GRPO family, off by default:
    kl_within      the KL is charged at this first share of the T steps only, and the others cost no pass of the base
    kl_divide      none: ||m - m_base||^2 / 2 takes the KL's place, without its 1 / std_i^2
    ratio          guard: GRPO-Guard's (Wang et al. 2510.22319),
                   log rho' = std_i (log rho + ||m - m_old||^2 / (2 std_i^2 dims)) = (m - m_old) . e / dims,
                   e being the rollout's noise. For one move of the means it has mean zero and one variance at every
                   step. m_old is not kept: it is x_{i+1} - std_i e, and e is drawn again
    step_weight    what a step's advantage is multiplied by (`rdt.methods.step_choice`)
On policy, the gradient under guard is that of the plain ratio with A std_i.

Departures: at the first update after a rollout the policy IS the old one and stands in for it, so rho is exactly 1
even if batching changes last bits (train/ratio_error logs by how much). Samples of advantage 0 are not run again,
unless for their KL.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.methods.base import named
from rdt.methods.clipped_objective import RATIOS, ClippedObjective, MicroBatch, Penalty
from rdt.methods.rollouts import RolloutMethod, Rollouts
from rdt.methods.step_choice import Noisy, StepChoice, stochastic_steps
from rdt.policy import Denoiser
from rdt.rewards.missing import stand_ins, without_absent
from rdt.rollout import Rollout, Trajectory, conditioned
from rdt.stream import Batch


class PolicyGradient(RolloutMethod):
    """Train by policy gradients: every k = `updates_per_rollout` updates it rolls out `batch_size` images.

    The j-th update learns from samples j, j + k, ... A subclass writes `advantages`, and may replace further hooks:
    `select`, `condition`, `returns`, `credited`, `held` and `updated`.
    """

    def __init__(
        self, *, clip: float, kl_coef: float, min_std: float, uncond_grad: bool, updates_per_rollout: int,
        num_steps: int | None, last_step: bool = True, window: int | None = None, window_within: float = 1.0,
        window_moves: str = "random", window_iterations: int = 25, step_fraction: float = 1.0,
        step_weight: str = "none", ratio: str = "plain", kl_within: float = 1.0, kl_divide: str = "variance",
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(updates_per_rollout=updates_per_rollout, **shared)
        self.clip, self.kl_coef, self.uncond_grad = clip, kl_coef, uncond_grad
        self.score = named("method.ratio", ratio, RATIOS)
        sampling = replace(self.sampling, num_steps=num_steps or self.sampling.num_steps)
        self.num_steps, self.times = sampling.num_steps, self.policy.process.times(sampling.num_steps)
        noisy = Noisy.of(self.policy, sampling)
        self.steps = StepChoice(
            sampling=sampling, noisy=noisy, stochastic=stochastic_steps(noisy.stds, sampling.eta, min_std, last_step),
            seed=self.seed, updates_per_rollout=updates_per_rollout, window=window, window_within=window_within,
            window_moves=window_moves, window_iterations=window_iterations, fraction=step_fraction, weight=step_weight,
        )  # fmt: skip
        self.penalty = Penalty(kl_coef, first_steps(self.num_steps, kl_within), divided(kl_divide))

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

    def credited(self, advantages: Tensor, kept: Tensor, images: list[Tensor]) -> Tensor:
        """Return what the kept candidates' advantages (P, K) or (P, K, T) become in view of this rank's images."""
        return advantages

    def held(self, parts: Tensor) -> Tensor:
        """Return which kept candidates the KL holds to the reference, by the reward's parts, (P, K, R) -> (P, K)."""
        return torch.ones(parts.shape[:2], dtype=torch.bool)

    def updated(self, metrics: dict[str, Tensor]) -> None:
        """Follow an update, whose metrics are the same on every rank."""

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
        objective = self.objective(batch.iteration, samples, on_policy=phase == 0)
        signal = ~self.rollouts.zero_advantage | (self.rollouts.held if objective.charges else False)
        micro_batches = (self.micro_batch(part, samples & signal) for part in self.micro_batches(self.rollouts.batch))
        self.updated(self.update(map(objective.losses, micro_batches), max(int(samples.sum()), 1)))

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the tuned policy, score its images, and turn the scores of all ranks into advantages."""
        tuned, sampling = self.acting(self.policy.tuned), self.steps.rollout_sampling(batch.iteration)
        rollouts = [
            self.counted_rollout(tuned, self.prompts(part), self.noise(part), sampling)
            for part in self.micro_batches(batch)
        ]
        with torch.no_grad():
            images = [self.policy.decode(rollout.clean) for rollout in rollouts]
        parts, absent = stand_ins(self.scores(images, batch))  # (P, G, R), (P, G)
        rewards = self.reward.total(parts)
        kept = self.select(rewards)
        parts = parts[torch.arange(len(kept))[:, None], kept]
        returns = self.returns(self.reward.relative(parts), kept, rollouts, images)
        advantages = self.credited(self.advantages(returns, batch.prompts), kept, images)
        advantages = without_absent(advantages, absent.gather(1, kept))
        trajectory = Trajectory.cat([rollout.trajectory for rollout in rollouts])
        return Rollouts.of(batch, rewards, kept, advantages, self.held(parts), trajectory)

    def objective(self, iteration: int, samples: Tensor, on_policy: bool) -> ClippedObjective:
        """Return the objective of this iteration's update on `samples`, a mask (R,)."""
        held = self.rollouts.held[samples].float().mean().item()  # the KL is logged as a mean over the held samples
        return ClippedObjective(
            process=self.policy.process, tuned=self.acting(self.policy.tuned), base=self.acting(self.kl_view),
            clip=self.clip, penalty=replace(self.penalty, coef=self.kl_coef),
            etas=self.steps.rollout_sampling(iteration).etas, weights=self.steps.weights(iteration),
            logged_steps=len(self.steps.candidates(iteration)) / held if held else 0.0, on_policy=on_policy,
            score=self.score,
        )  # fmt: skip

    def micro_batch(self, batch: Batch, chosen: Tensor) -> MicroBatch:
        """Return those of the batch's rows that are `chosen`, a mask (R,) over all samples of the rollout."""
        rows, first = self.rows(batch), self.share.rows(len(chosen)).start
        own = chosen[rows.start : rows.stop].nonzero().squeeze(1)
        return MicroBatch(
            cond=conditioned(self.policy, self.prompts(batch), self.noise(batch))[own],
            trajectory=self.rollouts.trajectory[own + rows.start - first],
            advantages=self.rollouts.advantages[own + rows.start].to(self.device),
            held=self.rollouts.held[own + rows.start].to(self.device),
        )


def first_steps(num_steps: int, share: float) -> frozenset[int]:
    """Return the first share of T steps; ValueError unless the share is from 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"method.kl_within={share} must be from 0 to 1")
    return frozenset(range(round(share * num_steps)))


def divided(kl_divide: str) -> bool:
    """Return whether a KL is divided by the variances of the steps; ValueError if `kl_divide` names neither way."""
    return named("method.kl_divide", kl_divide, {"variance": True, "none": False})
