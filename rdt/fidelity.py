"""How far images went from the base model's, as distances of their feature distributions.

FID: Heusel et al. 2017. KID: Binkowski et al. 2018. CMMD: Jayasumana et al. 2024. Precision and recall: Kynkaanniemi et
al. 2019. Density and coverage: Naeem et al. 2020. All take features (N, D) and the base's (M, D) and give ().
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Comparison = Callable[[Tensor, Tensor], Tensor]
BANDWIDTH, CMMD_SCALE = 10.0, 1000.0
FLOOR = 1e-10  # of eigenvalues


def fid(features: Tensor, base: Tensor) -> Tensor:
    """||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means and covariances.

    With S = X^T X the root's trace is the nuclear norm of X1 X2^T, which needs no root of a singular matrix.
    """
    (m1, x1), (m2, x2) = _centred(features), _centred(base)
    cross = torch.linalg.svdvals(_triangle(x1) @ _triangle(x2).T).sum()
    return (m1 - m2).square().sum() + x1.square().sum() + x2.square().sum() - 2 * cross


def kid(features: Tensor, base: Tensor) -> Tensor:
    """Unbiased squared MMD under the kernel (x.y / D + 1)^3; may be negative."""
    x, y = features.double(), base.double()
    return _others(_cubic(x, x)) + _others(_cubic(y, y)) - 2 * _cubic(x, y).mean()


def cmmd(features: Tensor, base: Tensor) -> Tensor:
    """1000 times the biased squared MMD of unit features under exp(-||x - y||^2 / (2 10^2)); meant for CLIP's."""
    x, y = F.normalize(features.double(), dim=-1), F.normalize(base.double(), dim=-1)
    return CMMD_SCALE * (_gaussian(x, x).mean() + _gaussian(y, y).mean() - 2 * _gaussian(x, y).mean())


def precision(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Share of images within the k-th neighbour's distance of some base image."""
    return (_distances(base, features) < _radii(base, k)[:, None]).any(0).double().mean()


def recall(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Share of base images within the k-th neighbour's distance of some image."""
    return precision(base, features, k)


def density(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Mean number of base images whose k-th neighbour's distance an image is within, over k; may exceed 1."""
    return (_distances(base, features) < _radii(base, k)[:, None]).double().sum(0).mean() / k


def coverage(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Share of base images that have an image within their k-th neighbour's distance."""
    return (_distances(base, features).amin(1) < _radii(base, k)).double().mean()


def log_spectral_distance(features: Tensor, base: Tensor) -> Tensor:
    """Sum over i of (ln l_i - ln l_i^base)^2 of the sorted eigenvalues of the covariances plus 1e-10.

    Provenance: class `LSCD` of a public fork of ImageReFL, on Inception's features; it may be the spectral distance
    that AIG (arXiv 2409.06493) reports, whose formula we have not seen. It knows spread, not place: rotations and
    shifts of the features do not change it. With no more images than dimensions the 1e-10 would be all it sees.
    """
    spectra = [_log_spectrum(x) for x in (features, base)]
    return (spectra[0] - spectra[1]).square().sum()


class Overall(nn.Module):
    """The measure of all images of an evaluation: statistics of one embedding, alone and beside the base's."""

    def __init__(
        self,
        *,
        embedder: Callable[[Tensor], Tensor],
        diversity: Mapping[str, Callable[[Tensor], Tensor]],
        fidelity: Mapping[str, Comparison],
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.diversity, self.fidelity = dict(diversity), dict(fidelity)

    def forward(self, features: Tensor, base: Tensor | None) -> dict[str, float]:
        """Features (N, D) and the base's, None of the base itself -> {"diversity/...": ., "fidelity/...": .}."""
        values = {f"diversity/{name}": float(alone(features)) for name, alone in self.diversity.items()}
        if base is not None:
            values |= {f"fidelity/{name}": float(beside(features, base)) for name, beside in self.fidelity.items()}
        return values

    def check(self, count: int) -> None:
        """ValueError where a statistic cannot be had of so many images, before any is made."""
        width = self.embedder(torch.rand(1, 3, 224, 224)).shape[1]
        noise = torch.randn(2, count, width, generator=torch.Generator().manual_seed(0))
        self(noise[0], noise[1])


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and X (N, D) with X^T X the unbiased covariance, in float64."""
    x = features.double()
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features has shape {tuple(x.shape)}; fidelity wants (N, D) with N >= 2")
    return x.mean(0), (x - x.mean(0)) / math.sqrt(len(x) - 1)


def _triangle(x: Tensor) -> Tensor:
    """A matrix of at most D rows with the same X^T X."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _others(kernel: Tensor) -> Tensor:
    """Mean of a kernel (N, N) without its diagonal."""
    return (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))


def _gaussian(x: Tensor, y: Tensor) -> Tensor:
    return (-_distances(x, y).square() / (2 * BANDWIDTH**2)).exp()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, (N, M), without the cancellation of the matrix product's way."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each of x (N, D) to its k-th neighbour among the others: (N,)."""
    if k >= len(x):
        raise ValueError(f"k={k} neighbours among N={len(x)} images; want k < N")
    return _distances(x, x).kthvalue(k + 1, dim=1).values  # its own distance, 0, is the first


def _log_spectrum(features: Tensor) -> Tensor:
    n, d = features.shape
    if n <= d:
        raise ValueError(f"the spectrum of D={d} features needs more than N={n} images")
    x = features.double() - features.double().mean(0)
    return (torch.linalg.eigvalsh(x.T @ x / n) + FLOOR).log()  # ascending
