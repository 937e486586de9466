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
MOVED = 4  # the unmoved render, and those moved in x, y and radius: the other factors keep the distances
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
def nearest_render(images: Tensor, modes: Tensor, finish: Tensor, steps: int = 4) -> Nearest:
    """Return the nearest renders of modes (N, 6) to images (N, 3, H, W), from a first guess of the finish (N, 3)."""
    rows = zip(*(part.cpu().split(CHUNK) for part in (images, modes, finish)), strict=True)
    fits = [_fit(target, mode, guess, steps) for target, mode, guess in rows]
    found = [torch.cat(part).to(images.device) for part in zip(*fits, strict=True)]
    return Nearest(*found)


def _fit(target: Tensor, modes: Tensor, finish: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the finish and the residual of the best of `steps` Gauss-Newton steps and their start."""
    factors = torch.cat([torch.zeros(len(target), world.JITTERS), finish], dim=1).clamp(LOW, HIGH)
    best, smallest = factors, torch.full((len(target),), torch.inf)
    for _ in range(steps + 1):
        error, jacobian = _linearised(target, modes, factors)
        size = error.square().mean(1)
        best = torch.where((size < smallest)[:, None], factors, best)
        smallest = torch.minimum(size, smallest)
        normal = jacobian @ jacobian.mT + DAMPING * torch.eye(FACTORS)
        step = torch.linalg.solve(normal, (jacobian @ error[:, :, None]).squeeze(2))
        factors = (factors - step).clamp(LOW, HIGH)
    return best[:, world.JITTERS :], smallest.sqrt()


def _linearised(target: Tensor, modes: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error of the render, (N, pixels), and its finite-difference Jacobian, (N, 8, pixels)."""
    probes = torch.cat([factors[None], factors + PROBE * torch.eye(FACTORS)[:, None]])  # (9, N, 8)
    jitter, finish = probes.flatten(0, 1).split([world.JITTERS, len(FINISH)], dim=1)
    scenes = world.scene(modes.repeat(FACTORS + 1, 1), jitter, finish)
    moved = world.scene(modes.repeat(MOVED, 1), *(part[: MOVED * len(modes)] for part in (jitter, finish)))
    distance = distances(moved, target.shape[-1])
    still = distance[: len(modes)].repeat(FACTORS + 1 - MOVED, 1, 1)
    renders = paint(scenes, torch.cat([distance, still])).reshape(FACTORS + 1, len(target), -1)
    return renders[0] - target.flatten(1), ((renders[1:] - renders[:1]) / PROBE).transpose(0, 1)
