"""GRPO on diffusion and flow models (Liu et al. 2505.05470): the G images of a prompt are each other's baseline.

A = (r - mean of the group) / (std + 1e-4), and the clipped objective of `rdt.methods.policy_gradient`. With a window,
as in Flow-GRPO-Fast, only its consecutive steps are stochastic and trained; the other steps are ODE steps.

With initial=shared (MixGRPO, Li et al. 2507.21802; DanceGRPO; GARDO's text) the images of a prompt start from one
noise, that of the first of them. Then they differ by the noise of the stochastic steps alone, and a bonus for diversity
in the group measures that. With a cluster bonus the rewards are raised as in `rdt.methods.diverse_grpo`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.diverse_grpo import cluster_sizes, rarity
from rdt.methods.policy_gradient import PolicyGradient
from rdt.randomness import Noise
from rdt.rollout import Rollout
from rdt.stream import Batch

EPSILON = 1e-4


class GRPO(PolicyGradient):
    """Train by policy gradients whose advantages are relative to the prompt's group of images."""

    def __init__(
        self, *, group: int, std: str, initial: str = "own", cluster_bonus: float = 0.0,
        embedder: Callable[[Tensor], Tensor] | None = None, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(images_per_prompt=group, **shared)
        if group < 2:
            raise ValueError(f"method.group={group} must be at least 2: a group is its own baseline")
        self.divisor = named("method.std", std, DIVISORS)
        self.one_start = named("method.initial", initial, {"own": False, "shared": True})
        if cluster_bonus < 0:
            raise ValueError(f"method.cluster_bonus={cluster_bonus} must not be below 0; 0 is off")
        self.cluster_bonus, self.embedder = cluster_bonus, embedder
        if cluster_bonus:
            self.check_embedder("method.cluster_bonus", cluster_bonus)

    def check_embedder(self, key: str, value: object) -> None:
        """Raise ValueError if an option compares images and there are no features to compare them by."""
        if self.embedder is None:
            raise ValueError(f"{key}={value} compares images; add 'method.embedder=${{diversity.embedder}}'")

    def noise(self, batch: Batch) -> Noise:
        """Return the noise of the batch's rows, whose groups may start from the noise of their first sample."""
        noise, size = super().noise(batch), self.images_per_prompt
        return replace(noise, starts=[k - k % size for k in noise.indices]) if self.one_start else noise

    def returns(self, rewards: Tensor, kept: Tensor, rollouts: list[Rollout], images: list[Tensor]) -> Tensor:
        """Return the rewards (P, K) with the bonus of rare clusters, in units of what advantages are divided by."""
        if not self.cluster_bonus:
            return rewards
        sizes = cluster_sizes(self.features(images, kept))
        self.log_train(clusters=(1 / sizes).sum(1).mean())
        return rewards + self.cluster_bonus * self.divisor(rewards) * rarity(sizes).to(rewards)

    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """Return the advantages, computed in double precision, where equal rewards are exactly their mean."""
        returns = returns.double()
        return (returns - returns.mean(1, keepdim=True)) / self.divisor(returns)

    @torch.no_grad()
    def features(self, images: list[Tensor], kept: Tensor) -> Tensor:
        """Return the features (P, K, D) of the kept (P, K) among the images of all micro-batches and ranks."""
        if self.embedder is None:
            raise ValueError("there is no method.embedder to compare images by")
        every = self.all_gather(torch.cat([self.embedder(part) for part in images])).flatten(0, -2).cpu()
        return every.view(len(kept), -1, every.shape[-1])[torch.arange(len(kept))[:, None], kept]


def _group(returns: Tensor) -> Tensor:
    return returns.std(1, keepdim=True, correction=0) + EPSILON


def _global(returns: Tensor) -> Tensor:
    return returns.std((0, 1), keepdim=True, correction=0) + EPSILON


DIVISORS: dict[str, Callable[[Tensor], Tensor]] = {  # what returns (P, K) or (P, K, T) are divided by
    "group": _group,
    "global": _global,
    "none": lambda returns: torch.ones(()),
}
