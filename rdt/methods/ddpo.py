"""DDPO: denoising diffusion policy optimisation with importance sampling (Black et al. 2305.13301).

A = (r - mean) / (std + 1e-6), clipped to +-advantage_clip. Mean and std are those of the prompt's last `stat_size`
rewards, or of the whole rollout while the prompt has fewer than `stat_min`. The clipped objective of
`rdt.methods.policy_gradient` follows, on a fraction of the steps that is drawn for every update.

Departure: std=none does not divide, which is what a KL-regularised optimum asks for.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.policy_gradient import PolicyGradient

EPSILON = 1e-6


class DDPO(PolicyGradient):
    """Train by policy gradients whose advantages are relative to each prompt's latest rewards."""

    def __init__(self, *, advantage_clip: float, std: str, stat_size: int, stat_min: int, **shared: Any) -> None:
        super().__init__(**shared)
        if not 1 <= stat_min <= stat_size:
            raise ValueError(f"method.stat_min={stat_min} must be from 1 to method.stat_size={stat_size}")
        self.advantage_clip, self.stat_size, self.stat_min = advantage_clip, stat_size, stat_min
        self.divided = named("method.std", std, {"prompt": True, "none": False})
        self.earned: dict[str, list[float]] = {}  # by prompt, its latest rewards, the same on every rank

    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """Return the advantages (P, 1), once this rollout's rewards have joined those that each prompt earned."""
        returns = returns.double()
        for prompt, rewards in zip(prompts, returns.tolist(), strict=True):
            self.earned[prompt] = (self.earned.get(prompt, []) + rewards)[-self.stat_size :]
        references = [self.reference(prompt, returns) for prompt in prompts]
        mean = torch.stack([rewards.mean() for rewards in references])[:, None]
        std = torch.stack([rewards.std(correction=0) for rewards in references])[:, None]
        relative = (returns - mean) / (std + EPSILON if self.divided else 1)
        return relative.clamp(-self.advantage_clip, self.advantage_clip)

    def reference(self, prompt: str, returns: Tensor) -> Tensor:
        """Return the rewards whose mean and standard deviation a prompt's advantages are relative to."""
        earned = self.earned[prompt]
        return torch.tensor(earned).to(returns) if len(earned) >= self.stat_min else returns

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["earned"] = self.earned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.earned = checkpoint["earned"]
