"""The oracle: reads an image back into attributes, says how natural it is, and embeds it for diversity metrics."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.shapes import world
from rdt.shapes.render import render
from rdt.shapes.world import CARDINALITIES
from rdt.weights import load_tensors

WIDTH = 32
PROBE, DAMPING = 0.05, 1e-2  # of the fit behind the residual: finite difference in jitter, and ridge


class Oracle(nn.Module):
    """A small CNN with one head per attribute; images (N, 3, 32, 32) in [0, 1]."""

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
        """The bundled oracle, frozen."""
        oracle = cls()
        oracle.load_state_dict({k: v.float() for k, v in load_tensors(checkpoint).items()})
        return oracle.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embedding (N, 64): the features diversity is measured in."""
        axis = torch.linspace(-1, 1, images.shape[-1], device=images.device)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        planes = torch.stack([rows, columns]).expand(len(images), -1, -1, -1)
        hidden = self.body(torch.cat([2 * images - 1, planes], dim=1))
        return F.silu(self.embed(hidden.flatten(1)))

    def logits(self, images: Tensor) -> list[Tensor]:
        """Per attribute, logits (N, cardinality)."""
        features = self(images)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Attribute indices (N, 6)."""
        return torch.stack([logit.argmax(1) for logit in self.logits(images)], dim=1)

    def residual(self, images: Tensor, steps: int = 4) -> Tensor:
        """Root mean squared distance to the nearest render of the mode that was read, (N,); 0 is perfectly natural."""
        return _residual(images, self.read(images), steps)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


@torch.no_grad()
def _residual(images: Tensor, modes: Tensor, steps: int) -> Tensor:
    """Gauss-Newton over the five jitters, inside their range; the best iterate counts. (N,)"""
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
    """Error of the render, (N, pixels), and its finite-difference Jacobian (N, 5, pixels)."""
    probes = torch.cat([jitter[:, None], jitter[:, None] + PROBE * torch.eye(5)], dim=1)
    scenes = world.scene(modes.repeat_interleave(6, dim=0), probes.flatten(0, 1))
    renders = render(scenes, target.shape[-1]).reshape(len(target), 6, -1)
    return renders[:, 0] - target.flatten(1), (renders[:, 1:] - renders[:, :1]) / PROBE
