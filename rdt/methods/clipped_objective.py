"""The clipped objective of importance-weighted policy gradients, one sampler step at a time.

`rdt.methods.policy_gradient` states its formula and where it departs from the papers.
"""

from collections.abc import Callable, Iterator
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
    held: Tensor  # (B,) bool, whether the KL is charged

    def __getitem__(self, rows: Tensor) -> "MicroBatch":
        return MicroBatch(self.cond[rows], self.trajectory[rows], self.advantages[rows], self.held[rows])


Score = Callable[[Transition, MicroBatch, int], tuple[Tensor, Tensor]]  # -> (B,) with gradient, and less its old value


def log_density(tuned: Transition, batch: MicroBatch, i: int) -> tuple[Tensor, Tensor]:
    """Return the log-probability of the rollout's step i, and how much it has changed."""
    log_prob = tuned.log_prob(batch.trajectory.latents[:, i + 1])
    return log_prob, log_prob - batch.trajectory.log_probs[:, i]


def guarded(tuned: Transition, batch: MicroBatch, i: int) -> tuple[Tensor, Tensor]:
    """Return (m - m_old) . e / dims, which is its own change, e being the noise that the rollout drew at step i.

    It is std (log rho + ||m - m_old||^2 / (2 std^2 dims)), and m_old is x_{i+1} - std e. ValueError without the noise.
    """
    if batch.cond.noise is None:
        raise ValueError("the micro-batch does not know the noise of its rollout, which method.ratio=guard draws again")
    drawn = batch.cond.noise.step(i)
    old = batch.trajectory.latents[:, i + 1] - tuned.std * drawn
    score = ((tuned.mean - old) * drawn).flatten(1).mean(1)
    return score, score


RATIOS: dict[str, Score] = {"plain": log_density, "guard": guarded}


@dataclass(frozen=True)
class Penalty:
    """Say how a KL to a reference is charged."""

    coef: float  # per mean over latent dimensions; 0 skips the reference's passes
    steps: frozenset[int]  # the steps at which it is
    divided: bool  # whether ||m - m_ref||^2 / 2 is divided by the step's variance, as a KL is

    def charge(self, ours: Transition, reference: Transition) -> Tensor:
        """Return what is charged before the coefficient, (B,), summed over latent dimensions."""
        if self.divided:
            return ours.kl(reference)
        return (ours.mean - reference.mean).square().flatten(1).sum(1) / 2


@dataclass(frozen=True)
class ClippedObjective:
    """Compute the losses of one update at each trained step, whose sum over the steps is their mean of

    - min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef KL(tuned || base) / dims.
    """

    process: Process
    tuned: Denoiser
    base: Denoiser  # or another reference
    clip: float
    penalty: Penalty
    etas: list[float]  # (T,) of the rollout
    weights: dict[int, float]  # of the advantages, by trained step
    logged_steps: float  # what a step's mean KL over all samples is multiplied by in the log: the KL of a rollout
    on_policy: bool  # whether no update has been made since the rollout
    score: Score = log_density

    @property
    def charges(self) -> bool:
        """Return whether a KL is charged at any trained step."""
        return bool(self.penalty.coef and self.penalty.steps & self.weights.keys())

    def losses(self, batch: MicroBatch) -> Iterator[Loss]:
        """Yield one Loss per trained step; with no samples the network is skipped."""
        for i in self.weights:
            yield self.loss(batch, i) if len(batch.advantages) else self._logged(*torch.zeros(4, 0).unbind())

    def loss(self, batch: MicroBatch, i: int) -> Loss:
        """Return the losses at step i, divided by the number of trained steps."""
        tuned, A = self._step(self.tuned, batch, i), batch.advantages[:, i] * self.weights[i]
        score, log_ratio = self.score(tuned, batch, i)
        rho = (score - score.detach() if self.on_policy else log_ratio).exp()
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        charge, kl = self._charged(tuned, batch, i)
        loss = self.penalty.coef * charge / tuned.mean[0].numel() - gain
        return self._logged(loss / len(self.weights), (log_ratio.exp() - 1).abs(), (gain < A * rho).float(), kl)

    def _logged(self, loss: Tensor, ratio_error: Tensor, clipped: Tensor, kl: Tensor) -> Loss:
        """Return the losses with their metrics.

        These are means over the steps: |rho - 1| by the stored log-probabilities, the share that was clipped, and the
        KL of a whole rollout at the steps at which it is charged.
        """
        means = {"ratio_error": ratio_error, "clipped": clipped}
        if self.charges:
            means["kl_nats"] = kl * self.logged_steps
        return Loss(loss, {name: values / len(self.weights) for name, values in means.items()})

    def _charged(self, tuned: Transition, batch: MicroBatch, i: int) -> tuple[Tensor, Tensor]:
        """Return what is charged at step i and the KL in nats, (B,) each; the reference runs on held samples alone."""
        none = batch.advantages.new_zeros(len(batch.advantages))
        rows = batch.held.nonzero().squeeze(1) if self.penalty.coef and i in self.penalty.steps else none[:0].long()
        if not len(rows):
            return none, none
        with torch.no_grad():
            reference = self._step(self.base, batch[rows], i)
        ours = tuned[rows]
        charge, kl = self.penalty.charge(ours, reference), ours.kl(reference).detach()
        return none.to(charge).index_copy(0, rows, charge), none.to(kl).index_copy(0, rows, kl)

    def _step(self, view: Denoiser, batch: MicroBatch, i: int) -> Transition:
        """Return step i of a view from the rollout's states."""
        return replayed(view, self.process, batch.cond, batch.trajectory, i, self.etas[i])
