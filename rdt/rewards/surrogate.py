"""Black-box optimisation: an oracle with a budget of calls, and surrogates of it that have a gradient.

SQDF's black-box task takes its surrogates from SEIKO (Uehara et al., arXiv 2402.16359). They read frozen features of
image and prompt, phi(x, c) = [image, text, image * text], and score `mean + beta * spread`, beta in standard
deviations:
    bootstrap   an ensemble, each member fitted to its own resample of the answers: mean and spread over members;
    ucb         the ridge posterior: w . phi and sqrt(phi^T A^-1 phi), A = ridge I + sum phi phi^T.
Departures from the official code: phi has features of the prompt besides the image's, and answers get no added noise.
    bootstrap   mean + beta std over members in place of the largest of four members (whose expectation is beta = 1.03
                if they are normal, and whose gradient is that of one member); a hidden layer with a nonlinearity in
                place of affine members with dropout; a fixed number of steps with weight decay in place of a
                validation set;
    ucb         the bound is over phi itself, not over a network's last layer with a covariance for A.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.rewards.base import Reward
from rdt.rewards.contract import RewardError

CONSTANT = 1e-3  # a feature counts as constant, and is not scaled, below this share of the mean standard deviation
TINY = 1e-12  # keeps the gradient of a square root finite if all members agree


class BudgetExceeded(RewardError):
    """More calls were requested than the oracle's budget allows."""


