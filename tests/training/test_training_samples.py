"""Pictures of the policy while it trains: when they are drawn, that they pair with the grids, and that they resume."""

import shutil

import pytest
import torch
from PIL import Image

from rdt.evaluation import Protocol
from rdt.training.launch import work
from rdt.training.training_samples import LARGEST, TrainingSamples, reduced, training_pictures
from worlds.smallest_run import adapter, minimal

EVERY = ("trainer.sample_every=1", "trainer.checkpoint_every=1", "logger=csv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run of two iterations that drew a picture after each."""
    out = tmp_path_factory.mktemp("whole") / "run"
    work(minimal(out, *EVERY))
    return out


def pixels(path):
    with Image.open(path) as picture:
        return torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).int()


def test_the_first_is_the_base_and_the_last_the_trained_model(whole):
    assert [path.name for path in training_pictures(whole)] == ["000000.png", "000001.png", "000002.png"]
    for iteration, name in ((0, "base"), (2, "tuned")):
        drawn, grid = pixels(whole / "samples" / f"{iteration:06d}.png"), pixels(whole / "samples" / f"{name}.png")
        assert (drawn - grid).abs().max() <= 1  # batches round differently


def test_drawing_changes_no_bit_of_training(whole, tmp_path):
    work(minimal(tmp_path / "run", "trainer.sample_every=0", "logger=csv"))
    assert not training_pictures(tmp_path / "run")
    found, wanted = adapter(tmp_path / "run"), adapter(whole)
    assert all(found[name].equal(wanted[name]) for name in wanted)


def test_a_resumed_run_draws_what_was_lost_as_it_was(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    for name in ("checkpoints/000002", "samples/000002.png", "result.json"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Image.new("RGB", (4, 4)).save(out / "samples" / "000099.png")  # of iterations that run again
    work(minimal(out, *EVERY))
    assert [path.name for path in training_pictures(out)] == ["000000.png", "000001.png", "000002.png"]
    assert pixels(out / "samples" / "000002.png").equal(pixels(whole / "samples" / "000002.png"))


def test_large_images_are_reduced():
    grid = torch.rand(2, 3, 3, 64, 2 * LARGEST)
    assert reduced(grid).shape == (2, 3, 3, 32, LARGEST) and reduced(grid[..., :8]).equal(grid[..., :8])


def test_no_more_is_drawn_than_is_evaluated(tmp_path):
    protocol = Protocol(["a", "b"], 3, 0, 6, seed=0, grid=(5, 8))
    samples = TrainingSamples(protocol, None, 1, tmp_path)
    assert (samples.rows, samples.columns) == (2, 3)
