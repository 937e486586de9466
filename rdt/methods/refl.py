"""ReFL: reward feedback learning (Xu et al., NeurIPS 2023, arXiv 2304.05977).

ReFL samples without gradient up to a random step m of the last quarter (30 .. 39 of 40), drawn once per rollout batch,
and takes one prediction with gradient there: x0 = x0_hat(x_m) by Tweedie, with the network run at the time t_m of x_m
(the ReFL in SQDF's code is off by one). The loss is -r, or with a margin the paper's loss for ImageReward,
    weight relu(margin - r),    weight 1e-3, margin 2.

Departure: the paper's pre-training loss is left out, since there are no images to train on.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Direct
from rdt.randomness import generator
from rdt.rollout import Rollout, conditioned
from rdt.stream import Batch


class ReFL(Direct):
    """Train by the reward of one predicted clean image, taken from a late step."""

    def __init__(self, *, margin: float | None, weight: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.margin, self.weight = margin, weight

    def loss(self, batch: Batch) -> Loss:
        m = self.stop()
        rollout = self.sample(batch, stop=m)
        rewards = self.scores(self.prediction(rollout, m), rollout.prompts)
        return Loss(self.reward_loss(rewards), {"reward": rewards})

    def stop(self) -> int:
        """Return the step m of this iteration, the same on every rank."""
        steps = self.sampling.num_steps
        return int(torch.randint(3 * steps // 4, steps, (), generator=generator(self.seed, "stop", self.iteration)))

    def prediction(self, rollout: Rollout, m: int) -> Tensor:
        """Return x0_hat (B, *latent) of the state that a rollout of m steps stopped at; differentiable."""
        x, t = rollout.clean, self.times[m]
        cond = conditioned(self.policy, rollout.prompts, rollout.noise)
        return self.policy.process.clean(self.guided(self.policy.tuned)(x, t, cond), x, t)

    def reward_loss(self, rewards: Tensor) -> Tensor:
        """Return the losses, shape (B,), of rewards (B,)."""
        return -rewards if self.margin is None else self.weight * (self.margin - rewards).relu()
