"""Sentinels take known values on pictures that are drawn for them, and stand in every result beside the base's."""

import pytest
import torch

from rdt.result import read
from rdt.sentinels import SENTINELS, sentinels


def flat(*colour):
    return torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 16, 16)


def test_a_flat_picture_has_no_edges_no_entropy_and_no_frequencies():
    for colour in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0)):
        found = sentinels(flat(*colour))
        assert set(found) == set(SENTINELS)
        assert found["edge_density"] == found["colour_entropy"] == 0 and found["high_frequency"] < 1e-6


@pytest.mark.parametrize(
    "colour, dark, saturated",
    [((0.0, 0.0, 0.0), 1, 0), ((0.05, 0.0, 0.0), 1, 0), ((1.0, 0.0, 0.0), 0, 1), ((1.0, 0.5, 0.5), 0, 0)],
)
def test_dark_and_vivid_pixels_are_counted(colour, dark, saturated):
    found = sentinels(flat(*colour))
    assert (found["dark"], found["saturated"]) == (dark, saturated)


def test_half_a_picture_counts_half():
    images = flat(1.0, 0.0, 0.0).clone()
    images[..., 8:] = 0
    found = sentinels(images)
    assert found["dark"] == 0.5 and found["saturated"] == 1.0  # of the pixels that are lit
    assert found["colour_entropy"] == pytest.approx(torch.tensor(2.0).log().item() / torch.tensor(512.0).log().item())
    assert found["edge_density"] == pytest.approx(2 / 16)  # the columns at the edge


def test_texture_is_at_high_and_a_gradient_at_low_frequencies():
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    assert sentinels(board.float().expand(1, 3, 16, 16))["high_frequency"] == pytest.approx(1)
    wave = 0.5 + 0.5 * torch.cos(2 * torch.pi * torch.arange(16) / 16)
    assert sentinels(wave.expand(1, 3, 16, 16))["high_frequency"] < 1e-6


def test_sentinels_are_means_over_images():
    one, two = torch.rand(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    two = two.square()
    both, parts = sentinels(torch.cat([one, two])), (sentinels(one), sentinels(two))
    for name in SENTINELS:
        if name != "saturated":  # a share of the pixels that are lit, over all images
            assert both[name] == pytest.approx(sum(part[name] for part in parts) / 2, rel=1e-4)


def test_a_result_has_them_paired_with_the_base(run_folder):
    found = read(run_folder)
    assert set(SENTINELS) <= set(found.tuned.levels) and all(found.tuned.levels[name].diff for name in SENTINELS)
