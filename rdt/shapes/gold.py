"""The gold reward is the annotator's utility of what the oracle reads, less what is unnatural; it is a black box."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward, blank
from rdt.shapes.distribution import INDICATORS, content_table, indicators
from rdt.shapes.grammar import stated
from rdt.shapes.oracle import Reading, shared_oracle
from rdt.shapes.world import QUALITY, quality, utility

RENDERED, SCALE = 0.02, 0.1  # residual up to which an image counts as rendered, and how fast the utility falls beyond


class GoldReward(Reward):
    """Scores images by utility times naturalness, in [0, 1]; ValueError if a prompt is outside the grammar.

    The utility is additive over attributes and finish, so the score is an inner product of an image's and a prompt's
    features as well.
    """

    differentiable = False
    scale = 1.0

    def __init__(self, *, oracle: str) -> None:
        super().__init__()
        self.source = oracle
        shared_oracle(oracle)  # a missing checkpoint is reported here

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, shape (B,), of images (B, 3, 32, 32) in [0, 1] for B prompts."""
        read = self._read(images)
        scores = naturalness(read.residual) * utility(read.modes, read.finish, stated(prompts))
        return blank(scores.to(images.device), images)

    def image_features(self, images: Tensor) -> Tensor:
        """Return the attributes, one-hot, and the quality that the oracle reads, times naturalness, (B, 25)."""
        read = self._read(images)
        features = torch.cat([indicators(read.modes), quality(read.finish)[:, None].double()], dim=1)
        return naturalness(read.residual)[:, None] * features

    def text_features(self, prompts: list[str]) -> Tensor:
        """Return what each attribute value and the quality add to the utility for each prompt, (P, 25)."""
        values = content_table(stated(prompts)) @ torch.linalg.pinv(INDICATORS).T
        return torch.cat([values, torch.full((len(prompts), 1), QUALITY, dtype=torch.float64)], dim=1)

    def _read(self, images: Tensor) -> Reading:
        return shared_oracle(self.source, images.device).read(images)


def naturalness(residual: Tensor) -> Tensor:
    """Return the share of the utility that an image keeps at its residual, (N,): 1 for a render, falling beyond."""
    return torch.exp(-(residual - RENDERED).clamp(min=0) / SCALE)
