"""Tests that what breaks the contract of a reward is one line that names the reward and what would be right."""

import sys

import numpy as np
import pytest
import torch

from rdt import run
from rdt.errors import Diverged, Terminated, UsageError
from rdt.rewards.base import Affine, Reward
from rdt.rewards.contract import RewardError, named_failure
from rdt.rewards.mixture import Mixture, Term
from worlds import failing_reward
from worlds.failing_reward import BREACHES, Broken
from worlds.smallest_run import OVERRIDES
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "b", "c", "d" * 500]
TYPES = ("list", "numpy", "int", "nothing", "integers", "scalar", "column", "short", "elsewhere")
WORDS = {
    "list": "a value of type list", "numpy": "a value of type numpy.ndarray", "int": "a value of type int",
    "nothing": "a value of type NoneType", "integers": "a tensor of torch.int64", "scalar": "a tensor of shape ()",
    "column": "a tensor of shape (4, 1)", "short": "a tensor of shape (3,)", "elsewhere": "a tensor on meta",
}  # fmt: skip
ERRORS = tuple(event for event in BREACHES if event not in {*TYPES, "detached"})


def refusal(reward: Reward, images: torch.Tensor = PICTURES) -> str:
    """Return the line with which a reward's call ends."""
    with pytest.raises(RewardError) as caught:
        reward(images, PROMPTS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda reward: reward, lambda reward: Affine(reward, scale=2.0, offset=1.0),
                                  lambda reward: Mixture({"own": Term(reward, 1.0)}, "raw")],
                         ids=["plain", "scaled", "part"])  # fmt: skip
@pytest.mark.parametrize("event", TYPES)
def test_scores_of_another_type_or_shape_are_refused(event, wrap):
    broken = Broken(event)
    broken.key = "reward=own"
    expected = "expected a floating-point tensor of shape (4,) on cpu, one score per image; "
    assert refusal(wrap(broken)).startswith(f"reward=own returned {WORDS[event]}, {expected}")


def test_a_score_that_is_an_average_over_one_image_is_refused():
    with pytest.raises(RewardError, match=r"a tensor of shape \(\)"):
        Broken("scalar")(PICTURES[:1], ["a"])


def test_detached_scores_are_refused_if_a_gradient_is_needed():
    assert Broken("detached")(PICTURES, PROMPTS).shape == (4,)
    line = refusal(Broken("detached"), PICTURES.clone().requires_grad_())
    assert "Broken returned scores without a gradient (detached)" in line and "differentiable = False" in line
    opaque = Broken("detached")
    opaque.differentiable = False
    assert opaque(PICTURES.clone().requires_grad_(), PROMPTS).shape == (4,)
    with torch.no_grad():
        assert Broken("detached")(PICTURES.clone().requires_grad_(), PROMPTS).shape == (4,)


@pytest.mark.parametrize("event", ERRORS)
def test_a_reward_that_raises_is_named_with_its_prompts(event):
    line = refusal(Broken(event))
    error = refusal.__globals__["BREACHES"][event]
    with pytest.raises(Exception) as caught:
        error(PICTURES)
    assert line.startswith(f"Broken raised {type(caught.value).__name__}: ")
    assert "it scored 4 images of the prompts 'a', 'b', 'c', ..." in line


@pytest.mark.parametrize(
    "error",
    [UsageError("own"), Diverged("own"), Terminated("own"), MemoryError(), torch.OutOfMemoryError("own"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory"), KeyboardInterrupt()],
)  # fmt: skip
def test_errors_of_rdt_and_exhausted_memory_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, named_failure("own", PROMPTS):
        raise error
    assert caught.value is error


def test_the_check_changes_no_scores():
    wanted = PICTURES.clone().requires_grad_()
    scores = Brightness()(wanted, PROMPTS)
    assert torch.equal(scores, Brightness().forward(wanted, PROMPTS)) and scores.requires_grad
    assert np.isfinite(scores.detach().numpy()).all()


def ended(tmp_path, monkeypatch, capsys, event: str, *overrides: str) -> str:
    """Return what a run with a broken reward of the user's prints on stderr."""
    conf = failing_reward.config_dir(tmp_path / "conf", event, iteration=0)
    monkeypatch.chdir(tmp_path)
    small = [item for item in OVERRIDES if not item.startswith("evaluation.every")]
    shared = ["reward=broken", "logger=csv", "output_dir=out", *small, *overrides]
    monkeypatch.setattr(sys, "argv", ["rdt", "--config-dir", str(conf), *shared])
    with pytest.raises(SystemExit) as stop:
        run.entry()
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "method"),
    [("detached", "draft"), ("list", "grpo"), ("column", "sqdf"), ("runtime", "ddpo"), ("key", "draft")],
)
def test_a_run_ends_with_one_line(event, method, tmp_path, monkeypatch, capsys):
    err = ended(tmp_path, monkeypatch, capsys, event, f"method={method}", *["method.group=2"] * (method == "grpo"))
    assert err.count("\n") == 1 and err.startswith("error: ") and "reward=broken r" in err


def test_the_traceback_of_a_reward_is_shown_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("RDT_TRACEBACK", "1")
    conf = failing_reward.config_dir(tmp_path / "conf", "division", iteration=0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rdt", "--config-dir", str(conf), "reward=broken", "logger=csv", *OVERRIDES])
    with pytest.raises(RewardError) as caught:
        run.entry()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
