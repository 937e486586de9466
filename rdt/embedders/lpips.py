"""LPIPS (Zhang et al. 2018) as an embedder: the squared Euclidean distance of two features is LPIPS of the images.

LPIPS = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (f_lhwc(x) - f_lhwc(y))^2 with f normalised over channels and w >= 0, so the
embedding is E = sqrt(w / (H W)) f. The network is AlexNet or VGG16 in torchvision's layout, the heads are LPIPS's own.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.embedders.vision import Embedder
from rdt.weights import load_tensors, locate, pinned

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
TINY = 1e-10  # added to norms over channels


@dataclass(frozen=True)
class Layout:
    """Describes a published network by the places of its convolutions below `features.`; ReLU follows each."""

    convolutions: dict[int, tuple[int, int]]  # place -> stride, padding
    pooled: tuple[int, ...]  # places after a max pool of stride 2
    pool: int  # side of the pool
    tapped: tuple[int, ...]  # places whose features LPIPS compares


NETWORKS = {
    "alex": Layout({0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}, (3, 6), 3, (0, 3, 6, 8, 10)),
    "vgg": Layout(
        {place: (1, 1) for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)},
        (5, 10, 17, 24), 2, (2, 7, 14, 21, 28),
    ),
}  # fmt: skip


class Lpips(Embedder):
    """Returns features (n, D), of which D grows with the image; the layers' sizes are read from the weights."""

    def __init__(
        self, layout: Layout, backbone: dict[str, Tensor], heads: dict[str, Tensor], size: int | None = None
    ) -> None:
        super().__init__()
        self.layout, self.size = layout, size
        self.convolutions = nn.ModuleDict(
            {str(place): _convolution(backbone, place, *geometry) for place, geometry in _places(layout)}
        )
        weights = [_head(heads, layer) for layer in range(len(layout.tapped))]
        self.heads = nn.ParameterDict({str(i): w for i, w in zip(layout.tapped, weights, strict=True)})
        for place in map(str, layout.tapped):
            if self.heads[place].numel() != len(self.convolutions[place].weight):
                raise ValueError(
                    f"LPIPS's heads do not fit the network: {self.heads[place].numel()} weights for"
                    f" {len(self.convolutions[place].weight)} channels of features.{place}"
                )
        self.requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        if self.size is not None:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        shift, scale = (images.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x, features = (2 * images - 1 - shift) / scale, []
        for place, _ in _places(self.layout):
            if place in self.layout.pooled:
                x = F.max_pool2d(x, self.layout.pool, 2)
            x = self.convolutions[str(place)](x).relu()
            if place in self.layout.tapped:
                unit = x / (x.norm(dim=1, keepdim=True) + TINY)
                features.append((unit * (self.heads[str(place)] / x[0, 0].numel()).sqrt()).flatten(1))
        return torch.cat(features, 1)


@lru_cache
def lpips(*, network: str, checkpoint: str, sha256: str | None, heads: str, size: int | None) -> Lpips:
    """Return LPIPS 0.1 on `network` alex or vgg.

    `checkpoint` is the network's ImageNet file, which sha256 pins; `heads` are LPIPS's own. Images are squeezed to
    `size` pixels per side first, unless it is None.
    """
    if network not in NETWORKS:
        raise ValueError(f"network={network!r} is not one of {', '.join(NETWORKS)}")
    backbone = load_tensors(pinned(checkpoint, sha256))
    return Lpips(NETWORKS[network], backbone, load_tensors(locate(heads)), size)


def _places(layout: Layout) -> list[tuple[int, tuple[int, int]]]:
    """Return the convolutions' places in order, each with its stride and padding."""
    return sorted(layout.convolutions.items())


def _convolution(tensors: dict[str, Tensor], place: int, stride: int, padding: int) -> nn.Conv2d:
    weight, bias = (_tensor(tensors, f"features.{place}.{kind}") for kind in ("weight", "bias"))
    out, into, side, _ = weight.shape
    convolution = nn.Conv2d(into, out, side, stride, padding)
    convolution.load_state_dict({"weight": weight, "bias": bias})
    return convolution


def _head(tensors: dict[str, Tensor], layer: int) -> Tensor:
    weight = _tensor(tensors, f"lin{layer}.model.1.weight").float()
    if (weight < 0).any():
        raise ValueError(f"LPIPS's head {layer} has the negative weight {weight.min():g}: it gives no distance")
    return weight.view(-1, 1, 1)


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"checkpoint lacks the key {name!r}: it has {', '.join(sorted(tensors)[:3])}, ...")
    return tensors[name]
