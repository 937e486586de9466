"""The gold reward: the annotator's utility of what the oracle reads in the image. A black box, kept for evaluation."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward
from rdt.shapes.grammar import stated
from rdt.shapes.measures import oracle
from rdt.shapes.world import utility


class GoldReward(Reward):
    """Utility in [0, 1]; ValueError on prompts outside the grammar."""

    differentiable = False

    def __init__(self, *, oracle: str) -> None:
        super().__init__()
        self.source = oracle
        _load(oracle)

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, 32, 32) in [0, 1], B prompts -> (B,)."""
        rows = stated(prompts)
        modes = oracle(self.source, images.device).read(images).cpu()
        return utility(modes, rows).to(images)


_load = oracle  # the constructor's argument hides the name
