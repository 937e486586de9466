"""A weighted sum of rewards, normalised so that no part dominates by its unit alone.

raw      sum_k w_k r_k
zscore   sum_k w_k (r_k - mean_k) / std_k, with fixed constants: the same on every rank, in every batch, when resumed
group    GDPO (Liu et al. 2601.05242): each part becomes (r_k - mean) / (std + 1e-4) over the images of one prompt, and
         these are summed. GRPO normalises the sum as it does any reward; with method.std=global that is GDPO's second
         step. A single image, as in evaluation and in the limit, is scored by zscore.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdt.rewards.base import Metadata, Reward
from rdt.rewards.missing import Scored
from rdt.targets import instantiate

NORMALISATIONS = ("raw", "zscore", "group")
CONSTANTS = ("weight", "mean", "std")  # keys of a part beside those of its reward
EPSILON = 1e-4


@dataclass(frozen=True)
class Term:
    """Holds one reward of a mixture and its constants; `raw` needs no mean and std."""

    reward: Reward
    weight: float
    mean: float | None = None
    std: float | None = None


def mixture(*, parts: Mapping[str, Mapping[str, Any] | None], normalise: str) -> "Mixture":
    """Build a mixture from its config: a part is the config of a reward with `weight`, `mean` and `std` added.

    ValueError names the key that is wrong or missing.
    """
    return Mixture({name: _term(f"reward.parts.{name}", part or {}) for name, part in parts.items()}, normalise)


def _term(key: str, part: Mapping[str, Any]) -> Term:
    if "_target_" not in part:
        raise ValueError(f"{key} is not a reward; add one, such as +reward@{key}=jpeg, or remove it with ~{key}")
    if part.get("weight") is None:
        raise _missing(f"{key}.weight")
    own = {name: value for name, value in part.items() if name not in ("name", *CONSTANTS)}
    reward = instantiate(own)
    reward.key = key
    return Term(reward, part["weight"], part.get("mean"), part.get("std"))


class Mixture(Reward):
    """Combines several rewards into one, which has a gradient if all of them have."""

    def __init__(self, terms: Mapping[str, Term], normalise: str) -> None:
        super().__init__()
        _check(terms, normalise)
        raw = normalise == "raw"
        self.rewards = nn.ModuleDict({name: term.reward for name, term in terms.items()})
        self.weights = _constants(term.weight for term in terms.values())
        self.mean = _constants(0.0 if raw else term.mean for term in terms.values())
        self.std = _constants(1.0 if raw else term.std for term in terms.values())
        self.grouped = normalise == "group"
        self.differentiable = all(reward.differentiable for reward in self.rewards.values())
        self.reads_prompts = any(reward.reads_prompts for reward in self.rewards.values())
        self.reads_metadata = any(reward.reads_metadata for reward in self.rewards.values())
        self.missing = next((choice for choice in ("skip", "stop") if choice in _choices(self.rewards.values())), "")

    @property
    def components(self) -> dict[str, Reward]:
        return dict(self.rewards.items())

    @property
    def unweighted(self) -> list[int]:
        return (self.weights == 0).nonzero().flatten().tolist()

    def forward(self, images: Tensor, prompts: list[str], metadata: Sequence[Metadata] | None = None) -> Tensor:
        return self.total(self.parts(images, prompts, metadata))

    def parts(self, images: Tensor, prompts: list[str], metadata: Sequence[Metadata] | None = None) -> Tensor:
        """Return the raw score of each part, (B, R); Diverged names a part that is not finite."""
        scores = {name: reward(images, prompts, metadata) for name, reward in self.rewards.items()}
        for name, score in scores.items():
            Scored(f"{name}, a part of the reward,", self.rewards[name].missing, score, prompts).check_finite()
        return torch.stack(list(scores.values()), -1)

    def total(self, parts: Tensor) -> Tensor:
        mean, std, weights = (constants.to(parts) for constants in (self.mean, self.std, self.weights))
        return ((parts - mean) / std) @ weights

    def relative(self, parts: Tensor) -> Tensor:
        if not self.grouped:
            return self.total(parts)
        parts = parts.double()  # in single precision, the mean of equal scores may differ from them
        spread = parts.std(1, keepdim=True, correction=0) + EPSILON
        return ((parts - parts.mean(1, keepdim=True)) / spread) @ self.weights.to(parts)

    def __str__(self) -> str:
        opaque = [name for name, reward in self.rewards.items() if not reward.differentiable]
        return f"Mixture, because of {', '.join(opaque)}," if opaque else "Mixture"


def _check(terms: Mapping[str, Term], normalise: str) -> None:
    """Raise ValueError for an unknown normalisation, no terms, or a term without the constants it needs."""
    if normalise not in NORMALISATIONS:
        raise ValueError(f"reward.normalise={normalise} is not one of {', '.join(NORMALISATIONS)}")
    if not terms:
        raise ValueError("reward.parts is empty; add a reward, such as +reward@reward.parts.hps=hps")
    for name, term in terms.items() if normalise != "raw" else ():
        for key in ("mean", "std"):
            if getattr(term, key) is None:
                raise _missing(f"reward.parts.{name}.{key}")
        if term.std is not None and not term.std > 0:
            raise ValueError(f"reward.parts.{name}.std={term.std} must be greater than 0")


def _missing(key: str) -> ValueError:
    part, _, name = key.rpartition(".")
    return ValueError(f"{part} has no {name}; give {key}=... (with a + in front if there is no such key)")


def _choices(rewards: Iterable[Reward]) -> set[str]:
    return {reward.missing for reward in rewards}


def _constants(values: Iterable[float | None]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
