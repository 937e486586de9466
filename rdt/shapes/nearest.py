"""The natural image nearest to a given one: a fit of jitter and finish to the render of a known mode.

Gauss-Newton steps go over the eight continuous factors. The bounds of the finish are wide, so that an over-cooked image
is read as what it is; what no render explains remains as the residual.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes import world
from rdt.shapes.attributes import FINISH
from rdt.shapes.render import distances, paint

FACTORS = world.JITTERS + len(FINISH)
MOVING = 3  # the first factors, x, y and radius, move edges; the others change what is painted between the same edges
PROBE, DAMPING = 0.05, 1e-2  # finite difference, and ridge, of a step
LOW = torch.tensor([-1.0] * world.JITTERS + [-0.5] * len(FINISH))
HIGH = torch.tensor([1.0] * world.JITTERS + [1.5] * len(FINISH))
CHUNK = 256  # images fitted at a time: 256 take 30 MB of renders


@dataclass(frozen=True)
class Nearest:
    """Holds the finish of the nearest renders of N images, and how far these are."""

    finish: Tensor  # (N, 3)
    residual: Tensor  # (N,), RMS distance of a pixel; 0 is natural


@torch.no_grad()
def nearest_render(images: Tensor, modes: Tensor, finish: Tensor, steps: int = 3) -> Nearest:
    """Return the nearest renders of modes (N, 6) to images (N, 3, H, W), from a first guess of the finish (N, 3)."""
    rows = zip(*(part.cpu().split(CHUNK) for part in (images, modes, finish)), strict=True)
    fits = [_fit(target, mode, guess, steps) for target, mode, guess in rows]
    found = [torch.cat(part).to(images.device) for part in zip(*fits, strict=True)]
    return Nearest(*found)


def _fit(target: Tensor, modes: Tensor, finish: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the finish and the residual of the best of `steps` Gauss-Newton steps and their start."""
    factors = torch.cat([torch.zeros(len(target), world.JITTERS), finish], dim=1).clamp(LOW, HIGH)
    best, smallest = factors, torch.full((len(target),), torch.inf)
    for step in range(steps + 1):
        scene = _scene(modes, factors)
        distance = distances(scene, target.shape[-1])
        render = paint(scene, distance)
        error = (render - target).flatten(1)
        size = error.square().mean(1)
        best = torch.where((size < smallest)[:, None], factors, best)
        smallest = torch.minimum(size, smallest)
        if step < steps:
            factors = (factors - _step(_jacobian(modes, factors, distance, render), error)).clamp(LOW, HIGH)
    return best[:, world.JITTERS :], smallest.sqrt()


def _step(jacobian: Tensor, error: Tensor) -> Tensor:
    """Return the damped Gauss-Newton step (N, 8)."""
    normal = jacobian @ jacobian.mT + DAMPING * torch.eye(FACTORS)
    return torch.linalg.solve(normal, (jacobian @ error[:, :, None]).squeeze(2))


def _jacobian(modes: Tensor, factors: Tensor, distance: Tensor, render: Tensor) -> Tensor:
    """Return the finite differences of the render in every factor, (N, 8, pixels)."""
    probes = factors + PROBE * torch.eye(FACTORS)[:, None]  # (8, N, 8)
    scenes = _scene(modes.repeat(FACTORS, 1), probes.flatten(0, 1))
    moved = distances(_scene(modes.repeat(MOVING, 1), probes[:MOVING].flatten(0, 1)), render.shape[-1])
    still = distance.repeat(FACTORS - MOVING, 1, 1)
    renders = paint(scenes, torch.cat([moved, still])).view(FACTORS, *render.shape)
    return ((renders - render) / PROBE).flatten(2).transpose(0, 1)


def _scene(modes: Tensor, factors: Tensor) -> world.Scene:
    return world.scene(modes, *factors.split([world.JITTERS, len(FINISH)], dim=1))
