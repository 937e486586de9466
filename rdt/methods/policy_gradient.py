"""Policy gradients on sampler steps: what DDPO (Black et al. 2305.13301) and Flow-GRPO (Liu et al. 2505.05470) share.

A stochastic step of a rollout is an action, its advantage A comes from the image's reward, and an update climbs
    sum_i min(A rho_i, A clip(rho_i, 1 - clip, 1 + clip)) - kl_coef KL(tuned || base at x_i) / dims,
    rho_i = exp(log p(x_{i+1} | x_i) - log p_old(x_{i+1} | x_i)),
in the mean over samples. Log-probabilities are means over latent dimensions as the KL is here, so the optimum trades
kl_coef of advantage against a nat. As in Flow-GRPO, the KL of later steps is not credited to earlier ones. Departures:
at the first update after a rollout the policy IS the old one and stands for it, so that rho is exactly 1 whatever
batching does to last bits (train/ratio_error says what); samples of advantage 0 are not run again, unless for their KL.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.methods.base import Method
from rdt.methods.objective import ClippedObjective
from rdt.methods.rollouts import Made, Part, Rollouts, stochastic
from rdt.policy import Cond, Denoiser
from rdt.prompts import Batch
from rdt.rollout import Noise, Trajectory, rollout


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
