"""The oracle stage trains on renders with the noise and colour drift that generated images have."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.shapes.oracle import Oracle
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import render
from rdt.shapes.world import random_finish, random_modes, random_scene

PLAN = Plan("oracle", steps=2500, lr=3e-3)
BATCH = 128
BEYOND = 0.3  # how far the finish of training images leaves [0, 1], so that over-cooked images are read as such


def train(work: Path, seed: int) -> Oracle:
    """Return the trained oracle."""
    torch.manual_seed(seed)
    oracle = Oracle()

    def loss(generator: torch.Generator) -> Tensor:
        modes = random_modes(BATCH, generator)
        finish = (1 + 2 * BEYOND) * random_finish(BATCH, generator) - BEYOND
        images = degrade(render(random_scene(modes, generator, finish)), generator)
        features = oracle(images)
        losses = [F.cross_entropy(logit, modes[:, k]) for k, logit in enumerate(oracle.logits(features))]
        return torch.stack(losses).mean() + F.smooth_l1_loss(oracle.finish(features), finish, beta=0.1)

    return fit(PLAN, oracle, loss, work, seed)


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images with noise and a drift in colour, by a random strength; blur would change the finish."""
    strength = torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    drift = torch.randn(len(images), 3, 1, 1, generator=generator)
    return (images + 0.06 * strength * noise + 0.03 * strength * drift).clamp(0, 1)
