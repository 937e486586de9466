"""Statistics of how different the images of a set are, computed from their embeddings.

Every statistic takes features (n, D) and returns a () tensor. Vendi score: Friedman and Dieng, 2023. Truncated CLIP
entropy: as in DAS (Kim et al., 2025).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Statistic = Callable[[Tensor], Tensor]  # features (n, D) -> ()


class Diversity(nn.Module):
    """Measure a set of images by named statistics of one embedding, which is computed once."""

    def __init__(self, *, embedder: Callable[[Tensor], Tensor], statistics: dict[str, Statistic]):
        super().__init__()
        self.embedder = embedder
        self.statistics = dict(statistics)

    @torch.no_grad()
    def forward(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return one number per statistic for the images (n, 3, H, W) in [0, 1] of one prompt."""
        features = self.embedder(images)
        return {name: float(statistic(features)) for name, statistic in self.statistics.items()}


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Return the mean cosine distance over all pairs, in [0, n / (n - 1)], at the cost of one mean."""
    n, mean = len(features), _unit(features).mean(0)
    return n / (n - 1) * (1 - mean.square().sum())


def mean_pairwise_squared_distance(features: Tensor) -> Tensor:
    """Return the mean of ||e_i - e_j||^2 over all pairs, at the cost of one variance.

    For LPIPS's embedding this is the mean pairwise LPIPS.
    """
    _check(features)
    return 2 * features.var(0).sum(dtype=torch.float64)


def vendi(features: Tensor, order: float = 1.0) -> Tensor:
    """Return the effective number of different rows, in [1, n]: exp of the Renyi entropy of the given order."""
    if order < 0:
        raise ValueError(f"order={order} is negative; want 0, 1, 2, ... or inf")
    unit = _unit(features)
    n, d = unit.shape
    gram = unit.T @ unit if d < n else unit @ unit.T  # both have the same spectrum, apart from zeros
    spectrum = torch.linalg.eigvalsh(gram / n).clamp_min(0)
    spectrum = spectrum[spectrum > 1e-12]
    if order == 1:
        return (-torch.xlogy(spectrum, spectrum).sum()).exp()
    if order == float("inf"):
        return 1 / spectrum.max()
    return spectrum.pow(order).sum().pow(1 / (1 - order))


def truncated_entropy(features: Tensor, k: int = 20) -> Tensor:
    """Return TCE_k = k/2 ln(2 pi e) + 1/2 sum of ln of the k largest eigenvalues of the covariance, in nats.

    For CLIP's unnormalised features this is the truncated CLIP entropy. ValueError if there are k images or fewer.
    """
    n = len(features)
    if k >= n:
        raise ValueError(f"k={k} eigenvalues of the covariance of n={n} features; want k < n")
    spread = torch.linalg.svdvals((features.double() - features.double().mean(0)) / math.sqrt(n - 1))
    return k / 2 * math.log(2 * math.pi * math.e) + spread[:k].log().sum()


def _check(features: Tensor) -> None:
    """Raise ValueError unless features are (n, D) with at least two rows."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features has shape {tuple(features.shape)}; diversity wants (n, D) with n >= 2")


def _unit(features: Tensor) -> Tensor:
    """Return features (n, D) scaled to norm 1, in float64; ValueError if a norm is 0 or not finite."""
    _check(features)
    norms = features.double().norm(dim=-1)
    if not (norms.isfinite() & (norms > 0)).all():
        raise ValueError(f"features have norms from {norms.min():g} to {norms.max():g}; want finite and positive")
    return F.normalize(features.double(), dim=-1)
