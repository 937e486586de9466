"""GRPO on diffusion and flow models (Liu et al. 2505.05470): groups of G images per prompt are their own baseline.

A = (r - mean of the group) / (std + 1e-4), and the clipped objective of `rdt.methods.policy_gradient`. The window is
Flow-GRPO-Fast's: its consecutive steps are stochastic, the others ODE steps, and only they are trained.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.policy_gradient import PolicyGradient
from rdt.randomness import generator

EPSILON = 1e-4


class GRPO(PolicyGradient):
    """Group-relative policy optimisation."""

    def __init__(
        self, *, group: int, std: str, window: int | None, window_within: float, **shared: Any
    ) -> None:  # fmt: skip
        self.images_per_prompt = group
        super().__init__(**shared)
        if group < 2:
            raise ValueError(f"method.group={group} must be at least 2: a group is its own baseline")
        self.spread = named("method.std", std, SPREADS)
        self.window, self.starts = window, self._starts(window, window_within)

    def advantages(self, returns: Tensor, prompts: list[str]) -> Tensor:
        """In double precision, where equal rewards are exactly their mean."""
        returns = returns.double()
        return (returns - returns.mean(1, keepdim=True)) / self.spread(returns)

    def etas(self, iteration: int) -> list[float]:
        """Of the sampler, or 0 outside the window that is drawn for this rollout."""
        etas = super().etas(iteration)
        if self.window is None:
            return etas
        draw = torch.randint(self.starts, (), generator=generator(self.seed, "window", iteration))
        inside = self.stochastic[draw : draw + self.window]
        return [eta if i in inside else 0.0 for i, eta in enumerate(etas)]

    def _starts(self, window: int | None, within: float) -> int:
        """How many places the window can take in the first share of the stochastic steps."""
        steps = round(within * len(self.stochastic))
        if window is not None and not 1 <= window <= steps:
            limit = f"the {steps} stochastic steps that method.window_within={within} leaves it"
            raise ValueError(f"method.window={window} must be from 1 to {limit}")
        return steps - (window or 0) + 1


def _group(returns: Tensor) -> Tensor:
    return returns.std(1, keepdim=True, correction=0) + EPSILON


def _global(returns: Tensor) -> Tensor:
    return returns.std((0, 1), keepdim=True, correction=0) + EPSILON


SPREADS: dict[str, Callable[[Tensor], Tensor]] = {  # what (P, K) or (P, K, T) returns are divided by
    "group": _group,
    "global": _global,
    "none": lambda returns: torch.ones(()),
}
