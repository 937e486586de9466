"""An oracle that answers only so often: its calls are counted, and one too many is refused before it is made."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward


class BudgetExceeded(ValueError):
    """The oracle was asked for more than its budget."""


class Budgeted(Reward):
    """Any reward as a black box: every image is one call, and no gradient comes back whatever the reward has inside."""

    differentiable = False

    def __init__(self, *, oracle: Reward, budget: int) -> None:
        super().__init__()
        if budget < 1:
            raise ValueError(f"method.budget={budget} must be at least 1")
        if oracle.grouped:
            raise ValueError(
                "reward.normalise=group compares images of a prompt, an oracle sees one; take raw or zscore"
            )
        self.oracle, self.budget = oracle.requires_grad_(False).eval(), budget
        self.calls = 0  # of all processes

    @property
    def left(self) -> int:
        """Calls that the budget still allows."""
        return self.budget - self.calls

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,) for B calls."""
        self.charge(len(images))
        return self.oracle(images, prompts)

    def charge(self, count: int) -> None:
        """Count calls, other processes' too; BudgetExceeded, and nothing counted, where fewer are left."""
        if count > self.left:
            raise BudgetExceeded(
                f"{count} calls asked of an oracle with {self.left} of method.budget={self.budget} left"
            )
        self.calls += count
