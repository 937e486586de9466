"""DiverseGRPO: GRPO that rewards rare clusters of a prompt's images and holds the first steps (arXiv 2512.21514).

The N images of a prompt are clustered by their features, and an image of a cluster of n earns
    R = r + cluster_bonus u sqrt(N / n),
where u is what GRPO divides advantages by (method.std); GRPO's advantages follow. For many images and modes k of mean
reward r_k the policy gradient rests where r_k + cluster_bonus sqrt(1 / w_k) is equal (u = 1), so that the shares are
    w_k = cluster_bonus^2 / (c - r_k)^2,    sum_k w_k = 1,
and modes of equal reward have equal shares; GRPO alone ends in the best mode. Clusters are spectral:
    W_ij = exp(-d_ij^2 / (2 s^2)),    d_ij = 1 - cos(f_i, f_j),    s = median of d_ij, i < j;
the number k of clusters, from 2 to 8, is where the eigenvalues of I - D^-1/2 W D^-1/2 have their largest gap, and the
rows of the eigenvectors of its k smallest (the largest of D^-1/2 W D^-1/2), scaled to norm 1, are grouped by k-means.
The means start from the point farthest from the middle and then, in turn, from the point farthest from those chosen, so
that nothing is drawn.

The regularisation is kl_coef ||m - m_base||^2 / (2 dims), without 1 / std^2, on the first share `kl_within` of the
steps and none after: the first steps decide the layout, which is where diversity is lost. It is no KL: its optimum
shifts the mean of step i by P_{i+1}^T b / kl_coef for a linear reward b, P_{i+1} being the Jacobian of the last state,
and not by std_i^2 of that, so its samples are not the base tilted by the reward.

The bonus and the regularisation are options of GRPO (`cluster_bonus`, `kl_within`, `kl_divide`), which DRIFT and GARDO
take too; without both this is `method=grpo`, bit for bit.

Departures: the paper's text could not be read, only its abstract and two notes of it, and no code is public. The number
of clusters, the width s, k-means' start, the number of steps (a third), the coefficient and the weight of the bonus are
ours. Distances are cosines of `method.embedder`; the paper's are DreamSim's, which diversity=dreamsim takes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 8  # clusters of a group
RESOLUTION = 1e-4  # of cosine distances; smaller ones are rounding


def cluster_sizes(features: Tensor) -> Tensor:
    """Return how many images of its group each image's cluster has, itself included, (P, K, D) -> (P, K)."""
    labels = torch.stack([clusters(group) for group in features])
    return (labels[:, :, None] == labels[:, None]).sum(2)


def rarity(sizes: Tensor) -> Tensor:
    """Return sqrt(N / n) in double precision, for cluster sizes n in groups of N, (P, N) -> (P, N)."""
    return (sizes.shape[1] / sizes.double()).sqrt()


def clusters(features: Tensor) -> Tensor:
    """Return the number of each row's cluster, (K, D) -> (K,); alike rows, or fewer than three, are one cluster."""
    unit = F.normalize(features.double(), dim=-1)
    distances = (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0)
    if len(unit) < 3 or distances.max() < RESOLUTION:
        return torch.zeros(len(unit), dtype=torch.long)
    pairs = distances[tuple(torch.triu_indices(len(unit), len(unit), 1))]
    affinity = (-(distances**2) / (2 * pairs.median().clamp(min=RESOLUTION) ** 2)).exp()
    degrees = affinity.sum(1)
    values, vectors = torch.linalg.eigh(affinity / (degrees[:, None] * degrees).sqrt())
    gaps = values.flip(0).diff()[1:MOST]  # between the k-th and the next of the largest, from k = 2
    count = 2 + int(gaps.argmin())
    return k_means(F.normalize(vectors[:, -count:], dim=1), count)


def k_means(points: Tensor, count: int) -> Tensor:
    """Return the number of each point's cluster, (K, D) -> (K,), from a start that draws nothing."""
    means = farthest(points, count)
    labels = torch.cdist(points, means).argmin(1)
    for _ in range(100):
        sums = F.one_hot(labels, count).to(points)
        means = torch.where(sums.any(0)[:, None], sums.T @ points / sums.sum(0).clamp(min=1)[:, None], means)
        before, labels = labels, torch.cdist(points, means).argmin(1)
        if labels.equal(before):
            break
    return labels


def farthest(points: Tensor, count: int) -> Tensor:
    """Return `count` of the points: the one farthest from their mean, then the one farthest from those chosen."""
    chosen = [int((points - points.mean(0)).norm(dim=1).argmax())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(points, points[chosen]).amin(1).argmax()))
    return points[chosen]
