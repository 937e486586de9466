"""CLIP (Radford et al. 2021) and DINOv2 (Oquab et al. 2023) from folders or hub ids in transformers' format.

What every embedder is: frozen, in evaluation mode, in float32, a bounded number of images at a time.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, Dinov2Model

from rdt.rewards.base import check_images
from rdt.rewards.heads import stock
from rdt.weights import MissingCheckpoint, locate

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


PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """Shortest side to `resize`, centre crop to `crop`, normalise: what a published preprocessor config says."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def read(folder: Path) -> "Preprocessing":
        """The one in a checkpoint's folder, in the old form (plain sizes) or the new one."""
        file = folder / PREPROCESSOR
        if not file.is_file():
            raise MissingCheckpoint(f"no file {file}; it is published beside the weights and says how images go in")
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            sizes = _side(said["size"], "shortest_edge"), _side(said["crop_size"], "height")
            return Preprocessing(*sizes, tuple(said["image_mean"]), tuple(said["image_std"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} does not say how images go in: {error!r}") from None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 3, crop, crop), resized as PIL does."""
        h, w = images.shape[-2:]
        height, width = (int(self.resize * side / min(h, w)) for side in (h, w))
        if (height, width) != (h, w):
            images = F.interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True)
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        square = images[..., top : top + self.crop, left : left + self.crop].clamp(0, 1)
        mean, std = (square.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (square - mean) / std


class Clip(Embedder):
    """Projected image features, as they come: not of unit length."""

    def __init__(self, model: CLIPModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        expected = model.config.vision_config.image_size
        if preprocessing.crop != expected:
            raise ValueError(f"{PREPROCESSOR}: crop_size={preprocessing.crop}, the model's image_size is {expected}")
        model.text_model = None  # half a gigabyte that is never asked
        self.model, self.preprocessing = model, preprocessing

    def embed(self, images: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=self.preprocessing(images)).pooler_output


class Dinov2(Embedder):
    """The class token after the last norm."""

    def __init__(self, model: Dinov2Model, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing

    def embed(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=self.preprocessing(images)).last_hidden_state[:, 0]


@lru_cache  # measures that see with the same eyes share them
def clip(*, checkpoint: str) -> Clip:
    """The image tower of a CLIPModel folder or hub id."""
    return Clip(*_loaded(CLIPModel, checkpoint))


@lru_cache
def dinov2(*, checkpoint: str) -> Dinov2:
    """A Dinov2Model folder or hub id."""
    return Dinov2(*_loaded(Dinov2Model, checkpoint))


def _loaded(kind: Any, checkpoint: str) -> tuple[Any, Preprocessing]:
    """The frozen model and its preprocessing."""
    preprocessing = Preprocessing.read(locate(checkpoint, (PREPROCESSOR,)))
    return stock(kind, checkpoint, None).eval().requires_grad_(False), preprocessing


def _side(size: int | dict[str, int], key: str) -> int:
    return size if isinstance(size, int) else size[key]
