"""Tests scale and offset: they change what methods optimise and not what evaluation reports."""

import math

import pytest
import torch

from rdt.rewards.base import Affine
from rdt.rewards.jpeg import JpegReward
from rdt.rewards.mixture import Mixture, Term
from rdt.training.experiment import Experiment
from worlds.smallest_run import minimal
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a ring"] * 4


def mixture() -> Mixture:
    jpeg = JpegReward(quality=95, incompressible=False)
    return Mixture({"light": Term(Brightness(), 2.0, 0.5, 0.1), "jpeg": Term(jpeg, 1.0, -1.0, 0.2)}, "group")


@pytest.mark.parametrize("reward", [Brightness(), mixture()], ids=str)
def test_the_score_is_scaled_once_however_it_is_computed(reward):
    moved = Affine(reward, scale=-3.0, offset=0.5)
    parts = reward.parts(PICTURES, PROMPTS)
    assert torch.equal(moved.parts(PICTURES, PROMPTS), parts)
    assert torch.equal(moved(PICTURES, PROMPTS), -3 * reward(PICTURES, PROMPTS) + 0.5)
    assert torch.equal(moved.total(parts), moved(PICTURES, PROMPTS))
    assert torch.equal(moved.relative(parts.view(2, 2, -1)), -3 * reward.relative(parts.view(2, 2, -1)) + 0.5)
    assert (moved.grouped, moved.differentiable, str(moved)) == (reward.grouped, reward.differentiable, str(reward))


def test_a_scale_of_1_and_an_offset_of_0_change_no_bit():
    assert torch.equal(Affine(Brightness(), scale=1.0, offset=0.0)(PICTURES, PROMPTS), Brightness()(PICTURES, PROMPTS))


@pytest.mark.parametrize("keys", [{"scale": 0.0, "offset": 1.0}, {"scale": math.inf, "offset": 0.0}])
def test_a_scale_of_0_or_infinity_is_refused(keys):
    with pytest.raises(ValueError, match=r"reward\.scale="):
        Affine(Brightness(), **keys)


def test_a_method_gets_the_scaled_score_and_evaluation_the_raw_one(tmp_path):
    experiment = Experiment(minimal(tmp_path / "out", "reward=jpeg", "reward.scale=0.5", "reward.offset=2"))
    published = experiment.reward(PICTURES, PROMPTS)
    assert torch.equal(experiment.method.reward(PICTURES, PROMPTS), 0.5 * published + 2)
    assert torch.equal(experiment.evaluator.rewards["jpeg"](PICTURES, PROMPTS), published)
