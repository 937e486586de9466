"""Provides the bundled reward with a failure at its n-th call, for the configs of tests."""

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


def config_dir(folder: Path, event: str, iteration: int) -> Path:
    """Write a user's own config folder with `reward=fragile`, and return it."""
    (folder / "reward").mkdir(parents=True)
    lines = [
        "name: fragile",
        "_target_: worlds.failing_reward.hps",
        "weights: ${model.checkpoints.hps}",
        f"event: {event}",
        f"iteration: {iteration}",
    ]
    (folder / "reward" / "fragile.yaml").write_text("\n".join(lines), encoding="utf-8")
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


EVENTS = {
    "fail": _fail,
    "nan": lambda scores: scores * torch.nan,
    "terminate": lambda scores: _signal(signal.SIGTERM, scores),
    "kill": lambda scores: _signal(signal.SIGKILL, scores),
}
