"""Surrogates: optimistic estimates of a black box, learned from its answers; rewards that have a gradient.

SQDF's black-box task takes them from SEIKO (Uehara et al., arXiv 2402.16359). Both read frozen features of image and
prompt, phi(x, c) = [image, text, image * text], and predict `mean + beta * spread`, beta in standard deviations:
    bootstrap   an ensemble whose members are fitted each to a resample of the answers: mean and spread over members;
    ucb         the ridge posterior: w . phi and sqrt(phi^T A^-1 phi), A = ridge I + sum phi phi^T.
Departures from the official code: features of the prompt besides the image's, answers without added noise, and the
bound over phi itself, not over a network's last layer with a covariance for A; `rdt.rewards.surrogate` has its own.

The bootstrap surrogate: an ensemble whose disagreement is its uncertainty.

Departures from SEIKO's code, which SQDF's uses: mean + beta std over members in place of the largest of four (whose
expectation is beta = 1.03 where members are normal, and whose gradient is that of one member), a nonlinearity (theirs
are affine, with dropout), and a fixed number of steps with weight decay in place of a validation set.

An oracle that answers only so often: its calls are counted, and one too many is refused before it is made.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.rewards.base import Reward

CONSTANT = 1e-3  # a feature whose standard deviation is below this share of their mean tells nothing, and is not scaled


class Features(Protocol):
    """A frozen model of images and texts, as `ClipReward` is one."""

    def image_features(self, images: Tensor) -> Tensor: ...  # (B, D), with gradient

    def text_features(self, prompts: list[str]) -> Tensor: ...  # (B, D)


Estimate = tuple[Tensor, Tensor]  # mean and spread, (B,) each


class Surrogate(Reward, ABC):
    """What the answers so far say of an image, at its most hopeful; the gradient reaches the image alone."""

    centre: Tensor  # (D,) of phi over the answers
    scale: Tensor  # (D,)
    level: Tensor  # () mean of the answers
    unit: Tensor  # () their standard deviation

    def __init__(self, *, features: Features, beta: float) -> None:
        super().__init__()
        self.features, self.beta = features, beta

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> optimistic scores (B,) in the black box's own units."""
        mean, spread = self.estimate(self.phi(images, prompts))
        return mean + self.beta * spread

    def phi(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Features (B, 3 D) of images and their prompts."""
        seen = self.features.image_features(images).float()
        asked = self.features.text_features(prompts).to(seen)
        return torch.cat([seen, asked, seen * asked], dim=1)

    def estimate(self, phi: Tensor) -> Estimate:
        """Mean and spread (B,) at features (B, D), in the black box's units."""
        with torch.autocast(phi.device.type, enabled=False):
            mean, spread = self._estimate((phi - self.centre) / self.scale)
            return self.level + self.unit * mean, self.unit * spread

    def fit(self, phi: Tensor, scores: Tensor, generator: torch.Generator) -> None:
        """Learn anew from all answers, features (N, D) and scores (N,); the generator is one of the host's."""
        self.load({"centre": phi.mean(0), "scale": _scale(phi)})
        self.load({"level": scores.mean(), "unit": scores.std(correction=0)})
        with torch.autocast(phi.device.type, enabled=False), torch.enable_grad():
            self.load(self._fit((phi - self.centre) / self.scale, (scores - self.level) / _scale(scores), generator))

    def learned(self) -> dict[str, Tensor]:
        """What fitting left behind: nothing before the first."""
        return dict(self.named_buffers(recurse=False))

    def load(self, learned: dict[str, Tensor]) -> None:
        """Take over what fitting left behind."""
        for name, value in learned.items():
            self.register_buffer(name, value)

    @abstractmethod
    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What is learned of standardised features (N, D) and scores (N,)."""

    @abstractmethod
    def _estimate(self, phi: Tensor) -> Estimate:
        """Of standardised features (B, D)."""


class Ucb(Surrogate):
    """Linear in the features, with an upper confidence bound."""

    coefficients: Tensor  # (D + 1,)
    root: Tensor  # (D + 1, D + 1), root root^T = A^-1

    def __init__(self, *, features: Features, beta: float, ridge: float) -> None:
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
    return torch.cat([phi, phi.new_ones(len(phi), 1)], dim=1)


def _scale(values: Tensor) -> Tensor:
    """Standard deviation over rows; 1 where there is none to speak of."""
    std = values.std(0, correction=0)
    return torch.where(std > CONSTANT * std.mean(), std, 1.0)


TINY = 1e-12  # keeps the gradient of a square root finite where members agree


@dataclass(frozen=True)
class Descent:
    """How the members of an ensemble are fitted: AdamW."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float


class Bootstrap(Surrogate):
    """Networks of one hidden layer, as one batch of matrices; members differ in their resample and initialisation."""

    hidden: Tensor  # (members, D, width)
    hidden_bias: Tensor  # (members, 1, width)
    output: Tensor  # (members, width, 1)
    output_bias: Tensor  # (members, 1, 1)

    def __init__(self, *, features: Features, beta: float, members: int, width: int, descent: Descent) -> None:
        super().__init__(features=features, beta=beta)
        self.members, self.width, self.descent = members, width, descent

    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        weights = {name: value.to(phi).requires_grad_() for name, value in self._start(phi.shape[1], generator).items()}
        resample = torch.randint(len(y), (self.members, len(y)), generator=generator)
        how = self.descent
        optimizer = torch.optim.AdamW(weights.values(), lr=how.lr, weight_decay=how.weight_decay)
        for _ in range(how.steps):
            rows = resample[:, torch.randint(len(y), (how.batch_size,), generator=generator)].to(phi.device)
            loss = (_ensemble(phi[rows], **weights) - y[rows]).square().mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: value.detach() for name, value in weights.items()}

    def _start(self, inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Normal weights whose variance is one over the layer's inputs."""
        hidden = torch.randn(self.members, inputs, self.width, generator=generator) / inputs**0.5
        output = torch.randn(self.members, self.width, 1, generator=generator) / self.width**0.5
        biases = {
            "hidden_bias": torch.zeros(self.members, 1, self.width),
            "output_bias": torch.zeros(self.members, 1, 1),
        }
        return {"hidden": hidden, "output": output} | biases

    def _estimate(self, phi: Tensor) -> Estimate:
        found = _ensemble(phi, self.hidden, self.hidden_bias, self.output, self.output_bias)
        return found.mean(0), (found.var(0, correction=0) + TINY).sqrt()


def _ensemble(phi: Tensor, hidden: Tensor, hidden_bias: Tensor, output: Tensor, output_bias: Tensor) -> Tensor:
    """(B, D), or (members, B, D) of each member's own rows -> (members, B)."""
    return (F.silu(phi @ hidden + hidden_bias) @ output + output_bias).squeeze(-1)


class BudgetExceeded(ValueError):
    """The oracle was asked for more than its budget."""


class Budgeted(Reward):
    """Any reward as a black box: every image is one call, and no gradient comes back whatever the reward has inside."""

    differentiable = False

    def __init__(self, *, oracle: Reward, budget: int) -> None:
        super().__init__()
        if budget < 1:
            raise ValueError(f"method.budget={budget} must be at least 1")
        if oracle.grouped:
            raise ValueError(
                "reward.normalise=group compares images of a prompt, an oracle sees one; take raw or zscore"
            )
        self.oracle, self.budget = oracle.requires_grad_(False).eval(), budget
        self.calls = 0  # of all processes

    @property
    def left(self) -> int:
        """Calls that the budget still allows."""
        return self.budget - self.calls

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,) for B calls."""
        self.charge(len(images))
        return self.oracle(images, prompts)

    def charge(self, count: int) -> None:
        """Count calls, other processes' too; BudgetExceeded, and nothing counted, where fewer are left."""
        if count > self.left:
            raise BudgetExceeded(
                f"{count} calls asked of an oracle with {self.left} of method.budget={self.budget} left"
            )
        self.calls += count
