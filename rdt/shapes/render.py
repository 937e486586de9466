"""A vectorised renderer that draws scenes by signed distances and is differentiable."""

import torch
from torch import Tensor

from rdt.shapes.world import Scene

SIZE = 32  # pixels
SOFTNESS = 0.04  # width of an edge, in units of half the image


def render(scene: Scene, size: int = SIZE) -> Tensor:
    """Return images (N, 3, size, size) in [0, 1], differentiable in every continuous parameter."""
    cover = opacity(scene, size)[:, None]
    return scene.background[:, :, None, None] * (1 - cover) + scene.foreground[:, :, None, None] * cover


def opacity(scene: Scene, size: int = SIZE) -> Tensor:
    """Return the share of each pixel that the object covers, (N, size, size) in [0, 1]."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    x = (axis[None, None, :] - scene.centre[:, 0, None, None]) / scene.radius[:, None, None]
    y = (axis[None, :, None] - scene.centre[:, 1, None, None]) / scene.radius[:, None, None]
    x, y = torch.broadcast_tensors(x, y)
    distance = torch.zeros_like(x)
    for index, signed_distance in enumerate(SIGNED_DISTANCES):
        rows = (scene.shape == index).nonzero().squeeze(1)
        distance = distance.index_copy(0, rows, signed_distance(x[rows], y[rows]))
    return torch.sigmoid(-distance * scene.radius[:, None, None] / SOFTNESS)


def _norm(x: Tensor, y: Tensor) -> Tensor:
    return (x.square() + y.square() + 1e-12).sqrt()


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _norm(x, y) - 0.9


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(y - 0.6, 0.866 * x.abs() - 0.5 * y - 0.5)


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (1.25 * x.abs() + y.abs() - 1.0) / 1.6


def _cross(x: Tensor, y: Tensor) -> Tensor:
    upright = torch.maximum(x.abs() - 0.3, y.abs() - 0.95)
    level = torch.maximum(x.abs() - 0.95, y.abs() - 0.3)
    return torch.minimum(upright, level)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_norm(x, y) - 0.68).abs() - 0.24


# In the order of ATTRIBUTES["shape"], at unit radius
SIGNED_DISTANCES = (_circle, _square, _triangle, _diamond, _cross, _ring)
