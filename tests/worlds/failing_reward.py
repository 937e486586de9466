"""The bundled reward, to whose n-th call something happens: named by configs of tests."""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor

from rdt.rewards import clip
from rdt.rewards.base import Reward

PER_ITERATION = 2  # calls of the reward: of the rollout's images, and of the look-ahead's


def hps(*, iteration: int, event: str, **published: object) -> Reward:
    """The reward whose first call in an iteration of SQDF meets an event."""
    reward = clip.hps(**published)
    calls = 0

    def meet(module: Reward, inputs: object, scores: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return EVENTS[event](scores) if calls == PER_ITERATION * iteration + 1 else scores

    reward.register_forward_hook(meet)
    return reward


def config_dir(folder: Path, event: str, iteration: int) -> Path:
    """A config folder of a user's own, which offers `reward=fragile`."""
    (folder / "reward").mkdir(parents=True)
    lines = [
        "name: fragile",
        "module:",
        "  _target_: worlds.failing_reward.hps",
        f"  event: {event}",
        f"  iteration: {iteration}",
    ]
    published = ("checkpoint", "tokenizer", "vision_heads", "text_heads")
    lines += [f"  {key}: ${{model.checkpoints.hps.{key}}}" for key in published]
    (folder / "reward" / "fragile.yaml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    """Of a process that finds the package and this module."""
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
