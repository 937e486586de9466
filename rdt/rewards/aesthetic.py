"""LAION's aesthetic score, version 2 (Schuhmann 2022): it is affine in CLIP ViT-L/14's unit image embedding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.rewards.base import Reward, crop
from rdt.rewards.heads import affine_head
from rdt.rewards.towers import ImageTower, image_tower
from rdt.weights import load_tensors, pinned


class AestheticReward(Reward):
    """Scores about 1 to 10, photographs 5 to 6; the head's five layers have no nonlinearity between them."""

    reads_prompts = False

    def __init__(self, *, tower: ImageTower, head: nn.Sequential, interpolation: str) -> None:
        super().__init__()
        if head[0].in_features != tower.width:
            raise ValueError(f"the head reads {head[0].in_features} features, CLIP gives {tower.width}")
        self.tower, self.head, self.interpolation = tower, head, interpolation
        self.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), of images (B, 3, H, W) in [0, 1]; the prompts are not read."""
        features = self.tower.features(images, crop, self.interpolation)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(F.normalize(features, dim=-1)).squeeze(-1)


@dataclass(frozen=True)
class HeadOnClip:
    """Names a published head and the CLIPModel folder on which it was trained, as `model.checkpoints` does."""

    checkpoint: str  # the head
    backbone: str
    sha256: str | None = None  # pins `checkpoint`


def aesthetic(*, weights: Mapping[str, Any], interpolation: str, checkpointing: bool) -> AestheticReward:
    """Build the reward from its published files; `weights` has the fields of HeadOnClip."""
    files = HeadOnClip(**weights)
    tower = image_tower(files.backbone, None, checkpointing)
    head = affine_head(load_tensors(pinned(files.checkpoint, files.sha256)))
    return AestheticReward(tower=tower, head=head, interpolation=interpolation)
