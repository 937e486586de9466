"""Diversity statistics obey their laws and equal their definitions."""

import math

import pytest
import torch

from rdt.diversity import Diversity, mean_pairwise_distance, mean_pairwise_squared_distance, truncated_entropy, vendi

ORDERS = [0.0, 0.5, 1.0, 2.0, float("inf")]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n, d", [(2, 7), (5, 7), (9, 3)])
def test_vendi_of_identical_features_is_one(n, d, order):
    features = torch.randn(1, d).expand(n, d) * torch.linspace(0.5, 3, n)[:, None]
    assert float(vendi(features, order)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n, d", [(2, 2), (6, 6), (4, 9)])
def test_vendi_of_orthogonal_features_is_their_number(n, d, order):
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    assert float(vendi(rotation[:n], order)) == pytest.approx(n, abs=1e-6)


def test_vendi_counts_equal_groups_through_the_covariance_form():
    assert float(vendi(torch.eye(3).repeat(4, 1))) == pytest.approx(3, abs=1e-6)  # 12 rows in 3 dimensions


def test_vendi_is_the_entropy_of_the_kernel_in_both_forms():
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = features / features.norm(dim=1, keepdim=True)
    spectrum = torch.linalg.eigvalsh(unit @ unit.T / 8)
    spectrum = spectrum[spectrum > 1e-12]
    expected = math.exp(-float((spectrum * spectrum.log()).sum()))
    padded = torch.cat([features, torch.zeros(8, 6)], dim=1)  # more dimensions than rows: the Gram form
    assert float(vendi(features)) == pytest.approx(expected, rel=1e-9)
    assert float(vendi(padded)) == pytest.approx(expected, rel=1e-9)


def test_vendi_falls_with_its_order():
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    values = [float(vendi(features, order)) for order in ORDERS]
    assert values == sorted(values, reverse=True)


def test_mean_pairwise_distance_equals_the_double_loop():
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = [(i, j) for i in range(7) for j in range(i)]
    loop = sum(1 - torch.cosine_similarity(features[i], features[j], dim=0) for i, j in pairs) / len(pairs)
    assert float(mean_pairwise_distance(features)) == pytest.approx(float(loop), rel=1e-9)


@pytest.mark.parametrize("statistic", [mean_pairwise_distance, vendi])
def test_statistics_ignore_scale_rotation_and_order(statistic):
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved = (3 * features @ rotation).flip(0)
    assert float(statistic(moved)) == pytest.approx(float(statistic(features)), rel=1e-9)


@pytest.mark.parametrize("statistic", [mean_pairwise_distance, vendi])
@pytest.mark.parametrize("features", [torch.ones(1, 3), torch.ones(3), torch.zeros(4, 3), torch.full((4, 3), math.nan)])
def test_features_without_diversity_are_refused(statistic, features):
    with pytest.raises(ValueError, match="features"):
        statistic(features)


def test_measure_names_its_statistics_and_moves_with_its_embedder():
    embedder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    measure = Diversity(embedder=embedder, statistics={"vendi": vendi, "pairwise": mean_pairwise_distance})
    measured = measure(torch.rand(4, 3, 2, 2), "a circle")
    assert set(measured) == {"vendi", "pairwise"}
    assert 1 <= measured["vendi"] <= 4
    assert len(list(measure.parameters())) == 2


def test_vendi_equals_the_package_vendi_score():
    package = pytest.importorskip("vendi_score.vendi")
    features = torch.randn(5, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    for order in (0.5, 1, 2, "inf"):
        expected = package.score_K(unit @ unit.T, q=order)
        assert float(vendi(features, float(order))) == pytest.approx(expected, rel=1e-9)


def test_mean_pairwise_squared_distance_equals_the_double_loop():
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 3
    pairs = [(i, j) for i in range(7) for j in range(i)]
    loop = sum((features[i] - features[j]).square().sum() for i, j in pairs) / len(pairs)
    assert float(mean_pairwise_squared_distance(features)) == pytest.approx(float(loop), rel=1e-9)
    assert float(mean_pairwise_squared_distance(features[:1].expand(4, -1))) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="n >= 2"):
        mean_pairwise_squared_distance(features[:1])


@pytest.mark.parametrize("d", [6, 40])  # fewer and more dimensions than the 30 rows
def test_truncated_entropy_equals_that_of_the_largest_eigenvalues(d):
    features = torch.randn(30, d, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    features *= torch.linspace(0.5, 2, d, dtype=torch.float64)
    spectrum = torch.linalg.eigvalsh(features.T.cov()).flip(0)[:4]
    expected = 4 / 2 * math.log(2 * math.pi * math.e) + 0.5 * float(spectrum.log().sum())
    assert float(truncated_entropy(features, k=4)) == pytest.approx(expected, rel=1e-9)
    grown = float(truncated_entropy(3 * features + 1, k=4))  # unlike Vendi it depends on scale, but not on the mean
    assert grown == pytest.approx(expected + 4 * math.log(3), rel=1e-9)


def test_truncated_entropy_of_a_gaussian_is_its_entropy():
    """With k = D it is 1/2 ln det(2 pi e Sigma)."""
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    whole = torch.distributions.MultivariateNormal(torch.zeros(3).double(), features.T.cov()).entropy()
    assert float(truncated_entropy(features, k=3)) == pytest.approx(float(whole), rel=1e-9)
    with pytest.raises(ValueError, match="k=20 eigenvalues of the covariance of n=20"):
        truncated_entropy(torch.randn(20, 30))
