"""The base class of all embedders, and CLIP (Radford et al. 2021) and DINOv2 and v3 (Oquab et al. 2023, Simeoni et al.
2025) as embedders.

Every embedder is frozen, in evaluation mode and in float32, and embeds a bounded number of images at a time. These are
read from folders or hub ids in transformers' format.
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
from transformers import CLIPModel, Dinov2Model, DINOv3ViTModel

from rdt.rewards.base import check_images
from rdt.weights import MissingCheckpoint, locate, pretrained

BATCH = 32  # images at a time
PREPROCESSOR = "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}  # by Pillow's number


class Embedder(nn.Module, ABC):
    """Map images (n, 3, H, W) in [0, 1] to features (n, D) on the embedder's device, without gradient."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Return features (b, D) of float32 images (b, 3, H, W) in [0, 1]."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self.embed(batch.to(device, torch.float32)) for batch in images.split(BATCH)])

    def train(self, mode: bool = True) -> "Embedder":
        """Stay in evaluation mode, whichever mode the module around it is put into."""
        return super().train(False)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shortest side, crop the centre and normalise, as a published preprocessor config defines it.

    Without a shortest side both sides are resized to `crop`.
    """

    resize: int | None
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @staticmethod
    def read(folder: Path) -> "Preprocessing":
        """Return the preprocessing of a checkpoint's folder, whose config has the old form (plain sizes) or the new."""
        file = folder / PREPROCESSOR
        if not file.is_file():
            raise MissingCheckpoint(f"no file {file}; it is published beside the weights: how images are preprocessed")
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
            return Preprocessing(*_sizes(config), mean, std, FILTERS[config.get("resample", 3)])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} does not define how images are preprocessed: {error!r}") from None

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [0, 1] as (B, 3, crop, crop), resized as PIL does."""
        h, w = images.shape[-2:]
        height = width = self.crop
        if self.resize is not None:
            height, width = (int(self.resize * side / min(h, w)) for side in (h, w))
        if (height, width) != (h, w):
            images = F.interpolate(
                images, (height, width), mode=self.interpolation, align_corners=False, antialias=True
            )
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        square = images[..., top : top + self.crop, left : left + self.crop].clamp(0, 1)
        mean, std = (square.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (square - mean) / std


class Clip(Embedder):
    """Return CLIP's projected image features, which do not have unit length."""

    def __init__(self, model: CLIPModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        expected = model.config.vision_config.image_size
        if preprocessing.crop != expected:
            raise ValueError(f"{PREPROCESSOR}: crop_size={preprocessing.crop}, the model's image_size is {expected}")
        model.text_model = None  # half a gigabyte that image features do not need
        self.model, self.preprocessing = model, preprocessing

    def embed(self, images: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=self.preprocessing(images)).pooler_output


class Dino(Embedder):
    """Return the class token of DINOv2 or v3 after the last norm."""

    def __init__(self, model: Dinov2Model | DINOv3ViTModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing

    def embed(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=self.preprocessing(images)).last_hidden_state[:, 0]


@lru_cache  # measures on the same features share one network
def clip(*, checkpoint: str) -> Clip:
    """Return the embedder of a CLIPModel folder or hub id."""
    return Clip(*_loaded(CLIPModel, checkpoint))


@lru_cache
def dinov2(*, checkpoint: str) -> Dino:
    """Return the embedder of a Dinov2Model folder or hub id."""
    return Dino(*_loaded(Dinov2Model, checkpoint))


@lru_cache
def dinov3(*, checkpoint: str) -> Dino:
    """Return the embedder of a DINOv3ViTModel folder or hub id."""
    return Dino(*_loaded(DINOv3ViTModel, checkpoint))


def _loaded(kind: Any, checkpoint: str) -> tuple[Any, Preprocessing]:
    """Return the frozen model and its preprocessing."""
    preprocessing = Preprocessing.read(locate(checkpoint, (PREPROCESSOR,)))
    return pretrained(kind, checkpoint, None).eval().requires_grad_(False), preprocessing


def _sizes(config: dict[str, Any]) -> tuple[int | None, int]:
    """Return the shortest side that images are resized to, None for both sides, and the side that is cropped."""
    size = config["size"]
    if "crop_size" not in config and isinstance(size, dict) and size["height"] == size["width"]:
        return None, size["height"]
    return _side(size, "shortest_edge"), _side(config["crop_size"], "height")


def _side(size: int | dict[str, int], key: str) -> int:
    return size if isinstance(size, int) else size[key]
