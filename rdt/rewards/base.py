"""What every reward is: frozen, in evaluation mode, strict about its inputs.

The reward as methods see it, scale * score + offset; evaluation, judges and limits keep the published score.

The one differentiable preprocessing: resize as PIL does, fit to a square, normalise as CLIP does.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
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


MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Fit = Callable[[Tensor, int, str], Tensor]


def preprocess(images: Tensor, size: int, fit: Fit, interpolation: str = "bicubic") -> Tensor:
    """Images (B, 3, H, W) in [0, 1] -> normalised float32 (B, 3, size, size); `fit` is crop or pad."""
    square = fit(images.float(), size, interpolation)  # antialiased resize does not exist in bfloat16 on CPU
    mean, std = (square.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (square - mean) / std


def crop(images: Tensor, size: int, interpolation: str = "bicubic") -> Tensor:
    """Shortest side to `size`, clipped as PIL clips, centre cropped: CLIP, PickScore, ImageReward, aesthetic."""
    h, w = images.shape[-2:]
    short = min(h, w)
    height, width = int(size * h / short), int(size * w / short)  # int(), as the published processors round
    images = _resize(images, height, width, interpolation).clamp(0, 1)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]


def pad(images: Tensor, size: int, interpolation: str = "bicubic") -> Tensor:
    """Longest side to `size`, black bars on the other, no clipping: HPS."""
    h, w = images.shape[-2:]
    scale = size / max(h, w)
    height, width = round(h * scale), round(w * scale)
    images = _resize(images, height, width, interpolation)
    bars_x, bars_y = size - width, size - height
    return F.pad(images, (bars_x // 2, bars_x - bars_x // 2, bars_y // 2, bars_y - bars_y // 2))


def _resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    if images.shape[-2:] == torch.Size((height, width)):
        return images
    return F.interpolate(images, (height, width), mode=interpolation, align_corners=False, antialias=True)
