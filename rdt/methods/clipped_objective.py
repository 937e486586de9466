"""The clipped objective of importance-weighted policy gradients, one sampler step at a time.

`rdt.methods.policy_gradient` states its formula and where it departs from the papers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.methods.base import Loss
from rdt.process import Process, Transition
from rdt.rollout import Trajectory, replayed


@dataclass(frozen=True)
class MicroBatch:
    """Hold the B samples of one micro-batch that carry a training signal in this update."""

    cond: Cond
    trajectory: Trajectory
    advantages: Tensor  # (B, T)


@dataclass(frozen=True)
class ClippedObjective:
    """Compute the losses of one update at each trained step, whose sum over the steps is their mean of

    - min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef KL(tuned || base) / dims.
    """

    process: Process
    tuned: Denoiser
    base: Denoiser
    clip: float
    kl_coef: float  # 0 skips the base's passes
    etas: list[float]  # (T,) of the rollout
    steps: list[int]  # the trained ones
    stochastic_steps: int  # how many the rollout has
    on_policy: bool  # whether no update has been made since the rollout

    def losses(self, batch: MicroBatch) -> Iterator[Loss]:
        """Yield one Loss per trained step; with no samples the network is skipped."""
        for i in self.steps:
            yield self.loss(batch, i) if len(batch.advantages) else self._logged(*torch.zeros(4, 0).unbind())

    def loss(self, batch: MicroBatch, i: int) -> Loss:
        """Return the losses at step i, divided by the number of trained steps."""
        tuned, A = self._step(self.tuned, batch, i), batch.advantages[:, i]
        log_prob = tuned.log_prob(batch.trajectory.latents[:, i + 1])
        log_ratio = log_prob - batch.trajectory.log_probs[:, i]
        rho = (log_prob - log_prob.detach() if self.on_policy else log_ratio).exp()
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        kl = self._kl(tuned, batch, i) if self.kl_coef else torch.zeros_like(gain)
        loss = self.kl_coef * kl / tuned.mean[0].numel() - gain
        return self._logged(loss / len(self.steps), (log_ratio.exp() - 1).abs(), (gain < A * rho).float(), kl)

    def _logged(self, loss: Tensor, ratio_error: Tensor, clipped: Tensor, kl: Tensor) -> Loss:
        """Return the losses with their metrics.

        These are means over the steps: |rho - 1| by the stored log-probabilities, the share that was clipped, and the
        KL of a whole rollout.
        """
        means = {"ratio_error": ratio_error, "clipped": clipped}
        if self.kl_coef:
            means["kl_nats"] = kl * self.stochastic_steps
        return Loss(loss, {name: values / len(self.steps) for name, values in means.items()})

    def _kl(self, tuned: Transition, batch: MicroBatch, i: int) -> Tensor:
        """Return the KL to the base at step i in nats, shape (B,)."""
        with torch.no_grad():
            base = self._step(self.base, batch, i)
        return tuned.kl(base)

    def _step(self, view: Denoiser, batch: MicroBatch, i: int) -> Transition:
        """Return step i of a view from the rollout's states."""
        return replayed(view, self.process, batch.cond, batch.trajectory, i, self.etas[i])
