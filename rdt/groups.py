"""Groups, the samples of one prompt: which candidates are kept, how each differs from the rest, and shaping by that.

Shaping by potentials: Ng, Harada and Russell, ICML 1999. As a baseline: Wiewiora, JAIR 2003.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Concentration = Callable[[Tensor, int], Tensor]  # rewards (P, N), K -> columns (P, K), ascending
RESOLUTION = 1e-4  # cosine distances nearer than this are alike: rounding is not stretched to [0, 1]


def everything(rewards: Tensor, keep: int) -> Tensor:
    """All N, whatever `keep` says."""
    return torch.arange(rewards.shape[1], device=rewards.device).expand(rewards.shape)


def window(rewards: Tensor, keep: int) -> Tensor:
    """The K of N whose largest and smallest reward lie nearest together; of equally near ones the lowest."""
    values, order = rewards.sort(dim=1, stable=True)
    spread = values[:, keep - 1 :] - values[:, : values.shape[1] - keep + 1]
    return _ascending(order.gather(1, spread.argmin(1, keepdim=True) + torch.arange(keep, device=order.device)))


def sigma(rewards: Tensor, keep: int) -> Tensor:
    """The K of N with |r - mean| <= c std, where c is each group's own: the least that keeps K."""
    return _ascending((rewards - rewards.mean(1, keepdim=True)).abs().argsort(dim=1, stable=True)[:, :keep])


def trim(rewards: Tensor, keep: int) -> Tensor:
    """The K of N left when as many are dropped from either end; of an odd number one more from the top."""
    first = (rewards.shape[1] - keep) // 2
    return _ascending(rewards.argsort(dim=1, stable=True)[:, first : first + keep])


def distinctness(features: Tensor) -> Tensor:
    """d_j = 1 - mean_{l != j} cos(f_j, f_l) of features (P, K, D): (P, K), at the cost of one sum per group."""
    unit = F.normalize(features.double(), dim=-1)
    own = unit.square().sum(-1)
    alike = (unit @ unit.sum(1).unsqueeze(-1)).squeeze(-1) - own
    return (1 - alike / (features.shape[1] - 1)).to(features.dtype)


def potential(d: Tensor) -> Tensor:
    """d (P, K) stretched to [0, 1] within each group; 0 for all where they do not differ."""
    low, high = d.amin(1, keepdim=True), d.amax(1, keepdim=True)
    return (d - low) / (high - low).clamp(min=RESOLUTION)


def shaping(potentials: Tensor, gamma: float) -> Tensor:
    """F_i = gamma Phi(x_{i+1}) - Phi(x_i) of potentials (..., T + 1): (..., T)."""
    return gamma * potentials[..., 1:] - potentials[..., :-1]


def to_go(rewards: Tensor, gamma: float) -> Tensor:
    """What step i still brings, sum_{k >= i} gamma^k F_k, of rewards F (..., T): (..., T)."""
    discounts = gamma ** torch.arange(rewards.shape[-1]).to(rewards)
    return (discounts * rewards).flip(-1).cumsum(-1).flip(-1)


def _ascending(columns: Tensor) -> Tensor:
    return columns.sort(dim=1).values
