"""DDPO: denoising diffusion policy optimisation with importance sampling (Black et al. 2305.13301).

A = (r - mean) / (std + 1e-6), clipped to +-advantage_clip, mean and std those of the prompt's last `stat_size` rewards,
or of the whole rollout where it has not earned `stat_min` yet; then the clipped objective of
`rdt.methods.policy_gradient` on a fraction of the steps, drawn anew for every update. Departure: std=none does not
divide, which is what a KL-regularised optimum asks for.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.policy_gradient import PolicyGradient
from rdt.randomness import generator

EPSILON = 1e-6


class DDPO(PolicyGradient):
    """Denoising diffusion policy optimisation: advantages relative to what the prompt has been earning."""

    def __init__(
        self, *, step_fraction: float, advantage_clip: float, std: str, stat_size: int, stat_min: int, **shared: Any
    ) -> None:
        super().__init__(**shared)
        if not 0 < step_fraction <= 1:
            raise ValueError(f"method.step_fraction={step_fraction} must be above 0 and at most 1")
        if not 1 <= stat_min <= stat_size:
            raise ValueError(f"method.stat_min={stat_min} must be from 1 to method.stat_size={stat_size}")
        self.step_fraction, self.advantage_clip = step_fraction, advantage_clip
        self.divided = named("method.std", std, {"prompt": True, "none": False})
        self.stat_size, self.stat_min = stat_size, stat_min
        self.earned: dict[str, list[float]] = {}  # by prompt, its latest rewards, the same on every rank

    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """(P, 1), judged once every prompt's own have joined what it earned."""
        returns = returns.double()
        for prompt, rewards in zip(prompts, returns.tolist(), strict=True):
            self.earned[prompt] = (self.earned.get(prompt, []) + rewards)[-self.stat_size :]
        judges = [self.judge(prompt, returns) for prompt in prompts]
        mean = torch.stack([judge.mean() for judge in judges])[:, None]
        std = torch.stack([judge.std(correction=0) for judge in judges])[:, None]
        relative = (returns - mean) / (std + EPSILON if self.divided else 1)
        return relative.clamp(-self.advantage_clip, self.advantage_clip)

    def judge(self, prompt: str, returns: Tensor) -> Tensor:
        """The rewards whose mean and deviation a prompt's are relative to."""
        earned = self.earned[prompt]
        return torch.tensor(earned).to(returns) if len(earned) >= self.stat_min else returns

    def trained_steps(self, iteration: int) -> list[int]:
        """`step_fraction` of the stochastic steps, at least one."""
        steps = super().trained_steps(iteration)
        drawn = torch.randperm(len(steps), generator=generator(self.seed, "steps", iteration))
        return sorted(steps[k] for k in drawn[: max(round(self.step_fraction * len(steps)), 1)].tolist())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["earned"] = self.earned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.earned = checkpoint["earned"]
