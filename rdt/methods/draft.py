"""DRaFT: direct reward fine-tuning (Clark et al., ICLR 2024, arXiv 2309.17400).

Maximises E[r(decode(x_T))] by its gradient through the last K sampling steps,
    x_{i+1} = mean(x_i) + std_i e_i,    i = T - K .. T - 1,    x_{T-K} held fixed;
K = T is full DRaFT, for which model.policy.checkpointing=true keeps the activations small. DRaFT-LV is K = 1 and, of
each sample, n more gradients that cost one pass instead of T: x_T, detached, is noised anew to the last time and taken
through the last step again, by the network itself. Departures: the n + 1 gradients are averaged rather than summed, so
that lr does not depend on n; the last step is that of the model's own sampler, with its noise.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Direct, Tail
from rdt.stream import Batch


class Draft(Direct):
    """DRaFT-K."""

    def __init__(self, *, K: int, **shared: Any) -> None:
        super().__init__(**shared)
        if not 1 <= K <= self.sampling.num_steps:
            raise ValueError(f"method.K={K} must be from 1 to model.sampling.num_steps={self.sampling.num_steps}")
        self.K = K

    def loss(self, batch: Batch) -> Loss:
        tail = self.tail(batch, self.K)
        return self.judged(tail, self.scores(tail.clean, tail.prompts))

    def judged(self, tail: Tail, rewards: Tensor) -> Loss:
        """What its samples lose by their rewards (B,)."""
        return Loss(-rewards, {"reward": rewards})


class DraftLV(Draft):
    """DRaFT-LV: DRaFT-1 with a gradient of lower variance."""

    def __init__(self, *, repeats: int, **shared: Any) -> None:
        super().__init__(K=1, **shared)
        if repeats < 1:
            raise ValueError(f"method.repeats={repeats} must be at least 1; without repeats it is method=draft")
        self.repeats = repeats

    def judged(self, tail: Tail, rewards: Tensor) -> Loss:
        again = [self.scores(self.again(tail, k), tail.prompts) for k in range(self.repeats)]
        return Loss(-torch.stack([rewards, *again]).mean(0), {"reward": rewards})

    def again(self, tail: Tail, k: int) -> Tensor:
        """The samples (B, *latent), noised to the last time and through the last step once more."""
        process, noise, (t, end) = self.policy.process, tail.noise, self.times[-2:]
        x = process.perturb(tail.clean.detach(), noise.like(tail.clean, f"again {k}"), t)
        output = self.guided(self.policy.tuned)(x, t, tail.cond)
        return process.transition(output, x, t, end, self.sampling.eta).sample(noise.like(x, f"last step {k}"))
