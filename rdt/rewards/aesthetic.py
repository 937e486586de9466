"""LAION's aesthetic score, version 2 (Schuhmann 2022): an affine function of CLIP ViT-L/14's unit image embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from rdt.rewards.base import Reward, crop, preprocess
from rdt.rewards.heads import head, recompute
from rdt.weights import load_tensors, pinned, pretrained


class AestheticReward(Reward):
    """About 1 to 10, photographs at 5 to 6; the head's five layers have nothing nonlinear between them."""

    reads_prompts = False

    def __init__(self, *, clip: CLIPModel, head: nn.Sequential, interpolation: str) -> None:
        super().__init__()
        if head[0].in_features != clip.config.projection_dim:
            raise ValueError(f"the head reads {head[0].in_features} features, CLIP gives {clip.config.projection_dim}")
        self.tower, self.projection = clip.vision_model, clip.visual_projection
        self.head, self.interpolation = head, interpolation
        self.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B,); the prompts are not read."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.tower.config.image_size, crop, self.interpolation)
            features = self.projection(self.tower(pixel_values=pixels).pooler_output)
            return self.head(F.normalize(features, dim=-1)).squeeze(-1)


def aesthetic(
    *, checkpoint: str, backbone: str, sha256: str | None, interpolation: str, checkpointing: bool
) -> AestheticReward:
    """From the published head (`checkpoint`, which sha256 pins) and a CLIPModel folder (`backbone`)."""
    clip = pretrained(CLIPModel, backbone, None)
    if checkpointing:
        recompute(clip.vision_model.encoder.layers)
    affine = head(load_tensors(pinned(checkpoint, sha256)))
    return AestheticReward(clip=clip, head=affine, interpolation=interpolation)
