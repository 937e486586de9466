"""AlignProp: reward backpropagation with randomised truncation (Prabhudesai et al., arXiv 2310.03739).

AlignProp is DRaFT-K with a K drawn once per rollout batch, either uniform over the steps or T - N(42, 5) of 50, which
on a grid of T steps is
    K = T (1 - N(mean, std) / 50),
rounded and clamped to 1 .. T.

Departures: K = 0 is not drawn, since it has no gradient. The official code draws at every step of a rollout, so its
truncation is seldom at the step it drew. The plain reward is maximised.
"""

from typing import Any

import torch

from rdt.methods.base import Loss, named
from rdt.methods.direct import Direct
from rdt.randomness import generator
from rdt.stream import Batch

STEPS = 50  # of the sampler that mean and std are stated for


class AlignProp(Direct):
    """Train by DRaFT-K with a random K."""

    def __init__(self, *, truncation: str, mean: float, std: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.draw = named("method.truncation", truncation, {"uniform": self.uniform, "gaussian": self.gaussian})
        self.mean, self.std = mean, std

    def training_step(self, batch: Batch, _: int) -> None:
        self.log_train(K=float(self.truncation()))
        super().training_step(batch, _)

    def loss(self, batch: Batch) -> Loss:
        tail = self.tail(batch, self.truncation())
        rewards = self.scores(tail.clean, tail.prompts)
        return Loss(-rewards, {"reward": rewards})

    def truncation(self) -> int:
        """Return K of this iteration, the same on every rank."""
        return self.draw(generator(self.seed, "truncation", self.iteration))

    def uniform(self, stream: torch.Generator) -> int:
        """Return K drawn uniformly from 1 .. T."""
        return 1 + int(torch.randint(self.sampling.num_steps, (), generator=stream))

    def gaussian(self, stream: torch.Generator) -> int:
        """Return K drawn as T - N(mean, std) of 50 steps, scaled to this sampler's T."""
        steps, start = self.sampling.num_steps, self.mean + self.std * torch.randn((), generator=stream).item()
        return min(max(round(steps * (1 - start / STEPS)), 1), steps)
