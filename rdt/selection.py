"""Soft best-of-N: of N images of a denoiser keep one, with a probability that rises with its reward.

Candidate j of N is kept with probability w_j = exp(r_j / alpha) / sum_k exp(r_k / alpha). As N grows, the kept images
follow p(x) exp(r(x) / alpha) / Z, the optimum of a reward whose KL to p costs alpha per nat. Their KL to p is at most
    E[sum_j w_j log(N w_j)] <= log N,
and log N - (N - 1) / N for alpha = 0, which keeps the best one (Beirami et al. 2401.01879). The draw is the argmax of
r_j / alpha + g_j, with the candidate's own Gumbel noise g_j. Candidate 0 has the sample's own noise: without a reward
(alpha infinite) the sample is the denoiser's, bit for bit.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored
from rdt.rollout import Rollout, Sampling, Selection, Trajectory, sampled


@dataclass(frozen=True)
class Drawn:
    """Hold the candidates of B samples so far: which are kept, what they are the largest of, and all their logits."""

    key: tuple[list[str], Noise, float | None]  # what they were drawn for: prompts, noise and alpha
    kept: Trajectory
    best: Tensor  # (B,)
    logits: list[Tensor]  # N of (B,)


@dataclass
class LastDrawn:
    """Remembers the candidates of one batch, so that a choice among more of them continues there, bit for bit.

    The reward must be the same; the points of a curve share one of these.
    """

    drawn: Drawn | None = None

    def before(self, count: int, key: tuple[list[str], Noise, float | None]) -> Drawn | None:
        """Return what was drawn for the key if that is fewer than `count` candidates."""
        fits = self.drawn is not None and self.drawn.key == key and len(self.drawn.logits) < count
        return self.drawn if fits else None


@dataclass(frozen=True)
class SoftBestOf(Selection):
    """Choose among N candidates of a denoiser; it costs N samples and N rewards per image, less those remembered."""

    denoiser: Denoiser
    reward: Reward
    count: int  # N
    alpha: float | None  # in units of the reward; None: infinite, so that candidate 0 is kept
    last: LastDrawn = field(default_factory=LastDrawn)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.denoiser(x, t, cond)

    @torch.no_grad()
    def select(self, policy: Policy, prompts: list[str], noise: Noise, sampling: Sampling) -> Rollout:
        """Return one rollout per prompt, with the bound on the KL to the denoiser's own samples."""
        if self.alpha is None or self.count == 1:
            first = sampled(policy, self.denoiser, prompts, noise, sampling)
            return replace(first, nats=first.clean.new_zeros(len(prompts)))
        key = (list(prompts), replace(noise, indices=list(noise.indices)), self.alpha)
        drawn = self.last.before(self.count, key)
        while drawn is None or len(drawn.logits) < self.count:
            k = len(drawn.logits) if drawn else 0
            own = replace(noise, purpose=f"{noise.purpose} candidate {k}") if k else noise
            candidate = sampled(policy, self.denoiser, prompts, own, sampling).trajectory
            logits = self.logits(candidate.clean, policy, prompts)
            drawn = self.last.drawn = _extended(key, drawn, candidate, logits, self.perturbed(logits, own))
        nats = self.nats(torch.stack(drawn.logits, 1)).to(drawn.kept.clean.dtype)
        return Rollout(prompts, noise, drawn.kept, nats)

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


def _extended(
    key: tuple[list[str], Noise, float | None], drawn: Drawn | None, candidate: Trajectory, logits: Tensor,
    value: Tensor,
) -> Drawn:  # fmt: skip
    """Return the candidates with one more, given its logits and what the kept one is the largest of, both (B,)."""
    if drawn is None:
        return Drawn(key, candidate, value, [logits])
    kept = _merged(drawn.kept, candidate, value > drawn.best)
    return Drawn(key, kept, torch.maximum(drawn.best, value), [*drawn.logits, logits])


def _merged(kept: Trajectory, other: Trajectory, chosen: Tensor) -> Trajectory:
    """Return the other trajectory's samples where they are chosen, (B,) bool, the kept ones elsewhere."""
    rows = chosen.to(kept.latents.device)
    latents = torch.where(rows.view(-1, *[1] * (kept.latents.ndim - 1)), other.latents, kept.latents)
    return Trajectory(latents, torch.where(rows[:, None], other.log_probs, kept.log_probs), kept.times)
