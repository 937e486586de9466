"""The oracle network reads the content and the finish of an image, and embeds it for metrics."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.shapes.attributes import CARDINALITIES, FINISH
from rdt.shapes.nearest import nearest_render
from rdt.weights import load_tensors, locate

WIDTH = 32
REMEMBERED = 8192  # images whose reading is kept, since several measures and judges read the same images


@dataclass(frozen=True)
class Reading:
    """Holds what the oracle reads in N images."""

    modes: Tensor  # (N, 6), the index of each attribute's value
    finish: Tensor  # (N, 3), in [0, 1] where the finish is natural
    residual: Tensor  # (N,), RMS pixel distance to the nearest render of the mode; 0 is natural
    embedding: Tensor  # (N, 64), in which diversity is measured

    def rows(self) -> list["Reading"]:
        """Return the reading of each image by itself."""
        parts = (getattr(self, field.name).split(1) for field in fields(self))
        return [Reading(*row) for row in zip(*parts, strict=True)]

    @staticmethod
    def cat(rows: Sequence["Reading"]) -> "Reading":
        """Return the readings of several images as one."""
        return Reading(*(torch.cat([getattr(row, field.name) for row in rows]) for field in fields(Reading)))


class Oracle(nn.Module):
    """Reads images (N, 3, 32, 32) in [0, 1] by a small CNN with a head for each attribute and one for the finish."""

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
        self.finish = nn.Linear(64, len(FINISH))
        self.seen: OrderedDict[bytes, Reading] = OrderedDict()  # by the digest of an image

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

    def logits(self, features: Tensor) -> list[Tensor]:
        """Return the logits (N, cardinality) of each attribute at embeddings (N, 64)."""
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def read(self, images: Tensor) -> Reading:
        """Return modes and embedding of images (N, 3, 32, 32), and finish and residual of the nearest render of each.

        The result is on the host; an image that was read before is not read again.
        """
        keys = [blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.cpu()]
        new = [k for k, key in enumerate(keys) if key not in self.seen]
        if new:
            self.seen.update(zip([keys[k] for k in new], self._read(images[new]).rows(), strict=True))
        found = Reading.cat([self.seen[key] for key in keys])
        while len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)
        return found

    def _read(self, images: Tensor) -> Reading:
        embedding = self(images)
        modes = torch.stack([logit.argmax(1) for logit in self.logits(embedding)], dim=1)
        nearest = nearest_render(images, modes, self.finish(embedding))
        return Reading(modes.cpu(), nearest.finish.cpu(), nearest.residual.cpu(), embedding.cpu())


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
