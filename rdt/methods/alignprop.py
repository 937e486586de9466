"""AlignProp: reward backpropagation with randomised truncation (Prabhudesai et al., arXiv 2310.03739).

DRaFT-K whose K is drawn anew for every rollout batch: uniform over the steps, or T - N(42, 5) of 50, which is
    K = T (1 - N(mean, std) / 50) on a grid of T steps,
rounded and held within 1 .. T. Departures: K = 0 is not drawn, since it has no gradient; the official code draws
anew at every step of a rollout, so that its truncation is seldom where it was meant; the plain reward is climbed.
"""

from typing import Any

import torch

from rdt.methods.base import Loss, named
from rdt.methods.direct import Direct
from rdt.randomness import generator
from rdt.stream import Batch

STEPS = 50  # of the sampler that mean and std are stated for


class AlignProp(Direct):
    """DRaFT with a random K."""

    def __init__(self, *, truncation: str, mean: float, std: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.draw = named("method.truncation", truncation, {"uniform": self.uniform, "gaussian": self.gaussian})
        self.mean, self.std = mean, std

    def training_step(self, batch: Batch, _: int) -> None:
        self.report(K=float(self.truncated()))
        super().training_step(batch, _)

    def loss(self, batch: Batch) -> Loss:
        tail = self.tail(batch, self.truncated())
        rewards = self.scores(tail.clean, tail.prompts)
        return Loss(-rewards, {"reward": rewards})

    def truncated(self) -> int:
        """K of this iteration, the same on every rank."""
        return self.draw(generator(self.seed, "truncation", self.iteration))

    def uniform(self, drawn: torch.Generator) -> int:
        """1 .. T alike."""
        return 1 + int(torch.randint(self.sampling.num_steps, (), generator=drawn))

    def gaussian(self, drawn: torch.Generator) -> int:
        """Around a short tail of the sampler."""
        steps, start = self.sampling.num_steps, self.mean + self.std * torch.randn((), generator=drawn).item()
        return min(max(round(steps * (1 - start / STEPS)), 1), steps)
