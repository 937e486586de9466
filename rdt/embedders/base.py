"""What every embedder is: frozen, in evaluation mode, in float32, a bounded number of images at a time."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from rdt.rewards.base import check_images

BATCH = 32  # images at a time


class Embedder(nn.Module, ABC):
    """forward(images (n, 3, H, W) in [0, 1]) -> features (n, D) where the embedder is, without gradient."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Float32 images (b, 3, H, W) in [0, 1] -> features (b, D)."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self.embed(part.to(device, torch.float32)) for part in images.split(BATCH)])

    def train(self, mode: bool = True) -> "Embedder":
        """An embedder stays in evaluation mode, whatever its owner does."""
        return super().train(False)
