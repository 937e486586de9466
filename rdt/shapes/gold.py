"""The gold reward is the annotator's utility of the attributes that the oracle reads in an image; it is a black box."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward, blank
from rdt.shapes.distribution import INDICATORS, gold_table, indicators
from rdt.shapes.grammar import stated
from rdt.shapes.oracle import shared_oracle
from rdt.shapes.world import utility


class GoldReward(Reward):
    """Scores images by their utility in [0, 1]; ValueError if a prompt is outside the grammar.

    The utility is additive over attributes, so it is an inner product of an image's and a prompt's features as well.
    """

    differentiable = False
    scale = 1.0

    def __init__(self, *, oracle: str) -> None:
        super().__init__()
        self.source = oracle
        shared_oracle(oracle)  # a missing checkpoint is reported here

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the utilities, shape (B,), of images (B, 3, 32, 32) in [0, 1] for B prompts."""
        return blank(utility(self._read(images), stated(prompts)).to(images.device), images)

    def image_features(self, images: Tensor) -> Tensor:
        """Return the attributes that the oracle reads, one-hot, (B, 24)."""
        return indicators(self._read(images))

    def text_features(self, prompts: list[str]) -> Tensor:
        """Return the contribution of each attribute value to the utility for each prompt, (P, 24)."""
        return gold_table(stated(prompts)) @ torch.linalg.pinv(INDICATORS).T

    def _read(self, images: Tensor) -> Tensor:
        return shared_oracle(self.source, images.device).read(images).cpu()
