"""What every reward is: frozen, in evaluation mode, strict about its inputs."""

from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # how far outside [0, 1] rounding may carry a decoded image


class Reward(nn.Module):
    """forward(images (B, 3, H, W) in [0, 1], B prompts) -> (B,), the raw published score; every call is checked."""

    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: list[str]) -> Any:
        check_images(images)
        if len(prompts) != len(images):
            raise ValueError(f"prompts={len(prompts)} for images={len(images)}: one prompt per image is needed")
        return super().__call__(images, prompts)

    def train(self, mode: bool = True) -> "Reward":
        """A reward stays in evaluation mode, whatever its owner does."""
        return super().train(False)


@torch.no_grad()
def check_images(images: Tensor) -> None:
    """ValueError unless images are float (B, 3, H, W) in [0, 1]; NaN passes, for the loss to report."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, expected float (B, 3, H, W)")
    low, high = (bound.item() for bound in torch.aminmax(images)) if images.numel() else (0.0, 0.0)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"images span [{low:.4g}, {high:.4g}], expected [0, 1]")
