"""What every reward is: frozen, in evaluation mode, strict about its inputs."""

from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # how far outside [0, 1] rounding may carry a decoded image


class Reward(nn.Module):
    """forward(images (B, 3, H, W) in [0, 1], B prompts) -> (B,), the raw published score; every call is checked."""

    differentiable: bool = True
    reads_prompts: bool = True  # else an image's score is the same under every prompt
    grouped: bool = False  # needs several images of a prompt, see `relative`

    def __call__(self, images: Tensor, prompts: list[str]) -> Any:
        check_images(images)
        if len(prompts) != len(images):
            raise ValueError(f"prompts={len(prompts)} for images={len(images)}: one prompt per image is needed")
        return super().__call__(images, prompts)

    @property
    def components(self) -> dict[str, "Reward"]:
        """The rewards that this one is made of, by name."""
        return {}

    def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The scores of its R components, (B, R); of a plain reward, its own."""
        return self(images, prompts).unsqueeze(-1)

    def total(self, parts: Tensor) -> Tensor:
        """The score that parts (..., R) make, (...)."""
        return parts.squeeze(-1)

    def relative(self, parts: Tensor) -> Tensor:
        """What the images of a prompt are compared by, where the prompt's are seen together: (P, G, R) -> (P, G)."""
        return self.total(parts)

    def __str__(self) -> str:
        return type(self).__name__

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


def blank(scores: Tensor, images: Tensor) -> Tensor:
    """Scores (B,) with NaN where the image is not finite: what reads bytes or classes would not notice."""
    return scores.masked_fill(~images.isfinite().flatten(1).all(1).to(scores.device), torch.nan)
