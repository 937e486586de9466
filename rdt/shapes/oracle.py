"""The oracle network reads the attributes of an image, measures how natural it is, and embeds it for metrics."""

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.shapes import world
from rdt.shapes.attributes import CARDINALITIES
from rdt.shapes.render import render
from rdt.weights import load_tensors, locate

WIDTH = 32
PROBE, DAMPING = 0.05, 1e-2  # finite difference in the jitter, and ridge, of the fit behind the residual


class Oracle(nn.Module):
    """A small CNN that classifies each attribute of images (N, 3, 32, 32) in [0, 1], with one head per attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(5, WIDTH, 1),  # RGB and two coordinate planes: position is an attribute
            _block(WIDTH, 2 * WIDTH, 2),
            _block(2 * WIDTH, 2 * WIDTH, 2),
            _block(2 * WIDTH, 2 * WIDTH, 2),
        )
        self.embed = nn.Linear(2 * WIDTH * 16, 64)
        self.heads = nn.ModuleList(nn.Linear(64, k) for k in CARDINALITIES)

    @classmethod
    def load(cls, checkpoint: Path) -> "Oracle":
        """Return the frozen oracle of a checkpoint."""
        oracle = cls()
        oracle.load_state_dict({k: v.float() for k, v in load_tensors(checkpoint).items()})
        return oracle.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding, (N, 64), in which diversity is measured."""
        axis = torch.linspace(-1, 1, images.shape[-1], device=images.device)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        planes = torch.stack([rows, columns]).expand(len(images), -1, -1, -1)
        hidden = self.body(torch.cat([2 * images - 1, planes], dim=1))
        return F.silu(self.embed(hidden.flatten(1)))

    def logits(self, images: Tensor) -> list[Tensor]:
        """Return the logits (N, cardinality) of each attribute."""
        features = self(images)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Return the most likely value of each attribute, as indices (N, 6)."""
        return torch.stack([logit.argmax(1) for logit in self.logits(images)], dim=1)

    def residual(self, images: Tensor, steps: int = 4) -> Tensor:
        """Return the RMS pixel distance to the nearest render of the mode that was read, (N,); 0 is natural."""
        return _residual(images, self.read(images), steps)


def shared_oracle(source: str, device: torch.device | str = "cpu") -> Oracle:
    """Return the frozen oracle of a checkpoint, loaded once per file and device."""
    return _load(locate(source), str(device))


@lru_cache
def _load(path: Path, device: str) -> Oracle:
    return Oracle.load(path).to(device)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


@torch.no_grad()
def _residual(images: Tensor, modes: Tensor, steps: int) -> Tensor:
    """Return the smallest distance, (N,), along `steps` Gauss-Newton steps in the five jitters, inside their range."""
    target, modes = images.cpu(), modes.cpu()
    jitter = torch.zeros(len(target), 5)
    best = torch.full((len(target),), torch.inf)
    for _ in range(steps):
        error, jacobian = _linearised(target, modes, jitter)
        best = torch.minimum(best, error.square().mean(1))
        normal = jacobian @ jacobian.mT + DAMPING * torch.eye(5)
        step = torch.linalg.solve(normal, (jacobian @ error[:, :, None]).squeeze(2))
        jitter = (jitter - step).clamp(-1, 1)
    error = (render(world.scene(modes, jitter), target.shape[-1]) - target).flatten(1)
    return torch.minimum(best, error.square().mean(1)).sqrt().to(images.device)


def _linearised(target: Tensor, modes: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error of the render, (N, pixels), and its finite-difference Jacobian, (N, 5, pixels)."""
    probes = torch.cat([jitter[:, None], jitter[:, None] + PROBE * torch.eye(5)], dim=1)
    scenes = world.scene(modes.repeat_interleave(6, dim=0), probes.flatten(0, 1))
    renders = render(scenes, target.shape[-1]).reshape(len(target), 6, -1)
    return renders[:, 0] - target.flatten(1), (renders[:, 1:] - renders[:, :1]) / PROBE
