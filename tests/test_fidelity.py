"""Distances of feature distributions agree with closed forms, definitions and other implementations."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rdt import fidelity
from rdt.fidelity import (
    Overall,
    cmmd,
    coverage,
    density,
    fid,
    kid,
    log10_spectral_distance,
    log_spectral_distance,
    precision,
    recall,
    spectral_distance,
)

DISTANCES = [fid, kid, cmmd, precision, recall, density, coverage]


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(n, mean, covariance, seed=0):
    """Return n points whose sample mean and unbiased covariance are these, to rounding."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)))
    return x @ white.T @ torch.linalg.cholesky(covariance).T + mean


class Flat(torch.nn.Module):
    """Return an image's pixels as its features, for torchmetrics."""

    num_features = 12

    def forward(self, images):
        return images.flatten(1)


def test_fid_of_gaussians_equals_the_closed_form():
    """For commuting covariances it is ||m1 - m2||^2 + sum (sqrt a_i - sqrt b_i)^2."""
    m1, m2 = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.0, 1.0, 0.5]).double()
    a, b = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    axes = torch.linalg.qr(normal(3, 3)).Q
    x, y = (gaussian(60, m, axes @ v.diag() @ axes.T, seed) for m, v, seed in ((m1, a, 1), (m2, b, 2)))
    expected = 1 + 9 + (2 - 1) ** 2 + (1 - 3) ** 2
    assert float(fid(x, y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [8, 40])  # fewer and more images than the 12 dimensions
def test_fid_equals_torchmetrics(n):
    x, y = normal(n, 12, 1).float(), (0.3 + 1.5 * normal(n + 3, 12, 2)).float()
    theirs = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2), normalize=True)
    theirs.set_dtype(torch.float64)
    theirs.update(y.view(-1, 3, 2, 2), real=True)
    theirs.update(x.view(-1, 3, 2, 2), real=False)
    assert float(fid(x, y)) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_kid_equals_the_double_sum_and_torchmetrics():
    x, y = normal(9, 12, 1), 0.5 * normal(9, 12, 2) + 0.2

    def k(a, b):
        return (float(a @ b) / 12 + 1) ** 3

    own = [sum(k(z[i], z[j]) for i in range(9) for j in range(9) if i != j) / 72 for z in (x, y)]
    mixed = sum(k(a, b) for a in x for b in y) / 81
    assert float(kid(x, y)) == pytest.approx(own[0] + own[1] - 2 * mixed, rel=1e-9)
    theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=9, normalize=True)
    theirs.update(y.float().view(-1, 3, 2, 2), real=True)
    theirs.update(x.float().view(-1, 3, 2, 2), real=False)
    assert float(kid(x, y)) == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_kid_is_unbiased():
    """Over draws from one distribution its mean is 0, within four standard errors, at every size."""
    for n in (4, 16):
        draws = torch.stack([kid(normal(n, 3, 2 * s), normal(n, 3, 2 * s + 1)) for s in range(400)])
        assert abs(float(draws.mean())) < 4 * float(draws.std()) / math.sqrt(400)
        assert (draws < 0).any()


def test_cmmd_equals_the_direct_formula():
    x, y = normal(5, 4, 1), normal(7, 4, 2)
    x1, y1 = (z / z.norm(dim=1, keepdim=True) for z in (x, y))

    def mean(a, b):
        return sum(math.exp(-float((p - q).square().sum()) / 200) for p in a for q in b) / (len(a) * len(b))

    expected = 1000 * (mean(x1, x1) + mean(y1, y1) - 2 * mean(x1, y1))
    assert float(cmmd(x, y)) == pytest.approx(expected, rel=1e-9)
    assert float(cmmd(3 * x, 0.1 * y)) == pytest.approx(expected, rel=1e-9)  # only directions count


