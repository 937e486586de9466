"""A weighted sum of rewards, each normalised as `normalise` says, so that none drowns the others.

raw      sum_k w_k r_k
zscore   sum_k w_k (r_k - mean_k) / std_k, with fixed constants: the same on every rank, in every batch, when resumed
group    as GDPO (Liu et al. 2601.05242): where the images of a prompt are seen together, (r_k - mean) / (std + 1e-4)
         over them, part by part, before the sum; GRPO then normalises the sum as ever, which with method.std=global is
         GDPO's second step. For an image alone, in evaluation and for the limit, it is zscore.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rdt.errors import Diverged
from rdt.rewards.base import Reward

NORMALISATIONS = ("raw", "zscore", "group")
EPSILON = 1e-4


class Mixture(Reward):
    """Several rewards as one; it has a gradient where all of them have."""

    def __init__(self, *, parts: Mapping[str, Mapping[str, Any]], normalise: str) -> None:
        """Parts by name: the reward's `module`, its `weight`, and unless raw its `mean` and `std`."""
        super().__init__()
        _check(parts, normalise)
        self.rewards = nn.ModuleDict({name: part["module"] for name, part in parts.items()})
        self.weights = _column(parts, "weight")
        raw = normalise == "raw"
        self.mean = torch.zeros_like(self.weights) if raw else _column(parts, "mean")
        self.std = torch.ones_like(self.weights) if raw else _column(parts, "std")
        self.grouped = normalise == "group"
        self.differentiable = all(reward.differentiable for reward in self.rewards.values())
        self.reads_prompts = any(reward.reads_prompts for reward in self.rewards.values())

    @property
    def components(self) -> dict[str, Reward]:
        return dict(self.rewards.items())

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,)."""
        return self.total(self.parts(images, prompts))

    def parts(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The raw score of each part, (B, R); Diverged, with its name, where one is not finite."""
        scores = {name: reward(images, prompts) for name, reward in self.rewards.items()}
        for name, score in scores.items():
            wrong = score.detach()[~score.isfinite()]
            if len(wrong):
                raise Diverged(f"{name}, a part of the reward, is {wrong[0].item()}")
        return torch.stack(list(scores.values()), -1)

    def total(self, parts: Tensor) -> Tensor:
        mean, std, weights = (constants.to(parts) for constants in (self.mean, self.std, self.weights))
        return ((parts - mean) / std) @ weights

    def relative(self, parts: Tensor) -> Tensor:
        if not self.grouped:
            return self.total(parts)
        parts = parts.double()  # in which equal scores are exactly their mean
        spread = parts.std(1, keepdim=True, correction=0) + EPSILON
        return ((parts - parts.mean(1, keepdim=True)) / spread) @ self.weights.to(parts)

    def __str__(self) -> str:
        blind = [name for name, reward in self.rewards.items() if not reward.differentiable]
        return f"Mixture, because of {', '.join(blind)}," if blind else "Mixture"


def _check(parts: Mapping[str, Mapping[str, Any]], normalise: str) -> None:
    if normalise not in NORMALISATIONS:
        raise ValueError(f"reward.normalise={normalise} is not one of {', '.join(NORMALISATIONS)}")
    if not parts:
        raise ValueError("reward.parts is empty; a mixture needs a reward, such as +reward@reward.parts.hps=hps")
    for name, part in parts.items():
        _check_part(
            f"reward.parts.{name}", part or {}, ("weight",) if normalise == "raw" else ("weight", "mean", "std")
        )


def _check_part(name: str, part: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    if "module" not in part:
        raise ValueError(f"{name} is no reward; give +reward@{name}=jpeg, say, or leave it out with ~{name}")
    for key in needed:
        if part.get(key) is None:
            raise ValueError(
                f"{name} has no {key}; give {name}.{key}=... (with a + in front where there is no such key)"
            )
    if "std" in needed and not part["std"] > 0:
        raise ValueError(f"{name}.std={part['std']} must be greater than 0")


def _column(parts: Mapping[str, Mapping[str, Any]], key: str) -> Tensor:
    return torch.tensor([part[key] for part in parts.values()], dtype=torch.float64)
