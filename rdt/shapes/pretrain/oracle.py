"""The oracle stage trains on renders with the blur, noise and colour drift that generated images have."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.shapes.oracle import Oracle
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import render
from rdt.shapes.world import random_modes, random_scene

PLAN = Plan("oracle", steps=1600, lr=3e-3)
BATCH = 64


def train(work: Path, seed: int) -> Oracle:
    """Return the trained oracle."""
    torch.manual_seed(seed)
    oracle = Oracle()

    def loss(generator: torch.Generator) -> Tensor:
        modes = random_modes(BATCH, generator)
        images = degrade(render(random_scene(modes, generator)), generator)
        losses = [F.cross_entropy(logit, modes[:, k]) for k, logit in enumerate(oracle.logits(images))]
        return torch.stack(losses).mean()

    return fit(PLAN, oracle, loss, work, seed)


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images blurred, with noise and a drift in colour, each by a random strength."""
    strength = torch.rand(len(images), 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, strength * torch.rand(len(images), 1, 1, 1, generator=generator))
    noise = torch.randn(images.shape, generator=generator)
    drift = torch.randn(len(images), 3, 1, 1, generator=generator)
    return (images + 0.06 * strength * noise + 0.03 * strength * drift).clamp(0, 1)
