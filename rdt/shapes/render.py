"""A vectorised renderer that draws scenes by signed distances and is differentiable."""

import torch
from torch import Tensor

from rdt.shapes.world import Scene

SIZE = 32  # pixels


def render(scene: Scene, size: int = SIZE) -> Tensor:
    """Return images (N, 3, size, size) in [0, 1], differentiable in every continuous parameter."""
    return paint(scene, distances(scene, size))


def paint(scene: Scene, distance: Tensor) -> Tensor:
    """Return images (N, 3, size, size) of objects whose edges lie at `distance` (N, size, size), for any finish."""
    cover = opacity(scene, distance)[:, None]
    x, y = _coordinates(scene, distance.shape[-1])
    light = scene.gloss[:, None, None, None] * (-(x + y) / 2).clamp(-1, 1)[:, None]
    colour = scene.foreground[:, :, None, None]
    lit = colour + light.clamp(min=0) * (1 - colour) + light.clamp(max=0) * colour
    background = scene.background[:, :, None, None]
    return (background + cover * (lit - background)).clamp(0, 1)


def opacity(scene: Scene, distance: Tensor) -> Tensor:
    """Return the share of each pixel that the object covers, (N, size, size) in [0, 1]."""
    return torch.sigmoid(-distance / scene.softness[:, None, None])


def distances(scene: Scene, size: int = SIZE) -> Tensor:
    """Return each pixel's distance to the object's edge, negative inside, (N, size, size), in half images."""
    x, y = _coordinates(scene, size)
    distance = scene.radius.new_zeros(len(scene.shape), size, size)
    for index, signed_distance in enumerate(SIGNED_DISTANCES):
        rows = (scene.shape == index).nonzero().squeeze(1)
        distance = distance.index_copy(0, rows, signed_distance(x[rows], y[rows]).expand(-1, size, size))
    return distance * scene.radius[:, None, None]


def _coordinates(scene: Scene, size: int) -> tuple[Tensor, Tensor]:
    """Return x (N, 1, size) and y (N, size, 1) of the pixels from the object's centre, in units of its radius."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    x = (axis[None, None, :] - scene.centre[:, 0, None, None]) / scene.radius[:, None, None]
    y = (axis[None, :, None] - scene.centre[:, 1, None, None]) / scene.radius[:, None, None]
    return x, y


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
