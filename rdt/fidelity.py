"""How far images went from the base model's images, as distances between the distributions of their features.

FID: Heusel et al. 2017. KID: Binkowski et al. 2018. CMMD: Jayasumana et al. 2024. Precision and recall: Kynkaanniemi et
al. 2019. Density and coverage: Naeem et al. 2020. Every distance takes the images' features (N, D) and the base's
features (M, D), and returns a () tensor.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Distance = Callable[[Tensor, Tensor], Tensor]  # (features (N, D), base's features (M, D)) -> ()
BANDWIDTH, CMMD_SCALE = 10.0, 1000.0
FLOOR = 1e-10  # added to eigenvalues before their logarithm


class Overall(nn.Module):
    """Measure all images of an evaluation by one embedding: their diversity, and their distances from the base's."""

    def __init__(
        self,
        *,
        embedder: Callable[[Tensor], Tensor],
        diversity: Mapping[str, Callable[[Tensor], Tensor]],
        fidelity: Mapping[str, Distance],
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.diversity, self.fidelity = dict(diversity), dict(fidelity)

    def forward(self, features: Tensor, base: Tensor | None) -> dict[str, float]:
        """Return {"diversity/...": value, "fidelity/...": value} for features (N, D) and the base's (M, D).

        `base` is None when the features are the base's own; there is no fidelity then.
        """
        values = {f"diversity/{name}": float(statistic(features)) for name, statistic in self.diversity.items()}
        if base is not None:
            values |= {f"fidelity/{name}": float(distance(features, base)) for name, distance in self.fidelity.items()}
        return values

    def check(self, count: int) -> None:
        """Raise ValueError if a statistic or distance needs more than `count` images; no image is sampled for this."""
        width = self.embedder(torch.rand(1, 3, 224, 224)).shape[1]
        noise = torch.randn(2, count, width, generator=torch.Generator().manual_seed(0))
        self(noise[0], noise[1])


def fid(features: Tensor, base: Tensor) -> Tensor:
    """Return ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the means and covariances.

    With S = X^T X the root's trace is the nuclear norm of X1 X2^T, which needs no root of a singular matrix.
    """
    (m1, x1), (m2, x2) = _centred(features), _centred(base)
    cross = torch.linalg.svdvals(_triangle(x1) @ _triangle(x2).T).sum()
    return (m1 - m2).square().sum() + x1.square().sum() + x2.square().sum() - 2 * cross


def kid(features: Tensor, base: Tensor) -> Tensor:
    """Return the unbiased squared MMD under the kernel (x.y / D + 1)^3; it may be negative."""
    x, y = features.double(), base.double()
    return _off_diagonal_mean(_cubic(x, x)) + _off_diagonal_mean(_cubic(y, y)) - 2 * _cubic(x, y).mean()


def cmmd(features: Tensor, base: Tensor) -> Tensor:
    """Return 1000 times the biased squared MMD of unit features under exp(-||x - y||^2 / (2 10^2)); meant for CLIP."""
    x, y = F.normalize(features.double(), dim=-1), F.normalize(base.double(), dim=-1)
    return CMMD_SCALE * (_gaussian(x, x).mean() + _gaussian(y, y).mean() - 2 * _gaussian(x, y).mean())


def precision(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Return the share of images that are closer to some base image than that image's k-th neighbour."""
    return (_distances(base, features) < _radii(base, k)[:, None]).any(0).double().mean()


def recall(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Return the share of base images that are closer to some image than that image's k-th neighbour."""
    return precision(base, features, k)


def density(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Return the mean number, over k, of base images whose k-th neighbour is farther than the image; may exceed 1."""
    return (_distances(base, features) < _radii(base, k)[:, None]).double().sum(0).mean() / k


def coverage(features: Tensor, base: Tensor, k: int = 5) -> Tensor:
    """Return the share of base images that have an image closer than their k-th neighbour."""
    return (_distances(base, features).amin(1) < _radii(base, k)).double().mean()


def spectral_distance(features: Tensor, base: Tensor) -> Tensor:
    """Return the Euclidean distance of the eigenvalues of the two covariances, sorted.

    It and `log10_spectral_distance` are those of the public experiment code of AIG's first author (NeMo-Aligner,
    branch `multicrop_rm`), on Inception's features; there the eigenvalues are not sorted.
    """
    return (_spectrum(features) - _spectrum(base)).norm()


def log10_spectral_distance(features: Tensor, base: Tensor) -> Tensor:
    """Return the Euclidean distance of log10(l_i + 1e-10) of the sorted eigenvalues of the two covariances.

    With fewer images than dimensions the smallest eigenvalues are 0; they cancel if both have equally many images.
    """
    return ((_spectrum(features) + FLOOR).log10() - (_spectrum(base) + FLOOR).log10()).norm()


def log_spectral_distance(features: Tensor, base: Tensor) -> Tensor:
    """Return the sum over i of (ln l_i - ln l_i^base)^2 of the sorted eigenvalues of the covariances plus 1e-10.

    Provenance: class `LSCD` of a public fork of ImageReFL, on Inception's features. Up to the covariance's divisor, N
    in place of N - 1, it is (ln 10)^2 times the square of `log10_spectral_distance`. It measures spread alone: rotating
    or shifting the features does not change it. ValueError unless there are more images than dimensions: 1e-10 would
    dominate.
    """
    spectra = [_log_spectrum(x) for x in (features, base)]
    return (spectra[0] - spectra[1]).square().sum()


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and X (N, D), in float64, such that X^T X is the unbiased covariance."""
    x = features.double()
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features has shape {tuple(x.shape)}; fidelity wants (N, D) with N >= 2")
    return x.mean(0), (x - x.mean(0)) / math.sqrt(len(x) - 1)


def _triangle(x: Tensor) -> Tensor:
    """Return a matrix of at most D rows that has the same X^T X."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    """Return the mean of a kernel matrix (N, N) without its diagonal."""
    return (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))


def _gaussian(x: Tensor, y: Tensor) -> Tensor:
    return (-_distances(x, y).square() / (2 * BANDWIDTH**2)).exp()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return Euclidean distances (N, M), computed without a matrix product, which would cancel digits."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int) -> Tensor:
    """Return the distance (N,) of each row of x (N, D) to its k-th neighbour among the others."""
    if k >= len(x):
        raise ValueError(f"k={k} neighbours among N={len(x)} images; want k < N")
    return _distances(x, x).kthvalue(k + 1, dim=1).values  # the first is the distance to itself, 0


def _spectrum(features: Tensor) -> Tensor:
    """Return the eigenvalues (D,) of the unbiased covariance, the largest first; beyond the rank they are 0."""
    found = torch.linalg.svdvals(_triangle(_centred(features)[1])).square()
    return F.pad(found, (0, features.shape[1] - len(found)))


def _log_spectrum(features: Tensor) -> Tensor:
    n, d = features.shape
    if n <= d:
        raise ValueError(f"the spectrum of D={d} features needs more than N={n} images")
    x = features.double() - features.double().mean(0)
    return (torch.linalg.eigvalsh(x.T @ x / n) + FLOOR).log()  # ascending
