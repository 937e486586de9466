"""DRaFT: direct reward fine-tuning (Clark et al., ICLR 2024, arXiv 2309.17400).

DRaFT-K maximises E[r(decode(x_T))] by its gradient through the last K sampling steps,
    x_{i+1} = mean(x_i) + std_i e_i,    i = T - K .. T - 1,    x_{T-K} held fixed.
K = T is full DRaFT; model.policy.checkpointing=true keeps its activations small.

DRaFT-LV is K = 1 with n more gradients per sample, each at the cost of one pass instead of T: x_T is detached, noised
again to the last time, and taken through the last step once more by the network itself.

Departures: the n + 1 gradients are averaged rather than summed, so that lr does not depend on n. The last step is that
of the model's own sampler, with its noise.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Direct, Tail
from rdt.stream import Batch


class Draft(Direct):
    """Train by DRaFT-K."""

    def __init__(self, *, K: int, **shared: Any) -> None:
        super().__init__(**shared)
        if not 1 <= K <= self.sampling.num_steps:
            raise ValueError(f"method.K={K} must be from 1 to model.sampling.num_steps={self.sampling.num_steps}")
        self.K = K

    def loss(self, batch: Batch) -> Loss:
        tail = self.tail(batch, self.K)
        return self.tail_loss(tail, self.scores(tail.clean, tail.prompts))

    def tail_loss(self, tail: Tail, rewards: Tensor) -> Loss:
        """Return the losses of the tail's samples, given their rewards (B,)."""
        return Loss(-rewards, {"reward": rewards})


class DraftLV(Draft):
    """Train by DRaFT-LV, DRaFT-1 whose gradient has a lower variance."""

    def __init__(self, *, repeats: int, **shared: Any) -> None:
        super().__init__(K=1, **shared)
        if repeats < 1:
            raise ValueError(f"method.repeats={repeats} must be at least 1; without repeats it is method=draft")
        self.repeats = repeats

    def tail_loss(self, tail: Tail, rewards: Tensor) -> Loss:
        repeated = [self.scores(self.last_step(tail, k), tail.prompts) for k in range(self.repeats)]
        return Loss(-torch.stack([rewards, *repeated]).mean(0), {"reward": rewards})

    def last_step(self, tail: Tail, k: int) -> Tensor:
        """Return the samples (B, *latent), noised to the last time and taken through the last step; k keys noise."""
        process, noise, (t, end) = self.policy.process, tail.noise, self.times[-2:]
        x = process.perturb(tail.clean.detach(), noise.like(tail.clean, f"again {k}"), t)
        output = self.guided(self.policy.tuned)(x, t, tail.cond)
        return process.transition(output, x, t, end, self.sampling.etas[-1]).sample(noise.like(x, f"last step {k}"))
