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
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.methods.base import Method
from rdt.methods.rollouts import Made, Part, Rollouts
from rdt.policy import Cond, Denoiser
from rdt.prompts import Batch
from rdt.rollout import Noise, Trajectory, replayed, rollout
from rdt.transition import Transition


class PolicyGradient(Method):
    """Images are rolled out every `updates_per_rollout` (k) updates, and update j of them learns from every k-th, j on.

    A subclass says what the advantages are; any of the methods before `training_step` may be its own too.
    """

    rollouts: Rollouts

    def __init__(
        self, *, clip: float, kl_coef: float, uncond_grad: bool, updates_per_rollout: int, num_steps: int | None,
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.clip, self.kl_coef, self.uncond_grad = clip, kl_coef, uncond_grad
        self.updates_per_rollout, self.num_steps = updates_per_rollout, num_steps or self.sampling.num_steps
        for key, divisor in (("updates_per_rollout", updates_per_rollout), ("group", self.images_per_prompt)):
            if self.batch_size % divisor:
                raise ValueError(f"batch_size={self.batch_size} must be a multiple of method.{key}={divisor}")
        self.times = self.policy.process.times(self.num_steps)
        self.stochastic = self._stochastic()
        if not self.stochastic:
            raise ValueError(f"model.sampling.eta={self.sampling.eta} leaves no step of chance to learn from; raise it")
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

    def returns(self, rewards: Tensor, kept: Tensor, made: Made) -> Tensor:
        """What the kept candidates' rewards (P, K) are turned into before the advantages: (P, K) or (P, K, T)."""
        return rewards

    def condition(self, prompts: list[str], noise: Noise) -> Cond:
        """What this rank's rollouts are conditioned on, the same again in their updates; `noise` is theirs."""
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
        phase, seen = batch.iteration % self.updates_per_rollout, list[Tensor]()
        if phase == 0:
            self.rollouts = self.collect(batch)
        part = self.part(phase)
        self.update(self.losses(part, seen))
        self.tell(part, torch.stack(seen).sum(0))

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the tuned policy, score the images, turn the scores of all ranks into advantages."""
        made = self.made(batch)
        with torch.no_grad():
            scores = self.all_gather(self.reward(made.images, made.prompts)).flatten().cpu()
        self.check_finite("reward", scores)
        rewards = scores.view(len(batch.prompts), -1)
        kept = self.select(rewards)
        advantages = self.advantages(self.returns(rewards.gather(1, kept), kept, made), batch.prompts)
        return Rollouts.of(batch, rewards, kept, advantages, made.trajectory)

    @torch.no_grad()
    def made(self, batch: Batch) -> Made:
        """This rank's rollouts and their images."""
        prompts, noise, process = self.prompts(batch), self.noise(batch), self.policy.process
        self.images += len(prompts)
        view, cond, etas = self.acting(self.policy.tuned), self.condition(prompts, noise), self.etas(batch.iteration)
        trajectory = rollout(view, process, cond, noise, self.num_steps, etas)
        return Made(prompts, cond, trajectory, self.policy.decode(trajectory.clean))

    def part(self, phase: int) -> Part:
        """This rank's samples of update `phase`."""
        all_of, batch = self.rollouts, self.rollouts.batch
        teaching = all_of.kept & (all_of.advantages != 0).any(1) if self.kl_coef == 0 else all_of.kept
        mine = self.share(len(teaching))
        rows = torch.tensor(
            [r for r in mine if r % self.updates_per_rollout == phase and teaching[r]], dtype=torch.long
        )
        own, path = (rows - mine.start).to(self.device), all_of.trajectory
        samples = max(int(all_of.kept[phase :: self.updates_per_rollout].sum()), 1)
        return Part(
            cond=self.condition(self.prompts(batch), self.noise(batch))[own],
            trajectory=Trajectory(path.latents[own], path.log_probs[own], path.times),
            advantages=all_of.advantages[rows].to(self.device),
            etas=self.etas(batch.iteration),
            steps=self.trained_steps(batch.iteration + phase),
            weight=self.trainer.world_size / samples,
            on_policy=phase == 0,
        )

    def losses(self, part: Part, seen: list[Tensor]) -> Iterator[Tensor]:
        """The loss of each trained step; what it saw, (3,) summed over samples, is appended: see `tell`."""
        for i in part.steps:
            if len(part.cond):
                yield self.loss(part, i, seen)
            else:  # another rank has samples, and all ranks go backward as often
                seen.append(torch.zeros(3, device=self.device))
                yield sum((0 * weight).sum() for weight in self.trained)

    def loss(self, part: Part, i: int, seen: list[Tensor]) -> Tensor:
        """Of step i."""
        tuned = self.step(self.policy.tuned, part, i)
        log_prob = tuned.log_prob(part.trajectory.latents[:, i + 1])
        since = log_prob - part.trajectory.log_probs[:, i]  # the rollout
        ratio = (log_prob - log_prob.detach() if part.on_policy else since).exp()
        free = part.advantages[:, i] * ratio
        gain = torch.minimum(free, part.advantages[:, i] * ratio.clamp(1 - self.clip, 1 + self.clip))
        kl = self.kl(tuned, part, i) if self.kl_coef else torch.zeros_like(gain)
        seen.append(torch.stack([since.exp().sub(1).abs().sum(), (gain < free).sum(), kl.sum()]).detach())
        return part.weight * (self.kl_coef * kl / tuned.mean[0].numel() - gain).sum()

    def kl(self, tuned: Transition, part: Part, i: int) -> Tensor:
        """(B,) nats to the base at step i."""
        with torch.no_grad():
            base = self.step(self.policy.base, part, i)
        return tuned.kl(base)

    def step(self, view: Denoiser, part: Part, i: int) -> Transition:
        """The sampler's step i of a view from the states of the rollout."""
        return replayed(self.acting(view), self.policy.process, part.cond, part.trajectory, i, part.etas[i])

    def tell(self, part: Part, seen: Tensor) -> None:
        """Log means over the samples: |rho - 1| against the stored log-probabilities, the clipped share, the KL."""
        error, clipped, kl = (part.weight * seen).unbind()
        rewards, count = self.rollouts.rewards, len(part.steps)
        self.report(reward=rewards.mean(), reward_std=rewards.std(), ratio_error=error / count, clipped=clipped / count)
        if self.kl_coef:
            self.report(kl_nats=kl * sum(part.etas[i] > 0 for i in self.stochastic) / count)
        flat = self.rollouts.kept & (self.rollouts.advantages == 0).all(1)
        self.report(zero_advantage=flat.sum() / self.rollouts.kept.sum())

    def _stochastic(self) -> list[int]:
        x, eta = torch.zeros(1, *self.policy.latent_shape), self.sampling.eta
        times = [self.times[i : i + 2] for i in range(self.num_steps)]
        made = [self.policy.process.transition(x, x, t, t_next, eta) for t, t_next in times]
        return [i for i, step in enumerate(made) if step.std.item() > 0]

    def on_fit_start(self) -> None:
        if self.restored is not None:
            mine = self.share(len(self.restored["kept"]))
            self.rollouts = Rollouts.restored(self.restored, mine, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.iteration % self.updates_per_rollout:  # else the next update makes new ones
            checkpoint["rollouts"] = self.rollouts.state_dict(self.global_rank, self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restored = checkpoint.get("rollouts")