class BudgetedOracle(Reward):
    """Turns any reward into a black box: every image counts as one call, calls are limited, there is no gradient."""

    differentiable = False

    def __init__(self, *, oracle: Reward, budget: int) -> None:
        super().__init__()
        if budget < 1:
            raise ValueError(f"method.budget={budget} must be at least 1")
        if oracle.grouped:
            raise ValueError(
                "reward.normalise=group compares images of one prompt, an oracle scores one image; take raw or zscore"
            )
        self.oracle, self.budget = oracle.requires_grad_(False).eval(), budget
        self.missing, self.key = oracle.missing, oracle.key
        self.calls = 0  # of all ranks

    @property
    def left(self) -> int:
        """Return how many calls the budget still allows."""
        return self.budget - self.calls

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), for B calls."""
        self.charge(len(images))
        return self.oracle(images, prompts)

    def charge(self, count: int) -> None:
        """Count calls, also those of other ranks; BudgetExceeded, and none is counted, if fewer are left."""
        if count > self.left:
            raise BudgetExceeded(f"{count} calls exceed the {self.left} left of method.budget={self.budget}")
        self.calls += count


class FeatureModel(Protocol):
    """Describes a frozen model of images and texts, such as `ClipReward`."""

    def image_features(self, images: Tensor) -> Tensor: ...  # (B, D), with gradient

    def text_features(self, prompts: list[str]) -> Tensor: ...  # (B, D)


Estimate = tuple[Tensor, Tensor]  # mean and spread, (B,) each


class Surrogate(Reward, ABC):
    """Scores an image optimistically by the answers so far; the gradient reaches the images only."""

    centre: Tensor  # (D,) mean of phi over the answers
    scale: Tensor  # (D,) standard deviation of phi
    level: Tensor  # () mean of the answers
    unit: Tensor  # () standard deviation of the answers

    def __init__(self, *, features: FeatureModel, beta: float) -> None:
        super().__init__()
        self.features, self.beta = features, beta

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the optimistic scores, (B,), in the oracle's units."""
        mean, spread = self.estimate(self.phi(images, prompts))
        return mean + self.beta * spread

    def phi(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the features (B, 3 D) of images and their prompts."""
        image = self.features.image_features(images).float()
        text = self.features.text_features(prompts).to(image)
        return torch.cat([image, text, image * text], dim=1)

    def estimate(self, phi: Tensor) -> Estimate:
        """Return mean and spread, (B,) each, at features (B, D), in the oracle's units."""
        with torch.autocast(phi.device.type, enabled=False):
            mean, spread = self._estimate((phi - self.centre) / self.scale)
            return self.level + self.unit * mean, self.unit * spread

    def fit(self, phi: Tensor, scores: Tensor, generator: torch.Generator) -> None:
        """Fit from scratch to all answers, features (N, D) and scores (N,); the generator lives on the CPU."""
        self.load({"centre": phi.mean(0), "scale": _scale(phi)})
        self.load({"level": scores.mean(), "unit": scores.std(correction=0)})
        with torch.autocast(phi.device.type, enabled=False), torch.enable_grad():
            self.load(self._fit((phi - self.centre) / self.scale, (scores - self.level) / _scale(scores), generator))

    def learned(self) -> dict[str, Tensor]:
        """Return the fitted tensors by name; none before the first fit."""
        return dict(self.named_buffers(recurse=False))

    def load(self, learned: dict[str, Tensor]) -> None:
        """Set fitted tensors, such as those that `learned` returned."""
        for name, value in learned.items():
            self.register_buffer(name, value)

    @abstractmethod
    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return what is learned from standardised features (N, D) and scores (N,)."""

    @abstractmethod
    def _estimate(self, phi: Tensor) -> Estimate:
        """Return mean and spread at standardised features (B, D), in standard deviations of the answers."""


class Ucb(Surrogate):
    """Estimates scores as a linear function of the features and adds an upper confidence bound."""

    coefficients: Tensor  # (D + 1,)
    root: Tensor  # (D + 1, D + 1), root root^T = A^-1

    def __init__(self, *, features: FeatureModel, beta: float, ridge: float) -> None:
        super().__init__(features=features, beta=beta)
        self.ridge = ridge

    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        phi, y = _with_one(phi).double(), y.double()
        inverse = torch.linalg.inv(self.ridge * torch.eye(phi.shape[1]).to(phi) + phi.T @ phi)
        root = torch.linalg.cholesky((inverse + inverse.T) / 2)
        return {"coefficients": (inverse @ phi.T @ y).float(), "root": root.float()}

    def _estimate(self, phi: Tensor) -> Estimate:
        phi = _with_one(phi)
        return phi @ self.coefficients, (phi @ self.root).norm(dim=1)


def _with_one(phi: Tensor) -> Tensor:
    """Append a column of ones, the intercept's feature."""
    return torch.cat([phi, phi.new_ones(len(phi), 1)], dim=1)


def _scale(values: Tensor) -> Tensor:
    """Return the standard deviation over rows, or 1 for a column that is constant."""
    std = values.std(0, correction=0)
    return torch.where(std > CONSTANT * std.mean(), std, 1.0)


@dataclass(frozen=True)
class Fit:
    """Holds the settings with which AdamW fits the members of an ensemble."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float


class Bootstrap(Surrogate):
    """Holds networks of one hidden layer, as a batch of matrices; they differ in resample and initialisation."""

    hidden: Tensor  # (members, D, width)
    hidden_bias: Tensor  # (members, 1, width)
    output: Tensor  # (members, width, 1)
    output_bias: Tensor  # (members, 1, 1)

    def __init__(self, *, features: FeatureModel, beta: float, members: int, width: int, descent: Fit) -> None:
        super().__init__(features=features, beta=beta)
        self.members, self.width, self.descent = members, width, descent

    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        weights = {name: value.to(phi).requires_grad_() for name, value in self._start(phi.shape[1], generator).items()}
        resample = torch.randint(len(y), (self.members, len(y)), generator=generator)
        settings = self.descent
        optimizer = torch.optim.AdamW(weights.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        for _ in range(settings.steps):
            rows = resample[:, torch.randint(len(y), (settings.batch_size,), generator=generator)].to(phi.device)
            loss = (_ensemble(phi[rows], **weights) - y[rows]).square().mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: value.detach() for name, value in weights.items()}

    def _start(self, inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw normal weights whose variance is one over the layer's inputs; biases start at 0."""
        hidden = torch.randn(self.members, inputs, self.width, generator=generator) / inputs**0.5
        output = torch.randn(self.members, self.width, 1, generator=generator) / self.width**0.5
        biases = {
            "hidden_bias": torch.zeros(self.members, 1, self.width),
            "output_bias": torch.zeros(self.members, 1, 1),
        }
        return {"hidden": hidden, "output": output} | biases

    def _estimate(self, phi: Tensor) -> Estimate:
        values = _ensemble(phi, self.hidden, self.hidden_bias, self.output, self.output_bias)
        return values.mean(0), (values.var(0, correction=0) + TINY).sqrt()


def _ensemble(phi: Tensor, hidden: Tensor, hidden_bias: Tensor, output: Tensor, output_bias: Tensor) -> Tensor:
    """Return every member's values, (members, B), of shared rows (B, D) or of each member's own, (members, B, D)."""
    return (F.silu(phi @ hidden + hidden_bias) @ output + output_bias).squeeze(-1)
