"""ReFL: reward feedback learning (Xu et al., NeurIPS 2023, arXiv 2304.05977).

Samples without gradient to a random step m of the last quarter (30 .. 39 of 40), drawn once per rollout batch, and
takes one prediction with gradient there: x0 = x0_hat(x_m) by Tweedie, with the network run at the time t_m that x_m
belongs to (SQDF's ReFL is off by one). The loss is -r, or with a margin the paper's for ImageReward,
    weight relu(margin - r),    weight 1e-3, margin 2.
Departure: the paper's pre-training loss beside it is left out, there being no images to train on.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Direct
from rdt.randomness import generator
from rdt.stream import Batch


class ReFL(Direct):
    """One prediction of the clean image from a late step."""

    def __init__(self, *, margin: float | None, weight: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.margin, self.weight = margin, weight

    def loss(self, batch: Batch) -> Loss:
        rewards = self.scores(self.predicted(batch, self.stop()), self.prompts(batch))
        return Loss(self.lost(rewards), {"reward": rewards})

    def stop(self) -> int:
        """The step m of this iteration, the same on every rank."""
        steps = self.sampling.num_steps
        return int(torch.randint(3 * steps // 4, steps, (), generator=generator(self.seed, "stop", self.iteration)))

    def predicted(self, batch: Batch, m: int) -> Tensor:
        """x0_hat (B, *latent) of the state before step m, differentiable: m + 1 passes."""
        x, t, cond = self.sample(batch, stop=m).clean, self.times[m], self.policy.encode(self.prompts(batch))
        return self.policy.process.clean(self.guided(self.policy.tuned)(x, t, cond), x, t)

    def lost(self, rewards: Tensor) -> Tensor:
        """(B,)."""
        return -rewards if self.margin is None else self.weight * (self.margin - rewards).relu()
