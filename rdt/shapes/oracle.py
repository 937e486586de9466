"""The oracle: reads an image back into attributes, says how natural it is, and embeds it for diversity metrics."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rdt.shapes import world
from rdt.shapes.render import coverage
from rdt.shapes.world import CARDINALITIES, Scene

WIDTH = 32


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
        oracle.load_state_dict({k: v.float() for k, v in load_file(checkpoint).items()})
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

    def residual(self, images: Tensor, steps: int = 12) -> Tensor:
        """Root mean squared distance to the nearest render of the mode that was read, (N,); 0 is perfectly natural."""
        return _residual(images, self.read(images), steps)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


@torch.enable_grad()
def _residual(images: Tensor, modes: Tensor, steps: int) -> Tensor:
    """Position and radius are refined by gradient steps inside their jitter; colours follow in closed form."""
    images, modes = images.detach(), modes.to("cpu")
    raw = torch.zeros(len(images), 3, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.4)
    for _ in range(steps):
        error = _error(images.cpu(), modes, raw)
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    with torch.no_grad():
        return _error(images.cpu(), modes, raw).sqrt().to(images.device)


def _error(images: Tensor, modes: Tensor, raw: Tensor) -> Tensor:
    jitter = torch.cat([raw.tanh(), torch.zeros(len(raw), 2)], dim=1)
    guess = world.scene(modes, jitter)
    cover = coverage(guess, images.shape[-1])[:, None]
    foreground, background = _colours(images, cover, guess)
    fitted = background[:, :, None, None] * (1 - cover) + foreground[:, :, None, None] * cover
    return (fitted - images).square().mean(dim=(1, 2, 3))


def _colours(images: Tensor, cover: Tensor, guess: Scene) -> tuple[Tensor, Tensor]:
    """Least-squares foreground and background (N, 3), kept within the world's jitter of the mode's own colours."""
    fore = (images * cover).sum(dim=(2, 3)) / cover.sum(dim=(2, 3)).clamp(min=1e-3)
    back = (images * (1 - cover)).sum(dim=(2, 3)) / (1 - cover).sum(dim=(2, 3)).clamp(min=1e-3)
    near = world.GRAY_JITTER
    gray = torch.maximum(torch.minimum(back.mean(1, keepdim=True), guess.background + near), guess.background - near)
    hue = 0.1  # what five degrees of hue do to one channel, rounded up
    return torch.maximum(torch.minimum(fore, guess.foreground + hue), guess.foreground - hue), gray.expand(-1, 3)
