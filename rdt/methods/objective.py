"""The clipped objective of importance-weighted policy gradients, one sampler step at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.methods.loss import Loss
from rdt.methods.rollouts import Part
from rdt.policy import Denoiser
from rdt.process import Process
from rdt.rollout import replayed
from rdt.transition import Transition


@dataclass(frozen=True)
class ClippedObjective:
    """- min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef KL(tuned || base) / dims."""

    process: Process
    tuned: Denoiser
    base: Denoiser
    clip: float
    kl_coef: float  # 0 does not run the base

    def losses(self, part: Part) -> Iterator[Loss]:
        """Of each trained step; the network is not run where there are no samples."""
        for i in part.steps:
            yield self.loss(part, i) if len(part.cond) else self.seen(*torch.zeros(4, 0).unbind(), part=part)

    def loss(self, part: Part, i: int) -> Loss:
        """At step i."""
        tuned, A = self.step(self.tuned, part, i), part.advantages[:, i]
        log_prob = tuned.log_prob(part.trajectory.latents[:, i + 1])
        since = log_prob - part.trajectory.log_probs[:, i]
        rho = (log_prob - log_prob.detach() if part.on_policy else since).exp()
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        kl = self.kl(tuned, part, i) if self.kl_coef else torch.zeros_like(gain)
        loss = self.kl_coef * kl / tuned.mean[0].numel() - gain
        return self.seen(loss, (since.exp() - 1).abs(), (gain < A * rho).float(), kl, part=part)

    def seen(self, loss: Tensor, error: Tensor, clipped: Tensor, kl: Tensor, *, part: Part) -> Loss:
        """With means over the steps: |rho - 1| by the stored log-probabilities, the clipped share, the rollout's KL."""
        means = {"ratio_error": error, "clipped": clipped} | ({"kl_nats": kl * part.acts} if self.kl_coef else {})
        return Loss(loss, {name: values / len(part.steps) for name, values in means.items()})

    def kl(self, tuned: Transition, part: Part, i: int) -> Tensor:
        """(B,) nats."""
        with torch.no_grad():
            base = self.step(self.base, part, i)
        return tuned.kl(base)

    def step(self, view: Denoiser, part: Part, i: int) -> Transition:
        """Step i of a view from the states of the rollout."""
        return replayed(view, self.process, part.cond, part.trajectory, i, part.etas[i])
