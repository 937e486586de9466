"""GRPO on diffusion and flow models (Liu et al. 2505.05470): the G images of a prompt are each other's baseline.

A = (r - mean of the group) / (std + 1e-4), and the clipped objective of `rdt.methods.policy_gradient`. With a window,
as in Flow-GRPO-Fast, only its consecutive steps are stochastic and trained; the other steps are ODE steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.policy_gradient import PolicyGradient

EPSILON = 1e-4


class GRPO(PolicyGradient):
    """Train by policy gradients whose advantages are relative to the prompt's group of images."""

    def __init__(self, *, group: int, std: str, **shared: Any) -> None:
        super().__init__(images_per_prompt=group, **shared)
        if group < 2:
            raise ValueError(f"method.group={group} must be at least 2: a group is its own baseline")
        self.divisor = named("method.std", std, DIVISORS)

    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """Return the advantages, computed in double precision, where equal rewards are exactly their mean."""
        returns = returns.double()
        return (returns - returns.mean(1, keepdim=True)) / self.divisor(returns)


def _group(returns: Tensor) -> Tensor:
    return returns.std(1, keepdim=True, correction=0) + EPSILON


def _global(returns: Tensor) -> Tensor:
    return returns.std((0, 1), keepdim=True, correction=0) + EPSILON


DIVISORS: dict[str, Callable[[Tensor], Tensor]] = {  # what returns (P, K) or (P, K, T) are divided by
    "group": _group,
    "global": _global,
    "none": lambda returns: torch.ones(()),
}
