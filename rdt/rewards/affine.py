"""The reward as methods see it, scale * score + offset; evaluation, judges and limits keep the published score."""

import torch
from torch import Tensor

from rdt.rewards.base import Reward


class Affine(Reward):
    """Another reward on a scale of one's own: PickScore over 26 as reward.scale=0.0385, a smaller-is-better as -1."""

    def __init__(self, reward: Reward, *, scale: float, offset: float) -> None:
        super().__init__()
        if not scale or not torch.tensor([scale, offset]).isfinite().all():
            raise ValueError(
                f"reward.scale={scale} reward.offset={offset}: finite numbers are needed, and no scale of 0"
            )
        self.reward, self.scale, self.offset = reward, scale, offset
        self.differentiable, self.reads_prompts = reward.differentiable, reward.reads_prompts
        self.grouped = reward.grouped

    @property
    def components(self) -> dict[str, Reward]:
        return self.reward.components

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,)."""
        return self._own(self.reward(images, prompts))

    def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.reward.parts(images, prompts)

    def total(self, parts: Tensor) -> Tensor:
        return self._own(self.reward.total(parts))

    def relative(self, parts: Tensor) -> Tensor:
        return self._own(self.reward.relative(parts))

    def __str__(self) -> str:
        return str(self.reward)

    def _own(self, scores: Tensor) -> Tensor:
        return self.scale * scores + self.offset
