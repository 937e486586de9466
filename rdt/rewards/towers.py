"""CLIP's image network, which rewards and judges that read the same file share: one copy, run once per image."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from rdt.rewards.base import SquareFit, preprocess
from rdt.rewards.heads import recompute
from rdt.weights import pretrained

Key = tuple[str, str | None, bool]  # source, digest, whether layers are recomputed in the backward pass
_shared: "weakref.WeakValueDictionary[Key, ImageTower]" = weakref.WeakValueDictionary()


class ImageTower(nn.Module):
    """Gives CLIP's projected image features in float32; without a gradient it keeps those of the latest images."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.network, self.projection = model.vision_model, model.visual_projection
        self.width, self.size = model.config.projection_dim, model.config.vision_config.image_size
        self.float().eval().requires_grad_(False)
        self._latest: tuple[Any, Any, Tensor] | None = None  # a weak reference to images, how they were read, features

    def features(self, images: Tensor, fit: SquareFit, interpolation: str) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W) in [0, 1], not normalised; gradient reaches the images."""
        keeps = not (images.is_inference() or (torch.is_grad_enabled() and images.requires_grad))
        how, latest = keeps and (images._version, fit, interpolation), self._latest
        if keeps and latest and latest[0]() is images and latest[1] == how:
            return latest[2]
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.size, fit, interpolation)
            found = self.projection(self.network(pixel_values=pixels).pooler_output)
        self._latest = (weakref.ref(images), how, found) if keeps else None
        return found

    def train(self, mode: bool = True) -> "ImageTower":
        """Stay in evaluation mode, whichever mode the module around it is put into."""
        return super().train(False)


def clip_with_tower(source: str, sha256: str | None, checkpointing: bool) -> tuple[CLIPModel, ImageTower]:
    """Return a CLIPModel from its folder, and its image network, which is the shared one if a reward has loaded it."""
    model = pretrained(CLIPModel, source, sha256)
    tower = _shared.get((source, sha256, checkpointing))
    if tower is None:
        tower = _new((source, sha256, checkpointing), model)
    model.vision_model, model.visual_projection = tower.network, tower.projection
    return model, tower


def image_tower(source: str, sha256: str | None, checkpointing: bool) -> ImageTower:
    """Return the image network of a CLIPModel folder, the shared one if a reward has loaded it."""
    key = (source, sha256, checkpointing)
    return _shared.get(key) or _new(key, pretrained(CLIPModel, source, sha256))


def _new(key: Key, model: CLIPModel) -> ImageTower:
    if key[2]:
        recompute(model.vision_model.encoder.layers)
    _shared[key] = tower = ImageTower(model)
    return tower
