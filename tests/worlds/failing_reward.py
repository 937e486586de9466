"""Provides rewards that fail at their n-th call, or that break the contract of a reward, for the configs of tests."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdt.rewards import clip
from rdt.rewards.base import Reward

PER_ITERATION = 2  # calls of the reward: for the images of the rollout and those of the look-ahead


def hps(*, iteration: int, event: str, **published: Any) -> Reward:
    """Build HPS; at its first call in an iteration of SQDF, counted from 0, an event happens."""
    reward = clip.hps(**published)
    calls = 0

    def happen(module: Reward, inputs: object, scores: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return EVENTS[event](scores) if calls == PER_ITERATION * iteration + 1 else scores

    reward.register_forward_hook(happen)
    return reward


class Broken(Reward):
    """Scores by the mean of the pixels, and returns them as no reward should, or raises."""

    def __init__(self, event: str, **_: Any) -> None:
        super().__init__()
        self.event = event

    def forward(self, images: Tensor, prompts: list[str]) -> Any:
        return BREACHES[self.event](images.mean((1, 2, 3)))


def config_dir(folder: Path, event: str, iteration: int) -> Path:
    """Write a user's own config folder with `reward=fragile` and `reward=broken`, and return it."""
    (folder / "reward").mkdir(parents=True)
    lines = ["weights: ${model.checkpoints.hps}", f"event: {event}", f"iteration: {iteration}"]
    for name, target in {"fragile": "hps", "broken": "Broken"}.items():
        text = "\n".join([f"name: {name}", f"_target_: worlds.failing_reward.{target}", *lines])
        (folder / "reward" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    """Return the environment of a process that finds the package and this module."""
    here = Path(__file__).resolve().parents[1]
    return os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}


def _fail(scores: Tensor) -> Tensor:
    raise RuntimeError("the machine is gone")


def _signal(number: int, scores: Tensor) -> Tensor:
    os.kill(os.getpid(), number)
    return scores


def _raise(error: Exception) -> Any:
    def broken(scores: Tensor) -> Tensor:
        raise error

    return broken


EVENTS = {
    "fail": _fail,
    "nan": lambda scores: scores * torch.nan,
    "terminate": lambda scores: _signal(signal.SIGTERM, scores),
    "kill": lambda scores: _signal(signal.SIGKILL, scores),
}
BREACHES = {
    "detached": lambda scores: scores.detach(),
    "list": lambda scores: scores.tolist(),
    "numpy": lambda scores: scores.detach().numpy(),
    "int": lambda scores: 1,
    "nothing": lambda scores: None,
    "integers": lambda scores: scores.detach().round().long(),
    "scalar": lambda scores: scores.mean(),
    "column": lambda scores: scores[:, None],
    "short": lambda scores: scores[:-1],
    "elsewhere": lambda scores: scores.to("meta"),
    "runtime": _raise(RuntimeError("the machine is gone")),
    "key": _raise(KeyError("score")),
    "division": _raise(ZeroDivisionError("division by zero")),
    "value": _raise(ValueError("two\nlines")),
    "assertion": _raise(AssertionError()),
    "file": _raise(FileNotFoundError(2, "No such file", "weights.pt")),
}
