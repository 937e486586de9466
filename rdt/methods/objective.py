"""The clipped objective of importance-weighted policy gradients, one sampler step at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rdt.methods.rollouts import Part
from rdt.policy import Denoiser
from rdt.process import Process
from rdt.rollout import replayed
from rdt.transition import Transition


@dataclass
class ClippedObjective:
    """- min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef KL(tuned || base) / dims, and what it saw on its way."""

    process: Process
    tuned: Denoiser
    base: Denoiser
    clip: float
    kl_coef: float  # 0 does not run the base
    _seen: list[Tensor] = field(default_factory=list)

    def losses(self, part: Part, trained: list[Tensor]) -> Iterator[Tensor]:
        """Of each trained step; a rank without samples goes backward as often as the others, by 0."""
        for i in part.steps:
            yield self.loss(part, i) if len(part.cond) else torch.stack([0 * w.sum() for w in trained]).sum()

    def loss(self, part: Part, i: int) -> Tensor:
        """At step i, in the weight of the part's samples."""
        tuned, A = self.step(self.tuned, part, i), part.advantages[:, i]
        log_prob = tuned.log_prob(part.trajectory.latents[:, i + 1])
        since = log_prob - part.trajectory.log_probs[:, i]
        rho = (log_prob - log_prob.detach() if part.on_policy else since).exp()
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        kl = self.kl(tuned, part, i) if self.kl_coef else torch.zeros_like(gain)
        self._seen.append(torch.stack([(since.exp() - 1).abs(), (gain < A * rho).float(), kl]).detach().sum(1))
        return part.weight * (self.kl_coef * kl / tuned.mean[0].numel() - gain).sum()

    def kl(self, tuned: Transition, part: Part, i: int) -> Tensor:
        """(B,) nats."""
        with torch.no_grad():
            base = self.step(self.base, part, i)
        return tuned.kl(base)

    def step(self, view: Denoiser, part: Part, i: int) -> Transition:
        """Step i of a view from the states of the rollout."""
        return replayed(view, self.process, part.cond, part.trajectory, i, part.etas[i])

    def seen(self) -> Tensor:
        """(3,) summed over samples and steps: |rho - 1| by the stored log-probabilities, clipped, KL in nats."""
        return torch.stack(self._seen).sum(0) if self._seen else torch.zeros(3)
