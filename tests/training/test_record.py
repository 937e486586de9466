"""What a run leaves in its folder: a fingerprint of the frozen weights, and sample grids."""

import torch
from PIL import Image
from torch import nn

from rdt.evaluation import Evaluation, Protocol
from rdt.prompts import read_rows
from rdt.training.record import fingerprint, grid_image, save_samples


def test_the_fingerprint_depends_on_frozen_weights_alone():
    frozen, trained = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    before = fingerprint(nn.Sequential(frozen, trained))
    trained.weight.data.add_(1)
    assert fingerprint(nn.Sequential(frozen, trained)) == before
    frozen.weight.data.add_(1)
    assert fingerprint(nn.Sequential(frozen, trained)) != before


def test_a_grid_shows_every_image_in_its_place_in_whole_pixels():
    grid = torch.zeros(2, 3, 3, 32, 32)
    grid[1, 2] = 1.0
    picture = grid_image(grid)
    assert picture.size == (3 * 66, 2 * 66)  # images of 32 pixels, enlarged twice, with gaps of 2 pixels
    assert [picture.getpixel(place) for place in ((0, 0), (2 * 66, 66))] == [(0, 0, 0), (255, 255, 255)]


def test_samples_have_as_many_rows_as_prompts_are_named(tmp_path):
    evaluations = {name: Evaluation({}, torch.rand(2, 3, 3, 64, 64)) for name in ("base", "tuned")}
    save_samples(tmp_path, Protocol(["a", "b", "c"], 3, 0, 6, seed=0, grid=(2, 3)), evaluations)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["base.png", "prompts.json", "tuned.png"]
    assert read_rows(tmp_path / "samples") == ("a", "b")
    with Image.open(tmp_path / "samples" / "base.png") as picture:
        assert picture.size == (3 * 66, 2 * 66)
