"""Soft best-of-N: of N images of a denoiser keep one, with a probability that rises with its reward.

Candidate j of N is kept with probability w_j = exp(r_j / alpha) / sum_k exp(r_k / alpha). As N grows, the kept images
follow p(x) exp(r(x) / alpha) / Z, the optimum of a reward whose KL to p costs alpha per nat. Their KL to p is at most
    E[sum_j w_j log(N w_j)] <= log N,
and log N - (N - 1) / N for alpha = 0, which keeps the best one (Beirami et al. 2401.01879). The draw is the argmax of
r_j / alpha + g_j, with the candidate's own Gumbel noise g_j. Candidate 0 has the sample's own noise: without a reward
(alpha infinite) the sample is the denoiser's, bit for bit.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored
from rdt.rollout import Rollout, Sampling, Selection, Trajectory, sampled


@dataclass(frozen=True)
class SoftBestOf(Selection):
    """Choose among N candidates of a denoiser; it costs N samples and N rewards per image."""

    denoiser: Denoiser
    reward: Reward
    count: int  # N
    alpha: float | None  # in units of the reward; None: infinite, so that candidate 0 is kept

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.denoiser(x, t, cond)

    @torch.no_grad()
    def select(self, policy: Policy, prompts: list[str], noise: Noise, sampling: Sampling) -> Rollout:
        """Return one rollout per prompt, with the bound on the KL to the denoiser's own samples."""
        first = sampled(policy, self.denoiser, prompts, noise, sampling)
        if self.alpha is None or self.count == 1:
            return replace(first, nats=first.clean.new_zeros(len(prompts)))
        logits = [self.logits(first.clean, policy, prompts)]
        kept, best = first.trajectory, self.perturbed(logits[0], noise)
        for k in range(1, self.count):
            own = replace(noise, purpose=f"{noise.purpose} candidate {k}")
            candidate = sampled(policy, self.denoiser, prompts, own, sampling)
            logits.append(self.logits(candidate.clean, policy, prompts))
            value = self.perturbed(logits[-1], own)
            kept, best = _merged(kept, candidate.trajectory, value > best), torch.maximum(best, value)
        return Rollout(prompts, noise, kept, self.nats(torch.stack(logits, 1)).to(first.clean.dtype))

    def logits(self, x0: Tensor, policy: Policy, prompts: list[str]) -> Tensor:
        """Return r / alpha, or r if alpha is 0, (B,) on the host; -inf for an image without a score."""
        parts = self.reward.parts(policy.decode(x0), prompts)
        Scored(self.reward.title, self.reward.missing, parts, prompts).check_finite("evaluation stops: ")
        scores = self.reward.total(parts).double().cpu()
        return scores.masked_fill(scores.isnan(), -torch.inf) / (self.alpha or 1)

    def perturbed(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return what the kept candidate is the largest of, (B,): the logits, with Gumbel noise unless alpha is 0."""
        return logits + gumbel(noise) if self.alpha else logits

    def nats(self, logits: Tensor) -> Tensor:
        """Return the bound on the KL in nats, (B, N) -> (B,)."""
        if self.alpha == 0:
            return logits.new_full((len(logits),), math.log(self.count) - (self.count - 1) / self.count)
        weights = logits.masked_fill(logits.isinf().all(1, keepdim=True), 0).softmax(1)
        return torch.special.xlogy(weights, self.count * weights).sum(1)


def gumbel(noise: Noise) -> Tensor:
    """Return a standard Gumbel draw for each sample of the noise, (B,) in double precision on the host."""
    normal = replace(noise, device="cpu").like(torch.empty(1, 1), "gumbel").squeeze(1).double()
    return -torch.special.log_ndtr(normal).neg().log()


def _merged(kept: Trajectory, other: Trajectory, chosen: Tensor) -> Trajectory:
    """Return the other trajectory's samples where they are chosen, (B,) bool, the kept ones elsewhere."""
    rows = chosen.to(kept.latents.device)
    latents = torch.where(rows.view(-1, *[1] * (kept.latents.ndim - 1)), other.latents, kept.latents)
    return Trajectory(latents, torch.where(rows[:, None], other.log_probs, kept.log_probs), kept.times)
