"""The one differentiable preprocessing: resize as PIL does, fit to a square, normalise as CLIP does."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
