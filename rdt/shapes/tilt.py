"""Exponential tilts of independent attributes, and the rate at which they reach a given diversity."""

import torch
from torch import Tensor

from rdt.shapes.distribution import OWNER, VALUE, diversity
from rdt.shapes.world import CARDINALITIES, FREE

DECADES = 6  # the rates that are searched lie within 10^-6 and 10^6 over the steepest slope
HALVINGS = 60


def tilted(logits: Tensor, stated: Tensor) -> Tensor:
    """Marginals (..., P, 24) proportional to exp(logits (..., P, 24)) in each attribute; what is stated holds."""
    asked = stated[:, OWNER]
    logits = logits.masked_fill((asked != FREE) & (asked != VALUE), -torch.inf)
    return torch.cat([block.softmax(-1) for block in logits.split(CARDINALITIES, dim=-1)], dim=-1)


def levels(count: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Diversities from start to end, dense near 1, where utility rises with the root of what is given up, (count,)."""
    return 1 - torch.linspace((1 - start) ** 0.5, (1 - end) ** 0.5, count, dtype=torch.float64).square()


def rates(slopes: Tensor, stated: Tensor, targets: Tensor) -> Tensor:
    """The rate r >= 0 at which tilts by r * slopes (P, 24) have a target diversity on average, (K,) -> (K,)."""
    scale = slopes.abs().max().clamp(min=1e-12)
    low, high = torch.full_like(targets, -DECADES), torch.full_like(targets, DECADES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = diversity(tilted((10**middle / scale)[:, None, None] * slopes, stated), stated).mean(1)
        low, high = torch.where(reached > targets, middle, low), torch.where(reached > targets, high, middle)
    return torch.where(targets >= 1, torch.zeros_like(targets), 10**high / scale)
