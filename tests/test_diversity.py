"""Laws of the diversity statistics."""

import math

import pytest
import torch

from rdt.diversity import Diversity, mean_pairwise_distance, vendi

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


def test_mean_pairwise_distance_is_the_double_loop():
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
