"""Which stored states are replayed: strategies give each (trajectory, step) a probability."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stock:
    """What a sampling strategy sees of the M stored trajectories."""

    rewards: Tensor  # (M,) double
    floor: float  # the smallest reward ever added where that is negative, else 0
    latest: Tensor  # (M,) bool: of the latest add
    num_steps: int


Sampling = Callable[[Stock], Tensor]  # -> (M, T), proportional to the probability of (trajectory, step)


def uniform(stock: Stock) -> Tensor:
    """Every stored state alike."""
    return stock.rewards.new_ones(len(stock.rewards), stock.num_steps)


def on_policy(stock: Stock) -> Tensor:
    """Every state of the latest trajectories alike."""
    return uniform(stock) * stock.latest[:, None]


def prioritized(stock: Stock, *, gamma: float, omega: float) -> Tensor:
    """max(r - floor, 0)^omega gamma^(T - 1 - i).

    Where no trajectory has a positive priority all have the same one: what adding an epsilon tends to.
    """
    priority = (stock.rewards - stock.floor).clamp(min=0)
    priority = priority**omega if priority.any() else torch.ones_like(priority)
    return priority[:, None] * gamma ** torch.arange(stock.num_steps - 1, -1, -1).to(priority)