def brute(fake, real, k):
    """Return precision, recall, density and coverage, computed by loops over the definitions."""

    def d(a, b):
        return float((a - b).norm())

    def radius(own, i):
        return sorted(d(own[i], other) for j, other in enumerate(own) if j != i)[k - 1]

    r, f = [radius(real, i) for i in range(len(real))], [radius(fake, i) for i in range(len(fake))]
    inside = [[d(x, y) < r[i] for i, x in enumerate(real)] for y in fake]
    return {
        precision: sum(any(row) for row in inside) / len(fake),
        recall: sum(any(d(x, y) < f[j] for j, y in enumerate(fake)) for x in real) / len(real),
        density: sum(map(sum, inside)) / (k * len(fake)),
        coverage: sum(min(d(x, y) for y in fake) < r[i] for i, x in enumerate(real)) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_precision_recall_density_and_coverage_equal_their_definitions(k, shift):
    fake, real = 0.7 * normal(11, 3, 1) + shift, normal(14, 3, 2)
    for distance, expected in brute(fake, real, k).items():
        assert float(distance(fake, real, k)) == pytest.approx(expected, abs=1e-12), distance.__name__


def test_precision_recall_density_and_coverage_equal_the_package_prdc():
    package = pytest.importorskip("prdc")
    fake, real = 0.7 * normal(30, 5, 1), normal(40, 5, 2)
    theirs = package.compute_prdc(real_features=real.numpy(), fake_features=fake.numpy(), nearest_k=5)
    assert {f.__name__: float(f(fake, real)) for f in (precision, recall, density, coverage)} == pytest.approx(theirs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_depend_on_neither_order_nor_rotation(distance):
    x, y = 0.8 * normal(12, 5, 1), normal(15, 5, 2)
    rotation = torch.linalg.qr(normal(5, 5, 3)).Q
    value = float(distance(x, y))
    assert float(distance(x.flip(0), y.flip(0))) == pytest.approx(value, rel=1e-9)
    assert float(distance(x @ rotation, y @ rotation)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("distance", "best"), [(fid, 0), (cmmd, 0), (precision, 1), (recall, 1), (coverage, 1)])
def test_equal_images_reach_the_best_value(distance, best):
    x = normal(12, 5, 1)
    assert float(distance(x, x)) == pytest.approx(best, abs=1e-9)


def test_log_spectral_distance_depends_on_spread_alone():
    x = gaussian(50, torch.zeros(2).double(), torch.tensor([4.0, 1.0]).double().diag())
    y = gaussian(50, torch.ones(2).double(), torch.tensor([1.0, 9.0]).double().diag(), seed=1)
    expected = (math.log(1) - math.log(1)) ** 2 + (math.log(4) - math.log(9)) ** 2  # sorted
    assert float(log_spectral_distance(x, y)) == pytest.approx(expected, rel=1e-6)
    rotation = torch.linalg.qr(normal(2, 2)).Q
    assert float(log_spectral_distance(x @ rotation + 5, x)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="D=2 features needs more than N=2 images"):
        log_spectral_distance(x[:2], y)


def test_spectral_distances_are_those_of_the_eigenvalues_of_covariances():
    x, y = normal(40, 6, 1) * torch.arange(1, 7), normal(40, 6, 2)
    spectra = [np.sort(np.linalg.eigvals(np.cov(one.numpy(), rowvar=False)).real) for one in (x, y)]
    plain = np.linalg.norm(spectra[0] - spectra[1])
    logarithmic = np.linalg.norm(np.log10(spectra[0] + 1e-10) - np.log10(spectra[1] + 1e-10))
    assert float(spectral_distance(x, y)) == pytest.approx(plain, rel=1e-9)
    assert float(log10_spectral_distance(x, y)) == pytest.approx(logarithmic, rel=1e-9)
    rotation = torch.linalg.qr(normal(6, 6)).Q
    for distance in (spectral_distance, log10_spectral_distance):
        assert float(distance(x @ rotation + 3, x)) == pytest.approx(0, abs=1e-9)
        assert float(distance(x, y)) == pytest.approx(float(distance(y, x)))
    scale = (len(x) - 1) / len(x)  # the third one divides by N
    spread = [one * math.sqrt(1 / scale) for one in (x, y)]
    third = float(log_spectral_distance(*spread))
    assert third == pytest.approx((math.log(10) * logarithmic) ** 2, rel=1e-6)


def test_eigenvalues_beyond_the_rank_cancel_between_equally_many_images():
    x, y = normal(5, 9, 1), normal(5, 9, 2)
    few = [np.sort(np.linalg.eigvalsh(np.cov(one.numpy(), rowvar=False)))[-4:] for one in (x, y)]
    expected = np.linalg.norm(np.log10(few[0]) - np.log10(few[1]))
    assert float(log10_spectral_distance(x, y)) == pytest.approx(expected, rel=1e-6)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="k=5 neighbours among N=5 images"):
        coverage(normal(9, 3), normal(5, 3))
    with pytest.raises(ValueError, match="N >= 2"):
        fid(normal(1, 3), normal(5, 3))


def test_overall_gives_fidelity_only_if_there_is_a_base_to_compare_with():
    measure = Overall(
        embedder=torch.nn.Flatten(), diversity={"spread": lambda x: x.var(0).sum()}, fidelity={"fid": fidelity.fid}
    )
    x, y = normal(6, 4, 1), normal(6, 4, 2)
    assert measure(x, None) == {"diversity/spread": pytest.approx(float(x.var(0).sum()))}
    assert measure(x, y)["fidelity/fid"] == pytest.approx(float(fid(x, y)))


def test_a_distance_that_needs_more_images_is_refused_before_any_is_sampled():
    embedder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    measure = Overall(embedder=embedder, diversity={}, fidelity={"lsd": log_spectral_distance})
    measure.check(13)
    with pytest.raises(ValueError, match="D=12 features needs more than N=12"):
        measure.check(12)
