"""Rewards that read the same CLIP file share its image network, which runs once per image and changes no score."""

import gc

import pytest
import torch

from rdt.rewards import towers
from rdt.rewards.aesthetic import aesthetic
from rdt.rewards.clip import clipscore
from worlds import reward_checkpoints

PROMPTS = ["a red ring", "a cross"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    reward_checkpoints.write(folder)
    return folder


def pair(files):
    """Return the aesthetic score and CLIPScore on one CLIP."""
    clip = str(files / "clip")
    head = {"checkpoint": str(files / "aesthetic-model.pth"), "backbone": clip}
    return (
        aesthetic(weights=head, interpolation="bicubic", checkpointing=False),
        clipscore(weights={"checkpoint": clip, "tokenizer": clip}, scaled=False),
    )


def images(seed=0):
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_two_rewards_on_one_file_share_a_network_that_runs_once_per_image(files):
    first, second = pair(files)
    assert first.tower is second.tower and second.model.vision_model is first.tower.network
    calls = []
    first.tower.network.register_forward_hook(lambda *_: calls.append(1))
    batch, other = images(), images(1)
    with torch.no_grad():
        together = [first(batch, PROMPTS), second(batch, PROMPTS)]
        assert len(calls) == 1
        apart = [second(other, PROMPTS), first(batch.clone(), PROMPTS), second(batch.clone(), PROMPTS)]
        assert len(calls) == 4
    assert torch.equal(together[0], apart[1]) and torch.equal(together[1], apart[2])


def test_images_that_were_changed_in_place_are_read_again(files):
    first, second = pair(files)
    batch = images()
    first(batch, PROMPTS)
    batch.copy_(images(1))
    assert torch.equal(second(batch, PROMPTS), second(images(1), PROMPTS))


def test_the_gradient_of_each_reward_is_its_own(files):
    first, second = pair(files)
    batch = images().requires_grad_()
    gradients = [torch.autograd.grad(one(batch, PROMPTS).sum(), batch)[0] for one in (first, second, second)]
    assert not torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[1], gradients[2])


def test_a_network_that_no_reward_holds_is_freed(files):
    def held():
        return [source for source, *_ in towers._shared if source == str(files / "clip")]

    kept = pair(files)
    assert held()
    del kept
    gc.collect()
    assert not held()
