"""The gold reward: the annotator's utility of what the oracle reads in the image. A black box."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward, blank
from rdt.shapes import measures
from rdt.shapes.distribution import INDICATORS, gold_table, indicators
from rdt.shapes.grammar import stated
from rdt.shapes.world import utility


class GoldReward(Reward):
    """Utility in [0, 1]; additive, so also an inner product. ValueError on prompts outside the grammar."""

    differentiable = False
    scale = 1.0

    def __init__(self, *, oracle: str) -> None:
        super().__init__()
        self.source = oracle
        measures.oracle(oracle)  # a missing checkpoint is reported here

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, 32, 32) in [0, 1], B prompts -> (B,)."""
        return blank(utility(self._read(images), stated(prompts)).to(images.device), images)

    def image_features(self, images: Tensor) -> Tensor:
        """What the oracle reads, one-hot, (B, 24)."""
        return indicators(self._read(images))

    def text_features(self, prompts: list[str]) -> Tensor:
        """What each value is worth to each prompt, (P, 24)."""
        return gold_table(stated(prompts)) @ torch.linalg.pinv(INDICATORS).T

    def _read(self, images: Tensor) -> Tensor:
        return measures.oracle(self.source, images.device).read(images).cpu()
