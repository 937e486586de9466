"""Exponential tilts of independent attributes, and the rate at which such a tilt reaches a given diversity."""

import torch
from torch import Tensor

from rdt.shapes.attributes import CARDINALITIES, FREE
from rdt.shapes.distribution import OWNER, VALUE, free_entropy

DECADES = 6  # the search covers rates between 10^-6 and 10^6, divided by the steepest slope
HALVINGS = 60


def tilted(logits: Tensor, stated: Tensor) -> Tensor:
    """Return marginals (..., P, 24) proportional to exp(logits) in free attributes; stated values get 1."""
    wanted = stated[:, OWNER]
    logits = logits.masked_fill((wanted != FREE) & (wanted != VALUE), -torch.inf)
    return torch.cat([block.softmax(-1) for block in logits.split(CARDINALITIES, dim=-1)], dim=-1)


def levels(count: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Return diversities from start to end, (count,), dense near 1, where utility rises with the root of the loss."""
    return 1 - torch.linspace((1 - start) ** 0.5, (1 - end) ** 0.5, count, dtype=torch.float64).square()


def rates(slopes: Tensor, stated: Tensor, targets: Tensor) -> Tensor:
    """Return the rates r >= 0, (K,), at which tilts by r * slopes (P, 24) reach the mean diversities `targets` (K,)."""
    scale = slopes.abs().max().clamp(min=1e-12)
    low, high = torch.full_like(targets, -DECADES), torch.full_like(targets, DECADES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = free_entropy(tilted((10**middle / scale)[:, None, None] * slopes, stated), stated).mean(1)
        low, high = torch.where(reached > targets, middle, low), torch.where(reached > targets, high, middle)
    return torch.where(targets >= 1, torch.zeros_like(targets), 10**high / scale)
